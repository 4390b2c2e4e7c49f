"""The real process of sync: forked, over a root of its own, with a net that the test plays."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from clusterd.logs import Log
from clusterd.messages.links import LinkInfo, LinkUp, NetHello, NetToSync, PeerRequest, Reply, SyncHello, SyncToNet
from clusterd.rundir import STATE, board_path, run_dir, sync_socket
from clusterd.settings import Settings
from clusterd.supervisor.sweep import SPOOL
from clusterd.sync import process
from ipc.arena import Arena
from ipc.board import Board
from ipc.codec import Decoder, encode
from tests.fakes.forks import die_with_parent
from tests.net.harness import master_settings
from tools.rig.guard import guarded
from tools.rig.patience import Patience

M = TypeVar("M")
INCARNATION = 7
PROGRAM = LinkInfo(1, "local", "1", uid=os.getuid())
WORKER = LinkInfo(2, "worker", "w1", "worker", "4.14.1")


class FakeNet:
    """The other end of sync's channel, blocking."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.root
        self._decoder: Decoder[SyncToNet] = Decoder(SyncToNet)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, process.NET)
        self._socket.set(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{sync_socket(settings.root)}")
        self._unread: list[bytes] = []

    def send(self, *messages: NetToSync) -> None:
        self._socket.send_multipart([encode(message) for message in messages])

    def next(self, timeout_ms: int = 1000) -> SyncToNet | None:
        if not self._unread and self._socket.poll(timeout_ms):
            self._unread += self._socket.recv_multipart()
        return self._decoder.decode(self._unread.pop(0)) if self._unread else None

    def expect(self, kind: type[M]) -> M:
        """Returns the next message of this kind; discards others."""
        patience = Patience(60)
        while not isinstance(message := self.next(), kind):
            assert not patience.is_over(), f"sync sent no {kind.__name__}"
        return message

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@pytest.fixture
def net() -> Iterator[FakeNet]:
    """Like a net beside a sync process that has just started."""
    with guarded("sync-", "/tmp") as base:
        settings = master_settings(str(base))
        for directory in ("logs", "etc", "queue/db", SPOOL, STATE, os.path.relpath(run_dir(settings.root), base)):
            os.makedirs(base / directory, exist_ok=True)
        arena, board = Arena(2, 2), Board.create(board_path(settings.root))
        for name in ("sync", "net", "pool-0", "pool-1"):
            board.add_row(name)
        board.row("sync").begin(0, INCARNATION)
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            status = 1
            try:
                os.closerange(3, 4096)
                status = process.run(settings, arena, board, Log(f"{settings.root}/logs/cluster.log", 1), 1)
            finally:
                os._exit(status)
        made = FakeNet(settings)
        try:
            yield made
        finally:
            made.close()
            os.kill(pid, signal.SIGTERM)
            _, status = os.waitpid(pid, 0)
            board.close()
            arena.close()
        assert os.waitstatus_to_exitcode(status) == 0


def test_sync_says_hello_until_net_answers_this_very_life(net: FakeNet) -> None:
    """A net's unasked hello may have been meant for the sync process before. That net takes this one for dead as well,
    and tells it nothing more."""
    for answered in (0, INCARNATION - 1):
        net.send(NetHello(3, [PROGRAM], [], [], sync=answered), PeerRequest(PROGRAM.link, 1, "nonsense", b""))
        net.expect(Reply)  # believed all the same: a net that holds links has told of them
        net.expect(SyncHello)
        net.expect(SyncHello)
    net.send(NetHello(3, [PROGRAM], [], [], sync=INCARNATION), PeerRequest(PROGRAM.link, 2, "nonsense", b""))
    net.expect(Reply)
    assert net.next(2000) is None


def test_hello_that_tells_nothing_new_leaves_requests_and_links_as_they_are(net: FakeNet) -> None:
    """A worker sends a request just when net and sync agree. Sync reads the request together with the answer to its own
    hello; if it has sent two hellos, net answers twice."""
    net.send(NetHello(3, [], [], []), LinkUp(WORKER))
    answered = NetHello(3, [WORKER], [], [], sync=INCARNATION, goes_on=True)
    for serial in range(1, 4):
        net.send(PeerRequest(WORKER.link, serial, "syn_i_w_m_p", b""), answered)
        assert net.expect(Reply).serial == serial


def test_new_net_hears_a_hello_before_anything_else(net: FakeNet) -> None:
    """It ignores what comes before: that is for the net before it."""
    net.send(NetHello(3, [PROGRAM], [], [], sync=INCARNATION), PeerRequest(PROGRAM.link, 1, "nonsense", b""))
    net.expect(Reply)
    program = LinkInfo(2, "local", "2", uid=os.getuid())
    net.send(NetHello(4, [program], [], []), PeerRequest(program.link, 2, "nonsense", b""))
    heard = [net.next(), net.next()]
    assert [type(message) for message in heard] == [SyncHello, Reply], heard


def test_files_that_jobs_of_an_earlier_sync_have_made_since_are_removed(net: FakeNet) -> None:
    net.expect(SyncHello)
    late = Path(net.root, SPOOL, f"{INCARNATION - 1}-1-part")
    late.write_bytes(b"a package that nobody waits for")
    net.send(NetHello(3, [PROGRAM], [], []), PeerRequest(PROGRAM.link, 1, "nonsense", b""))
    net.expect(Reply)
    assert not late.exists()


def test_first_hello_that_sync_reads_is_believed_even_if_it_goes_on(net: FakeNet) -> None:
    """Another sync process has read the hello before, or another net has sent it."""
    for incarnation in (3, 4):
        net.send(
            NetHello(incarnation, [PROGRAM], [], [], sync=INCARNATION, goes_on=True),
            PeerRequest(PROGRAM.link, incarnation, "nonsense", b""),
        )
        assert net.expect(Reply).serial == incarnation

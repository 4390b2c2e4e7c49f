"""The real process of sync: forked, over a root of its own, with a net that the test plays."""

import os
import signal
import time
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
from clusterd.sync.ports import net_queue
from clusterd.wire.transfer import Strings
from ipc import channel
from ipc.arena import Arena
from ipc.board import Board
from ipc.codec import Decoder, encode
from tests.fakes.forks import die_with_parent
from tests.net.harness import master_settings, wait_until
from tools.rig.guard import guarded
from tools.rig.patience import Patience

M = TypeVar("M")
INCARNATION = 7
QUICK_HEARTBEAT_S = 0.05
PROGRAM = LinkInfo(1, "local", "1", uid=os.getuid())
WORKER = LinkInfo(2, "worker", "w1", "worker", "4.14.1")


class FakeNet:
    """The other end of sync's channel, blocking."""

    def __init__(self, settings: Settings, board: Board) -> None:
        self.root = settings.root
        self._settings = settings
        self.board = board
        self._decoder: Decoder[SyncToNet] = Decoder(SyncToNet)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, net_queue.NET)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, process.HWM)
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

    def successor(self) -> "FakeNet":
        """The next life of net, while this one is still connected: sync has not noticed its end."""
        return FakeNet(self._settings, self.board)

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@pytest.fixture
def small_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a sync process that is forked after this: its channels hold two messages, and a send waits for 0.1 s."""
    monkeypatch.setattr(process, "HWM", 2)
    monkeypatch.setattr(channel, "SEND_TIMEOUT_S", 0.1)


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a sync process that is forked after this."""
    monkeypatch.setattr(process, "HEARTBEAT_S", QUICK_HEARTBEAT_S)


@pytest.fixture
def strings_idle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same."""
    monkeypatch.setattr(Strings, "expire", lambda strings, now: strings.take_all())


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
        made = FakeNet(settings, board)
        try:
            yield made
        finally:
            made.close()
            os.kill(pid, signal.SIGTERM)
            _, status = os.waitpid(pid, 0)
            board.close()
            arena.close()
        assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.usefixtures("quick_heartbeat")
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
    assert net.next(int(10_000 * QUICK_HEARTBEAT_S)) is None


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


@pytest.mark.usefixtures("strings_idle_at_once", "quick_heartbeat")
def test_strings_that_are_not_used_are_removed_though_their_link_says_nothing_more(net: FakeNet) -> None:
    net.send(NetHello(3, [], [], []), LinkUp(WORKER), PeerRequest(WORKER.link, 1, "new_str", b"200000000"))
    assert net.expect(Reply).command == "ok"
    wait_until(lambda: not list(Path(net.root, SPOOL).iterdir()), "its file is gone")


def test_first_hello_that_sync_reads_is_believed_even_if_it_goes_on(net: FakeNet) -> None:
    """Another sync process has read the hello before, or another net has sent it."""
    for incarnation in (3, 4):
        net.send(
            NetHello(incarnation, [PROGRAM], [], [], sync=INCARNATION, goes_on=True),
            PeerRequest(PROGRAM.link, incarnation, "nonsense", b""),
        )
        assert net.expect(Reply).serial == incarnation


WORD = "x" * 3000
"""A command that nobody knows; the refusal names it."""


def fill(net: FakeNet) -> int:
    """Has sync answer more than its channel takes, with nobody reading, for a few times what a send waits. Returns how
    many requests there were."""
    count = 300
    for serial in range(1, count + 1):
        net.send(PeerRequest(PROGRAM.link, serial, WORD))
    row, patience = net.board.row("sync"), Patience(60)
    for _ in range(3):
        before = row.snapshot().heartbeat_ns
        while row.snapshot().heartbeat_ns == before:
            assert not patience.is_over(), "sync lives no more"
            time.sleep(0.02)
    return count


@pytest.mark.usefixtures("small_queues")
def test_net_that_takes_nothing_for_long_gets_every_message_when_it_goes_on(net: FakeNet) -> None:
    net.board.row("net").begin(0, 3)
    net.send(NetHello(3, [PROGRAM], [], [], sync=INCARNATION))
    count = fill(net)
    assert [net.expect(Reply).serial for _ in range(count)] == [*range(1, count + 1)]


@pytest.mark.usefixtures("small_queues")
def test_net_that_follows_one_that_took_nothing_gets_nothing_that_was_for_it(net: FakeNet) -> None:
    """It would answer requests of its own links with that, by their numbers."""
    net.board.row("net").begin(0, 3)
    net.send(NetHello(3, [PROGRAM], [], [], sync=INCARNATION))
    fill(net)
    net.board.row("net").begin(0, 4)
    after = net.successor()
    try:
        after.send(NetHello(4, [PROGRAM], [], []))
        after.expect(SyncHello)  # what comes before it is not read
        after.send(NetHello(4, [PROGRAM], [], [], sync=INCARNATION, goes_on=True))
        after.send(PeerRequest(PROGRAM.link, 4000, "nonsense"))
        assert after.expect(Reply).serial == 4000
    finally:
        after.close()

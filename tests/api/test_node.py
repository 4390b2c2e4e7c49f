"""The node as the api process asks it: if it is gone, silent, or answers nonsense, the caller gets an error in time."""

import asyncio
import contextlib
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.api import node as under_test
from clusterd.api.node import LocalNode
from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.wire.results import WireResult, dump_json, encode_failure

HEADER = struct.Struct("!2I12s")
QUEUED = b"Added request to API requests queue"
Talk = Callable[[socket.socket], None]


@pytest.fixture
def root() -> Iterator[Path]:
    """The sockets are not below tmp_path, because socket paths may have 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="api-"))
    Path(local_socket(str(made))).parent.mkdir(parents=True)
    yield made
    shutil.rmtree(made)


class Serving:
    """A local socket. `talk` serves each client in a thread; when it returns the connection ends."""

    def __init__(self, root: Path, talk: Talk) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(local_socket(str(root)))
        self._listening.listen(64)
        self._talk = talk
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[link])
            self._threads.append(thread)
            thread.start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            link.settimeout(60)
            self._talk(link)

    def __enter__(self) -> None:
        self._threads[0].start()

    def __exit__(self, *reason: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in list(self._threads):
            thread.join(60)
            assert not thread.is_alive()


def tell(link: socket.socket, counter: int, command: str, payload: bytes) -> None:
    link.sendall(HEADER.pack(counter, len(payload), f"{command} ".ljust(12, "-").encode()) + payload)


def hear(link: socket.socket) -> tuple[int, bytes]:
    """Returns counter and payload of the next message."""
    counter, length, _ = HEADER.unpack(link.recv(HEADER.size, socket.MSG_WAITALL))
    return counter, link.recv(length, socket.MSG_WAITALL) if length else b""


def until_closed(link: socket.socket) -> None:
    while link.recv(65536):
        pass


def hang_up(link: socket.socket) -> None:
    return


def hang_up_later(link: socket.socket) -> None:
    tell(link, hear(link)[0], "ok", QUEUED)


def accept_only(link: socket.socket) -> None:
    tell(link, hear(link)[0], "ok", QUEUED)
    until_closed(link)


def nonsense(link: socket.socket) -> None:
    hear(link)
    link.sendall(b"\xff" * 400)
    until_closed(link)


def refuse(link: socket.socket) -> None:
    tell(link, hear(link)[0], "err", encode_failure(ClusterError(3023)))
    until_closed(link)


def no_result(link: socket.socket) -> None:
    answer = b"[1, 2]"
    tell(link, hear(link)[0], "ok", QUEUED)
    tell(link, 7, "new_str", str(len(answer)).encode())
    name = hear(link)[1]
    tell(link, 8, "str_upd", name + b" " + answer)
    hear(link)
    tell(link, 9, "dapi_res", name)
    until_closed(link)


def ask(root: Path, timeout_s: float = 0.5) -> int:
    """Returns the code with which the request fails."""
    try:
        asyncio.run(LocalNode(str(root)).ask(b"{}", timeout_s=timeout_s))
    except ClusterError as failure:
        return failure.code
    return 0


@pytest.mark.parametrize(
    ("talk", "code"),
    [
        (hang_up, 3012),
        (hang_up_later, 3012),
        (until_closed, 3020),
        (accept_only, 3020),
        (nonsense, 3009),
        (refuse, 3023),
        (no_result, 3036),
    ],
    ids=["hangs up", "hangs up later", "silent", "accepts only", "nonsense", "refuses", "no result"],
)
def test_whatever_the_node_does_is_an_error_in_time(root: Path, talk: Talk, code: int) -> None:
    with Serving(root, talk):
        began = time.monotonic()
        assert ask(root) == code
        assert time.monotonic() - began < 60


def test_a_node_that_is_not_there_is_3012(root: Path) -> None:
    assert ask(root) == 3012


def test_questions_beyond_the_bound_wait_for_a_turn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MOST_QUESTIONS", 3)
    lock, counts = threading.Lock(), [0, 0]

    def held(link: socket.socket) -> None:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        until_closed(link)
        with lock:
            counts[0] -= 1

    async def ask_many() -> list[object]:
        node = LocalNode(str(root))
        return list(await asyncio.gather(*(node.ask(b"{}", timeout_s=0.4) for _ in range(12)), return_exceptions=True))

    with Serving(root, held):
        answers = asyncio.run(ask_many())
    assert [answer.code for answer in answers if isinstance(answer, ClusterError)] == [3020] * 12
    assert counts[1] <= 4


@pytest.mark.slow
def test_a_page_of_100_000_agents_is_an_answer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest page that the door offers: at some 740 bytes for each agent it has more than 64 MiB."""
    head, tail = dump_json(WireResult("WazuhResult", {"str_priority": None, "result": {"data": "-"}})).split(b"-")
    encoded = head + b"x" * (70 << 20) + tail

    async def conversed(node: LocalNode, command: str, payload: bytes, timeout_s: float) -> bytes:
        return encoded

    monkeypatch.setattr(LocalNode, "_converse", conversed)
    answer = asyncio.run(LocalNode(str(root)).ask(b"{}", timeout_s=1))
    assert len(answer.fields["result"]["data"]) == 70 << 20

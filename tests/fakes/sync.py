"""A sync process controlled by the test: the other end of net's channel, blocking, in the test's own process."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import zmq

from clusterd.messages.links import LinkInfo, LinkUp, NetHello, NetToSync, PeerRequest, Reply, SyncHello, SyncToNet
from clusterd.rundir import sync_socket
from ipc.codec import Decoder, encode
from tools.rig.patience import Patience

M = TypeVar("M")
NET = b"net"


class FakeSync:
    """Receives what net sends, in order; `expect` takes the next message of a type and keeps the others.

    `answer_with` passes every request to a function instead, in a thread, until `close`."""

    def __init__(self, root: str, incarnation: int = 1) -> None:
        self.incarnation = incarnation
        self.received: list[NetToSync] = []
        self._decoder: Decoder[NetToSync] = Decoder(NetToSync)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(f"ipc://{sync_socket(root)}")
        self._unread: list[bytes] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- scripted ----------------------------------------------------------------------------------------------------

    def send(self, message: SyncToNet, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.send_multipart([NET, encode(message)], zmq.NOBLOCK)
                return
            except zmq.ZMQError as problem:
                if problem.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)

    def hello(self) -> NetHello:
        """Acts like a new sync: says hello until net answers, and ignores everything that arrived before the answer.

        A net that starts says hello by itself, so the last hello counts."""
        found = None
        patience = Patience(60)
        while found is None:
            assert not patience.is_over(), "net did not say hello"
            self.send(SyncHello(self.incarnation))
            while (message := self._receive(0.5 if found is None else 0.02)) is not None:
                if isinstance(message, NetHello):
                    found = message
                elif found is not None:
                    self.received.append(message)
        return found

    def expect(self, kind: type[M], matches: Callable[[M], bool] = lambda _: True, timeout_s: float = 60.0) -> M:
        """Returns the next message of this type for which `matches` holds."""
        deadline = time.monotonic() + timeout_s
        while True:
            for place, message in enumerate(self.received):
                if isinstance(message, kind) and matches(message):
                    del self.received[place]
                    return message
            message = self._receive(deadline - time.monotonic())
            if message is None:
                raise AssertionError(f"net sent no such {kind.__name__}; it sent {self.received}")
            self.received.append(message)

    def link(self, name: str = "", kind: str = "worker") -> LinkInfo:
        """Returns the next link that came up, with this name if one is given."""
        return self.expect(LinkUp, lambda up: up.info.kind == kind and name in ("", up.info.name)).info

    def quiet(self, kind: type[M], seconds: float = 0.2) -> bool:
        """Returns whether no message of this type arrives for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message = self._receive(left)
            if message is not None:
                self.received.append(message)
        return not any(isinstance(message, kind) for message in self.received)

    def _receive(self, timeout_s: float) -> NetToSync | None:
        if not self._unread:
            if not self._socket.poll(max(0, int(timeout_s * 1000))):
                return None
            self._unread += self._socket.recv_multipart()[1:]
        return self._decoder.decode(self._unread.pop(0))

    # ---- by itself ---------------------------------------------------------------------------------------------------

    def answer_with(self, answer: Callable[[PeerRequest], Reply | None]) -> None:
        """Answers requests in a thread from now on; other messages are kept in `received`."""

        earlier, self.received = self.received, []

        def work() -> None:
            while not self._stop.is_set():
                message = earlier.pop(0) if earlier else self._receive(0.05)
                if isinstance(message, PeerRequest):
                    reply = answer(message)
                    if reply is not None:
                        self.send(reply)
                elif message is not None:
                    self.received.append(message)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def close(self) -> None:
        """Acts like a killed process: unread messages are lost."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close(0)
        self._context.term()

"""A daemon of the manager behind a length-prefixed socket (wdb.md 1), doing what the test says, in threads of the test.

with FakeDaemon(root / "queue/sockets/auth", answer=lambda request: b"{}") as authd:
    ...; assert authd.requests == [b"..."]
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

NEVER = None
"""An answer that is never sent: the connection stays open."""


def make_directories(path: Path) -> None:
    """Mode of directories that a node with dropped privileges can enter."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)


class FakeDaemon:
    """Serves from construction until `close`, one request per connection, as authd does. `answer` may block: each
    connection has a thread. `at_once`: the largest number of requests served at the same time."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes | None]) -> None:
        self.requests: list[bytes] = []
        self.at_once = 0
        self._path = path
        self._answer = answer
        self._now = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        make_directories(path.parent)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen(1024)
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends the daemon and removes its socket file; waiting clients see their connection end."""
        self.stop_listening()
        for thread in self._threads:
            thread.join(60)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def stop_listening(self) -> None:
        """Acts like a daemon that died: the socket file remains and refuses connections."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "FakeDaemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            request = self._read(connection)
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                self._now += 1
                self.at_once = max(self.at_once, self._now)
            try:
                answer = self._answer(request)
            finally:
                with self._lock:
                    self._now -= 1
            if answer is NEVER:
                connection.settimeout(None)
                connection.recv(1)  # until the asker gives up, or `close`
            else:
                connection.sendall(len(answer).to_bytes(4, "little") + answer)
        except OSError:
            return  # whoever asked has gone
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    @staticmethod
    def _read(connection: socket.socket) -> bytes | None:
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            part = connection.recv(65536)
            if not part:
                return None
            data += part
        return data[4:]

"""The behaviour that both roles of a stock node share: transfers of files and strings, tasks, errors (wire.md 3 and
4)."""

import hashlib
import json
import secrets
import shutil
import socket
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from tools.rig.patience import Patience
from tools.rig.peer_files import unpack
from tools.rig.peer_frames import CHUNK, PeerError, PeerMessage, ScriptedLink

TITLES = {
    "WazuhInternalError": "Wazuh Internal Error",
    "WazuhClusterError": "Wazuh Cluster Error",
    "WazuhError": "Bad Request",
    "WazuhResourceNotFound": "Resource Not Found",
}


def exception_json(code: int, extra: str | None = None, kind: str = "WazuhClusterError") -> bytes:
    """Returns an encoded exception (3.3)."""
    fields = {
        "type": "about:blank",
        "title": TITLES[kind],
        "code": code,
        "extra_message": extra,
        "extra_remediation": None,
        "cmd_error": False,
        "dapi_errors": {},
    }
    return json.dumps({"__wazuh_exception__": {"__class__": kind, "__object__": fields}}).encode()


def error_of(message: PeerMessage) -> str | None:
    """Returns the error of an `err` response, as `code: extra` or its plain text; None for any other response."""
    if message.command != b"err":
        return None
    text = message.payload.decode()
    try:
        fields = json.loads(text)["__wazuh_exception__"]["__object__"]
    except (ValueError, KeyError, TypeError):
        return text
    return f"{fields['code']}: {fields.get('extra_message')}"


class PeerRefusal(Exception):
    """A request handler that raises this answers `err` with this code."""

    def __init__(self, code: int, extra: str | None = None, kind: str = "WazuhClusterError") -> None:
        super().__init__(f"{code}: {extra}")
        self.payload = exception_json(code, extra, kind)


class ScriptedPeer:
    """One connection of a stock node. `root` is its directory, `node` the worker's name on both ends.

    `notes` collects what a stock node would log as ERROR. Long work runs on threads of its own, ended by `close`.
    """

    commands: ClassVar[dict[str, str]] = {
        "echo": "_on_echo",
        "new_file": "_on_new_file",
        "file_upd": "_on_file_upd",
        "file_end": "_on_file_end",
        "new_str": "_on_new_str",
        "str_upd": "_on_str_upd",
        "err_str": "_on_err_str",
        "cancel_task": "_on_cancel_task",
    }

    def __init__(
        self, sock: socket.socket, key: str | None, root: Path, node: str, receive_timeout_s: float = 120
    ) -> None:
        self.root = root
        self.node = node
        self.notes: list[str] = []
        self.link = ScriptedLink(sock, key, self._answer, node or "peer")
        self._receive_timeout_s = receive_timeout_s
        self._files: dict[str, tuple[BinaryIO, Any]] = {}
        self._strings: dict[str, tuple[bytearray, list[int]]] = {}
        self._arrivals: dict[str, tuple[threading.Event, list[str]]] = {}
        self._interrupted: set[str] = set()
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix=f"{node or 'peer'}-task")

    # Towards the other side

    def send_file(self, path: Path, chunk_bytes: int = CHUNK, task: str = "") -> None:
        """Announces, sends and ends one file below `root` (4.3). Ignores `err` answers, as stock does."""
        name = f"/{path.relative_to(self.root).as_posix()}".encode()
        digest = hashlib.sha256()
        self.link.ask("new_file", name)
        with path.open("rb") as file:
            while chunk := file.read(min(chunk_bytes, CHUNK - len(name) - 1)):
                self.link.ask("file_upd", name + b" " + chunk)
                digest.update(chunk)
                if task in self._interrupted:
                    break
        self.link.ask("file_end", name + b" " + digest.digest())

    def send_string(self, text: bytes, chunk_bytes: int = CHUNK) -> str:
        """Sends a long string (4.4); returns the id that the receiver chose."""
        answer = self.link.ask("new_str", str(len(text)))
        if answer.command != b"ok":
            raise PeerError(f"new_str: {error_of(answer)}")
        name = answer.payload
        step = min(chunk_bytes, CHUNK - len(name) - 1)
        for start in range(0, len(text), step):
            self.link.ask("str_upd", name + b" " + text[start : start + step])
        return name.decode()

    def take_string(self, name: str) -> bytes:
        """Returns a received string and removes it. Raises PeerError when there is none under `name`."""
        try:
            return bytes(self._strings.pop(name)[0])
        except KeyError:
            raise PeerError(f"no string under {name}") from None

    def spool(self) -> Path:
        """Returns the node's directory below queue/cluster, created if missing."""
        path = self.root / "queue" / "cluster" / self.node
        path.mkdir(mode=0o770, parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Ends the connection and all its threads."""
        self.link.close()
        for event, _ in list(self._arrivals.values()):
            event.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for file, _ in self._files.values():
            file.close()
        self._files.clear()
        if self.node:
            shutil.rmtree(self.root / "queue" / "cluster" / self.node, ignore_errors=True)

    # For the roles

    def run_task(self, work: Callable[[], None]) -> "Future[None]":
        """Runs work on a thread of this peer; a failure becomes a note, as a stock node would log it."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:  # whatever a stock task dies of is one line in its log
                self.notes.append(f"{type(error).__name__}: {error}")

        return self._threads.submit(guarded)

    def expect_file(self) -> str:
        """Returns a new task id for a package that will arrive."""
        task = str(uuid.uuid4())
        self._arrivals[task] = (threading.Event(), [])
        return task

    def file_arrived(self, payload: bytes) -> bytes:
        """Handles the `_e` command: `task SP path`. Raises Refused 3027 for an unknown task; like stock, deletes the
        file."""
        task, path = payload.decode().split(" ", 1)
        arrival = self._arrivals.get(task)
        if arrival is None:
            if ".." not in path.split("/"):
                (self.root / path).unlink(missing_ok=True)
            raise PeerRefusal(3027, task)
        arrival[1].append(path)
        arrival[0].set()
        return b"File correctly received"

    def task_failed(self, payload: bytes) -> bytes:
        """Handles the `_r` command: `task SP JSON`."""
        task, text = payload.decode().split(" ", 1)
        json.loads(text)
        self.notes.append(f"peer's task {task} failed: {text}")
        if arrival := self._arrivals.get(task):
            arrival[0].set()
        return b"Error received"

    def await_package(self, task: str) -> dict[str, Any] | None:
        """Waits for the package of `task`, unpacks it beside itself into `P.zipdir`, deletes it.

        Returns the metadata with the directory under the key `""`; None if it did not arrive (then the error was sent
        to the peer).
        """
        event, paths = self._arrivals[task]
        in_time = event.wait(self._receive_timeout_s)
        self._arrivals.pop(task, None)
        if not paths:
            if not in_time and not self.link.closed.is_set():
                self.notes.append("Error 3039 - Timeout while waiting to receive a file")
                self.link.ask("cancel_task", f"{task} ".encode() + exception_json(3039))
            return None
        package = self.root / paths[0]
        into = Path(f"{package}dir")
        try:
            return unpack(package, into) | {"": into}
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise
        finally:
            package.unlink(missing_ok=True)

    # Requests from the other side

    def _answer(self, message: PeerMessage) -> tuple[bytes, bytes] | None:
        name = self.commands.get(message.command.decode(errors="replace"))
        if name is None:
            return b"err", f"unknown command '{message.command!r}'".encode()
        try:
            answer = getattr(self, name)(message.payload)
        except PeerRefusal as refusal:
            return b"err", refusal.payload
        except (ValueError, KeyError, OSError) as error:
            return b"err", exception_json(1000, str(error), "WazuhInternalError")
        if answer is None:
            return None
        return answer if isinstance(answer, tuple) else (b"ok", answer)

    def _on_echo(self, payload: bytes) -> bytes:
        return payload

    def _on_new_file(self, payload: bytes) -> tuple[bytes, bytes]:
        name = payload.decode()
        if ".." in name.split("/"):
            raise ValueError("the rig writes below its own directory only")
        if name in self._files:  # the sender began anew, on the same connection
            self._files.pop(name)[0].close()
        file = open(f"{self.root}{name}", "wb")  # noqa: SIM115 - closed by file_end or close
        self._files[name] = (file, hashlib.sha256())
        return b"ok ", b"Ready to receive new file"

    def _on_file_upd(self, payload: bytes) -> bytes:
        name, data = payload.split(b" ", 1)
        file, digest = self._files[name.decode()]
        file.write(data)
        digest.update(data)
        return b"File updated"

    def _on_file_end(self, payload: bytes) -> tuple[bytes, bytes]:
        name, checksum = payload.split(b" ", 1)
        file, digest = self._files.pop(name.decode())
        file.close()
        if digest.digest() != checksum:
            return b"err", b"File wasn't correctly received. Checksums aren't equal."
        return b"ok", b"File received correctly"

    def _on_new_str(self, payload: bytes) -> bytes:
        name = str(secrets.randbits(32))
        self._strings[name] = (bytearray(int(payload)), [0])
        return name.encode()

    def _on_str_upd(self, payload: bytes) -> bytes:
        name, data = payload.split(b" ", 1)
        text, filled = self._strings[name.decode()]
        data = data[: len(text) - filled[0]]
        text[filled[0] : filled[0] + len(data)] = data
        filled[0] += len(data)
        return b"String updated"

    def _on_err_str(self, payload: bytes) -> bytes:
        for name, (text, _) in self._strings.items():
            if len(text) == int(payload) and text[:1] == b"\0":
                del self._strings[name]
                return name.encode()
        return b"None"

    def _on_cancel_task(self, payload: bytes) -> bytes:
        task, text = payload.decode().split(" ", 1)
        json.loads(text)
        self.notes.append(f"The task was canceled due to the following error on the remote node: {text}")
        if task != "None":
            self._interrupted.add(task)
        return b"Request received correctly"


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Polls until `condition` holds; raises PeerError naming `what` after the time."""
    patience = Patience(timeout_s)
    while not condition():
        if patience.is_over():
            raise PeerError(f"{what}: not in {timeout_s:g} s")
        patience.rest(0.01)

"""One connection: frames, Fernet, requests and their answers, files and tasks (wire.md 2, 3, 4.3, 4.5)."""

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import shutil
import struct
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.fernet import Fernet

from benchmarks.reference.node import Node

HEADER = struct.Struct("!2I12s")
CHUNK = 5 * 1024 * 1024
BUFFER_BYTES = 8 * 1024 * 1024
Answer = tuple[bytes, bytes]


class LinkError(Exception):
    """The other side refused, closed, or did not answer in time."""


def error_json(code: int, extra: str | None = None, kind: str = "WazuhClusterError") -> bytes:
    """An exception as it goes on the wire (3.3)."""
    title = {"WazuhClusterError": "Wazuh Cluster Error", "WazuhInternalError": "Wazuh Internal Error"}[kind]
    fields = {"type": "about:blank", "title": title, "code": code, "extra_message": extra, "extra_remediation": None}
    return json.dumps(
        {"__wazuh_exception__": {"__class__": kind, "__object__": fields | {"cmd_error": False, "dapi_errors": {}}}}
    ).encode()


class Link:
    """`handlers`: command to a function of its payload that returns the answer, called on the loop. `spool`: the
    worker's name, by which both ends call the directory of its packages; empty until it is known."""

    def __init__(self, node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.node = node
        self.worker = ""
        self.handlers: dict[bytes, Callable[[bytes], Answer]] = {
            b"echo": lambda payload: (b"ok", payload),
            b"new_file": self._on_new_file,
            b"file_upd": self._on_file_upd,
            b"file_end": self._on_file_end,
            b"cancel_task": self._on_cancel_task,
        }
        self._fernet = Fernet(base64.b64encode(node.key.encode()))
        self._reader = reader
        self._writer = writer
        self._counter = secrets.randbits(32)
        self._box: dict[int, asyncio.Future[Answer]] = {}
        self._pieces: dict[int, bytearray] = {}
        self._files: dict[bytes, tuple[BinaryIO, Any]] = {}
        self._arrivals: dict[str, asyncio.Future[Path]] = {}
        self._interrupted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Reads until the connection ends; then ends everything that belongs to it."""
        try:
            while True:
                counter, length, text = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                body = await self._reader.readexactly(length)
                if text[11:] == b"d":
                    self._pieces.setdefault(counter, bytearray()).extend(body)
                    continue
                if counter in self._pieces:
                    body = bytes(self._pieces.pop(counter)) + body
                self._dispatch(counter, text[:11].split(b" ")[0], self._fernet.decrypt(body))
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the connection; safe to repeat."""
        self._writer.close()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        for waiting in self._box.values():
            if not waiting.done():
                waiting.set_exception(LinkError("the connection was closed"))
        for file, _ in self._files.values():
            file.close()
        self._files.clear()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def spawn(self, work: Coroutine[Any, Any, None], subtag: str) -> None:
        """Starts a task of this connection; its failure is one line in the log."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self.node.log(f"Worker {self.worker}", subtag, f"{type(error).__name__}: {error}", "ERROR")

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask(self, command: str, payload: bytes = b"") -> Answer:
        """Sends a request and returns its answer, `err` included. Raises LinkError."""
        self._counter = (self._counter + 1) % (1 << 32)
        counter = self._counter
        self._box[counter] = asyncio.get_running_loop().create_future()
        try:
            self._send(counter, command.encode(), payload)
            await self._writer.drain()
            return await asyncio.wait_for(self._box[counter], self.node.intervals["timeout_cluster_request"])
        except (TimeoutError, OSError) as error:
            raise LinkError(f"{command}: {error or 'no answer in time'}") from None
        finally:
            del self._box[counter]

    async def demand(self, command: str, payload: bytes = b"") -> bytes:
        """Returns the payload of an answer that is not `err`; raises LinkError."""
        answer, said = await self.ask(command, payload)
        if answer == b"err":
            raise LinkError(f"{command}: {said.decode(errors='replace')}")
        return said

    async def send_package(self, command: str, package: Path) -> None:
        """Sends `command`, the file and `command_e` (4.6, 4.7), one chunk after the other. On failure the peer is told
        by `_r`."""
        task = "None"
        try:
            task = (await self.demand(command)).decode()
            relative = package.relative_to(self.node.root).as_posix()
            name = f"/{relative}".encode()
            await self.demand("new_file", name)
            hasher = hashlib.sha256()
            with package.open("rb") as file:
                while data := file.read(CHUNK - len(name) - 1):
                    hasher.update(data)
                    await self.demand("file_upd", name + b" " + data)
                    if task in self._interrupted:
                        break
            await self.demand("file_end", name + b" " + hasher.digest())
            await self.demand(f"{command}_e", f"{task} {relative}".encode())
        except LinkError as error:
            with contextlib.suppress(LinkError):
                await self.ask(f"{command}_r", f"{task} ".encode() + error_json(3018, str(error)))
            raise
        finally:
            self._interrupted.discard(task)
            package.unlink(missing_ok=True)

    def expect_package(self) -> str:
        """A new task id."""
        task = str(uuid.uuid4())
        self._arrivals[task] = asyncio.get_running_loop().create_future()
        return task

    async def package(self, task: str) -> Path:
        """Waits for the package of a task. Raises LinkError if it does not arrive in time; the peer has been told."""
        try:
            return await asyncio.wait_for(self._arrivals[task], self.node.intervals["timeout_receiving_file"])
        except TimeoutError:
            await self.ask("cancel_task", f"{task} ".encode() + error_json(3039))
            raise LinkError("Error 3039 - Timeout while waiting to receive a file") from None
        finally:
            del self._arrivals[task]

    def arrived(self, payload: bytes) -> Answer:
        """`_e`: task SP path."""
        task, path = payload.decode().split(" ", 1)
        waiting = self._arrivals.get(task)
        if waiting is None:
            self._inside(path).unlink(missing_ok=True)
            return b"err", error_json(3027, task)
        if not waiting.done():
            waiting.set_result(self._inside(path))
        return b"ok", b"File correctly received"

    def failed(self, payload: bytes) -> Answer:
        """`_r`: task SP JSON."""
        task, text = payload.decode().split(" ", 1)
        waiting = self._arrivals.get(task)
        if waiting is not None and not waiting.done():
            waiting.set_exception(LinkError(text))
        return b"ok", b"Error received"

    def empty_spool(self) -> None:
        if self.worker:
            shutil.rmtree(self.node.root / "queue" / "cluster" / self.worker, ignore_errors=True)

    def _send(self, counter: int, command: bytes, payload: bytes) -> None:
        body = self._fernet.encrypt(payload)
        text = (command + b" ").ljust(12, b"-")
        if len(payload) <= CHUNK:
            self._writer.write(HEADER.pack(counter, len(body), text) + body)
            return
        step = CHUNK - HEADER.size
        pieces = [body[start : start + step] for start in range(0, len(body), step)]
        for number, piece in enumerate(pieces, 1):
            flag = b"d" if number < len(pieces) else b"-"
            self._writer.write(HEADER.pack(counter, len(piece), text[:11] + flag) + piece)

    def _dispatch(self, counter: int, command: bytes, payload: bytes) -> None:
        waiting = self._box.get(counter)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result((command, payload))
            return
        handler = self.handlers.get(command)
        if handler is None:
            self._send(counter, b"err", f"unknown command '{command!r}'".encode())
            return
        try:
            answer = handler(payload)
        except (ValueError, KeyError, OSError) as error:
            answer = b"err", error_json(1000, str(error), "WazuhInternalError")
        self._send(counter, *answer)

    def _inside(self, path: str) -> Path:
        """Returns a path of a peer, which must lie in queue/cluster. Raises ValueError."""
        parts = path.strip("/").split("/")
        if parts[:2] != ["queue", "cluster"] or ".." in parts:
            raise ValueError(f"not a path of a package: {path!r}")
        return self.node.root.joinpath(*parts)

    def _on_new_file(self, payload: bytes) -> Answer:
        self._files[payload] = (self._inside(payload.decode()).open("wb"), hashlib.sha256())
        return b"ok ", b"Ready to receive new file"

    def _on_file_upd(self, payload: bytes) -> Answer:
        name, data = payload.split(b" ", 1)
        file, hasher = self._files[name]
        file.write(data)
        hasher.update(data)
        return b"ok", b"File updated"

    def _on_file_end(self, payload: bytes) -> Answer:
        name, digest = payload.split(b" ", 1)
        file, hasher = self._files.pop(name)
        file.close()
        if hasher.digest() != digest:
            return b"err", b"File wasn't correctly received. Checksums aren't equal."
        return b"ok", b"File received correctly"

    def _on_cancel_task(self, payload: bytes) -> Answer:
        self._interrupted.add(payload.decode().split(" ", 1)[0])
        return b"ok", b"Request received correctly"

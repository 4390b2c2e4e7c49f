"""What one link is sending us: files and long strings on their way into the spool (wire.md 4.3, 4.4; W1, W2, R2, R4).

A file is accepted only while a task waits for one, and its name never decides where we write.
"""

import asyncio
import os
import random
from collections.abc import Callable

import msgspec

from clusterd.errors import ClusterError
from clusterd.names import package_name_problem
from clusterd.sync.pool_port import JobError, PoolPort
from clusterd.sync.spool import Spool
from ipc.descriptor import Descriptor
from ipc.messages import ChunkStored, ChunkTarget, Digested, DigestSegments, Segment, StoreChunk

FILES_PER_LINK = 4
SHA256_BYTES = 32
CHECKSUM_TEXT = b"File wasn't correctly received. Checksums aren't equal."


class IncomingFile(msgspec.Struct):
    """A file being received under wire name `name` into spool file `path`; `size` bytes have arrived."""

    name: str
    path: str
    size: int = 0
    complete: bool = False


class IncomingString(msgspec.Struct):
    """A long string of `total` announced bytes; `size` have arrived in spool file `path`."""

    path: str
    total: int
    size: int = 0
    touched_at: float = 0.0


class Awaited(msgspec.Struct, frozen=True):
    """A task of ours that waits for a file of the peer."""

    task_id: str
    file: "asyncio.Future[IncomingFile]"


class Refusal(Exception):
    """A request that is answered `err` with plain text, as stock does for checksums."""


class BadSeal(ClusterError):
    """A large body was not sealed with our key: the link is to be closed, as net does for small ones (wire.md 1.2)."""

    def __init__(self) -> None:
        super().__init__(3025)


def split_once(payload: bytes) -> tuple[str, bytes]:
    """`{word} {rest}`. Raises ClusterError 1000 with the text that a stock node gives."""
    word, space, rest = payload.partition(b" ")
    if not space:
        raise ClusterError(1000, "not enough values to unpack (expected 2, got 1)")
    try:
        return word.decode(), rest
    except UnicodeDecodeError as problem:
        raise ClusterError(1000, f"a name that is not UTF-8: {problem.reason}") from problem


class Incoming:
    """Files and strings of one link. `node` is the worker's name of the connection (its directory on both ends)."""

    def __init__(
        self,
        node: str,
        spool: Spool,
        jobs: PoolPort,
        *,
        file_limit: int,
        string_limit: int,
        strings_limit: int,
        now: Callable[[], float],
    ) -> None:
        self._node = node
        self._spool = spool
        self._jobs = jobs
        self._file_limit = file_limit
        self._string_limit = string_limit
        self._strings_limit = strings_limit
        self._now = now
        self._files: dict[str, IncomingFile] = {}
        self._strings: dict[str, IncomingString] = {}
        self._awaited: dict[str, Awaited] = {}
        self._order = asyncio.Lock()

    # ---- tasks that wait for a file --------------------------------------------------------------------------------

    def expect(self, task_id: str) -> Awaited:
        """From now on a file may come, for this task."""
        awaited = Awaited(task_id, asyncio.get_running_loop().create_future())
        self._awaited[task_id] = awaited
        return awaited

    def forget(self, task_id: str) -> None:
        """The task does not wait any more; files that no other task can take go with it."""
        self._awaited.pop(task_id, None)
        if not self._awaited:
            for name in list(self._files):
                self.drop_file(name)

    def awaited(self, task_id: str) -> Awaited | None:
        return self._awaited.get(task_id)

    @property
    def awaited_count(self) -> int:
        return len(self._awaited)

    def received_bytes(self) -> int:
        """Of all files that are under way (for progress)."""
        return sum(file.size for file in self._files.values())

    # ---- files -----------------------------------------------------------------------------------------------------

    def new_file(self, payload: bytes) -> None:
        """Begin a file. Raises ClusterError 1000 when none is awaited, or for a name that is not one of ours (W1)."""
        try:
            name = payload.decode()
        except UnicodeDecodeError as problem:
            raise ClusterError(1000, "the file's name is not UTF-8") from problem
        shown = name if len(name) <= 200 else name[:200] + "..."
        prefix = next((p for p in (f"/queue/cluster/{self._node}/", "/queue/cluster/") if name.startswith(p)), None)
        if prefix is None or package_name_problem(name.removeprefix(prefix)):
            raise ClusterError(1000, f"a package may only be named /queue/cluster/{self._node}/NAME.zip, not {shown!r}")
        if not self._awaited:
            raise ClusterError(1000, f"no task waits for a file: {shown!r}")
        self.drop_file(name)
        if len(self._files) >= FILES_PER_LINK:
            raise ClusterError(1000, f"more than {FILES_PER_LINK} files at once on one connection")
        path = self._spool.new_path("package")
        with open(path, "wb"):
            pass
        self._files[name] = IncomingFile(name, path)

    async def file_chunk(self, payload: bytes, body: list[Descriptor] | None) -> None:
        """`{name} {data}`, open or sealed. Chunks of a link are stored in the order in which they arrived."""
        async with self._order:
            if body is None:
                name, _ = split_once(payload)
                if name not in self._files:
                    raise ClusterError(1000, repr(name.encode()))
            targets = [
                ChunkTarget(file.name, file.path, file.size, self._file_limit)
                for file in self._files.values()
                if not file.complete
            ]
            stored = await self._store(targets, payload, body)
            found = self._files.get(stored.name)
            if found is not None:
                found.size += stored.size

    async def end_file(self, payload: bytes) -> None:
        """`{name} {SHA-256}`. Raises Refusal when the digest differs; the file is then gone."""
        async with self._order:
            name, digest = split_once(payload)
            file = self._files.get(name)
            if file is None:
                raise ClusterError(1000, repr(name.encode()))
            try:
                found = await self._jobs.run(DigestSegments([Segment(file.path, 0, file.size)]), Digested, urgent=True)
            except JobError as failure:
                self.drop_file(name)
                raise ClusterError(1000, str(failure)) from failure
            if found.sha256 != digest:
                self.drop_file(name)
                raise Refusal(CHECKSUM_TEXT.decode())
            file.complete = True

    def end_task(self, payload: bytes) -> None:
        """`{task id} {path}` (`*_e`): hand the file to the task. Raises ClusterError 3027 for an unknown task or file (W2).

        Only a file that was received on this link and is whole is taken; nothing else is touched."""
        task_id, path = split_once(payload)
        name = "/" + path.decode(errors="replace").lstrip("/")
        awaited = self._awaited.get(task_id)
        file = self._files.get(name)
        if awaited is None or awaited.file.done() or file is None or not file.complete:
            if file is not None and (awaited is None or not file.complete):
                self.drop_file(name)
            raise ClusterError(3027, task_id)
        del self._files[name]
        awaited.file.set_result(file)

    def drop_file(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self._spool.remove(file.path)

    # ---- strings ---------------------------------------------------------------------------------------------------

    def new_string(self, payload: bytes, *, idle_s: float) -> str:
        """`{length}`; returns the id. Strings unused for `idle_s` make room (R4)."""
        total = self._length(payload)
        now = self._now()
        for string_id, string in list(self._strings.items()):
            if now - string.touched_at > idle_s:
                self.drop_string(string_id)
        if total > self._string_limit:
            raise ClusterError(1000, f"a string of {total} bytes is above the limit of {self._string_limit} bytes")
        if len(self._strings) >= self._strings_limit:
            raise ClusterError(1000, f"more than {self._strings_limit} strings at once on one connection")
        string_id = str(random.getrandbits(32))
        while string_id in self._strings:
            string_id = str(random.getrandbits(32))
        path = self._spool.new_path("string")
        with open(path, "wb"):
            pass
        self._strings[string_id] = IncomingString(path, total, touched_at=now)
        return string_id

    async def string_chunk(self, payload: bytes, body: list[Descriptor] | None) -> None:
        """`{id} {data}`. Bytes beyond the announced length are dropped silently, as stock does."""
        async with self._order:
            if body is None:
                name, _ = split_once(payload)
                if name not in self._strings:
                    raise ClusterError(1000, repr(name.encode()))
            targets = [
                ChunkTarget(string_id, string.path, string.size, string.total, truncate=True)
                for string_id, string in self._strings.items()
            ]
            stored = await self._store(targets, payload, body)
            found = self._strings.get(stored.name)
            if found is not None:
                found.size += stored.size
                found.touched_at = self._now()

    def cancel_string(self, payload: bytes) -> str:
        """`err_str`: drop the first string of this length of which nothing has come; its id, or `None`."""
        total = self._length(payload)
        for string_id, string in self._strings.items():
            if string.total == total and string.size == 0:
                self.drop_string(string_id)
                return string_id
        return "None"

    def string(self, string_id: str) -> IncomingString | None:
        return self._strings.get(string_id)

    def drop_string(self, string_id: str) -> None:
        string = self._strings.pop(string_id, None)
        if string is not None:
            self._spool.remove(string.path)

    # ---- end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The link is gone: nothing of it stays in the spool."""
        for name in list(self._files):
            self.drop_file(name)
        for string_id in list(self._strings):
            self.drop_string(string_id)
        for awaited in self._awaited.values():
            awaited.file.cancel()
        self._awaited.clear()

    async def _store(self, targets: list[ChunkTarget], payload: bytes, body: list[Descriptor] | None) -> ChunkStored:
        try:
            return await self._jobs.run(StoreChunk(targets, payload, body), ChunkStored, urgent=True)
        except JobError as failure:
            if failure.kind == "bad-seal":
                raise BadSeal from failure
            raise ClusterError(1000, str(failure)) from failure

    @staticmethod
    def _length(payload: bytes) -> int:
        try:
            length = int(payload)
        except ValueError as problem:
            raise ClusterError(1000, f"invalid literal for int() with base 10: {payload[:40]!r}") from problem
        if length < 0:
            raise ClusterError(1000, "a string cannot have a negative length")
        return length


def file_size(path: str) -> int:
    """Bytes of a spool file."""
    return os.stat(path).st_size

"""Bookkeeping of long strings and files sent in chunks (wire.md 4.3, 4.4, dapi.md 0.5); it holds no bytes and touches
no disk.

The receiver limits what a peer may begin (wire.md W1, R2, R4); time is passed in. Names from the wire are compared and
never used as paths: `place` of an entry is where the receiver stores the bytes.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from clusterd.errors import ClusterError
from clusterd.names import package_name_problem
from clusterd.wire.frame import REQUEST_CHUNK

PACKAGE_DIRECTORY = "/queue/cluster/"
STRING_IDS = 1 << 32

Place = TypeVar("Place")


def chunk_bytes(name: str) -> int:
    """Data bytes in a full `file_upd` or `str_upd` for this path or string id: with name and space exactly one
    frame."""
    return REQUEST_CHUNK - len(name.encode()) - 1


def package_of_path(path: str, node: str) -> str:
    """The package's name from a path of `new_file`, which must be `/queue/cluster/{node}/NAME.zip` or
    `/queue/cluster/NAME.zip` (wire.md W1, 13.1). Raises ClusterError 1000."""
    for directory in (f"{PACKAGE_DIRECTORY}{node}/", PACKAGE_DIRECTORY):
        if path.startswith(directory):
            name = path[len(directory) :]
            if package_name_problem(name) is None:
                return name
    shown = path if len(path) <= 200 else path[:200] + "..."
    raise ClusterError(1000, f"a package may only be named {PACKAGE_DIRECTORY}{node}/NAME.zip, not {shown!r}")


class IncomingString(msgspec.Struct, Generic[Place]):
    """A string of `total` announced bytes, of which `received` have arrived. `place`: where they are stored."""

    id: str
    total: int
    place: Place
    received: int = 0
    touched_at: float = 0.0

    def accept(self, offered: int, now: float) -> int:
        """Accounts for `offered` bytes; returns how many belong to the string (the rest is dropped silently)."""
        taken = min(offered, self.total - self.received)
        self.received += taken
        self.touched_at = now
        return taken


class Strings(Generic[Place]):
    """The long strings that the peer of one connection has begun and no command has used yet."""

    def __init__(self, *, max_bytes: int, max_count: int, idle_s: float, pick_id: Callable[[], int]) -> None:
        """`max_bytes`: limit for all unused strings together. `idle_s`: a string without chunks for this long may be
        removed. `pick_id`: returns random numbers below STRING_IDS."""
        self.set_bounds(max_bytes=max_bytes, max_count=max_count, idle_s=idle_s)
        self._pick_id = pick_id
        self._strings: dict[str, IncomingString[Place]] = {}

    def set_bounds(self, *, max_bytes: int, max_count: int, idle_s: float) -> None:
        """Also during the life of the connection; strings that were begun stay."""
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._idle_s = idle_s

    def __iter__(self) -> Iterator[IncomingString[Place]]:
        return iter(list(self._strings.values()))

    def admit(self, total: int) -> None:
        """Raises ClusterError 1000 if one more string of that many bytes is beyond the limits."""
        announced = sum(string.total for string in self._strings.values())
        if announced + total > self._max_bytes:
            raise ClusterError(1000, f"strings of more than {self._max_bytes} bytes at once on one connection")
        if len(self._strings) >= self._max_count:
            raise ClusterError(1000, f"more than {self._max_count} strings at once on one connection")

    def begin(self, total: int, place: Place, now: float) -> IncomingString[Place]:
        """`new_str`: adds a string. Raises ClusterError 1000 beyond the limits and adds nothing."""
        self.admit(total)
        ident = str(self._pick_id() % STRING_IDS)
        while ident in self._strings:
            ident = str((int(ident) + 1) % STRING_IDS)
        string = IncomingString(ident, total, place, 0, now)
        self._strings[ident] = string
        return string

    def find(self, ident: str) -> IncomingString[Place]:
        """The string named by a `str_upd`. Raises ClusterError 1000 with stock's text."""
        string = self._strings.get(ident)
        if string is None:
            raise ClusterError(1000, repr(ident.encode()[:64]))
        return string

    def take(self, ident: str) -> IncomingString[Place]:
        """Removes and returns the string that a command uses. Raises ClusterError 3035."""
        string = self._strings.pop(ident, None)
        if string is None:
            raise ClusterError(3035, ident[:64])
        return string

    def abandon(self, total: int) -> IncomingString[Place] | None:
        """`err_str`: removes and returns the first string of this length that has received nothing."""
        for string in self._strings.values():
            if string.total == total and string.received == 0:
                return self._strings.pop(string.id)
        return None

    def expire(self, now: float) -> list[IncomingString[Place]]:
        """Removes and returns the strings that were idle for too long."""
        idle = [string for string in self._strings.values() if now - string.touched_at > self._idle_s]
        for string in idle:
            del self._strings[string.id]
        return idle

    def take_all(self) -> list[IncomingString[Place]]:
        """The connection has ended."""
        strings = list(self._strings.values())
        self._strings.clear()
        return strings


class IncomingFile(msgspec.Struct):
    """A file announced with the wire's `path`. `complete` after a matching `file_end`; `digest`: the matching SHA-256.
    `place`: the path where it is stored."""

    path: str
    place: str
    received: int = 0
    complete: bool = False
    digest: bytes = b""


class Files:
    """The files that the peer of one connection is sending: announced, growing, complete, claimed by a task.

    Only a complete file that arrived on this connection can be claimed (wire.md W2)."""

    def __init__(self, node: str, *, max_bytes: int, max_count: int) -> None:
        """`node`: the connection's worker name. `max_bytes`: size limit of one file; it may change."""
        self._node = node
        self.max_bytes = max_bytes
        self._max_count = max_count
        self._files: dict[str, IncomingFile] = {}

    def __iter__(self) -> Iterator[IncomingFile]:
        return iter(list(self._files.values()))

    def begin(self, path: str, place: str, *, awaited: bool) -> tuple[IncomingFile, IncomingFile | None]:
        """`new_file`: returns the new entry, and the earlier one of this path, which is removed (the file starts anew).

        `awaited`: whether a task waits for a file. Raises ClusterError 1000."""
        package_of_path(path, self._node)
        if not awaited:
            raise ClusterError(1000, f"no task waits for a file: {path!r}")
        earlier = self._files.pop(path, None)
        if len(self._files) >= self._max_count:
            raise ClusterError(1000, f"more than {self._max_count} files at once on one connection")
        file = IncomingFile(path, place)
        self._files[path] = file
        return file, earlier

    def find(self, path: str) -> IncomingFile:
        """The growing file named by a `file_upd` or `file_end`. Raises ClusterError 1000 with stock's text."""
        file = self._files.get(path)
        if file is None or file.complete:
            raise ClusterError(1000, repr(path.encode()[:200]))
        return file

    def accept(self, file: IncomingFile, offered: int) -> None:
        """Accounts for `offered` bytes. Raises ClusterError 1000 when the file becomes too large; it must then be
        dropped."""
        if file.received + offered > self.max_bytes:
            raise ClusterError(1000, f"a file of more than {self.max_bytes} bytes: {file.path!r}")
        file.received += offered

    def claim(self, path: str) -> IncomingFile | None:
        """Removes and returns the complete file named by `*_e` (without leading slash); None if there is none."""
        name = f"/{path}"
        file = self._files.get(name)
        if file is None or not file.complete:
            return None
        return self._files.pop(name)

    def has(self, file: IncomingFile) -> bool:
        """Whether this very file is still arriving or waits to be claimed."""
        return self._files.get(file.path) is file

    def drop(self, file: IncomingFile) -> None:
        """Removes a file (its digest differed, its disk was full), but never another one of its name."""
        if self.has(file):
            del self._files[file.path]

    def take_all(self) -> list[IncomingFile]:
        """The connection has ended."""
        files = list(self._files.values())
        self._files.clear()
        return files

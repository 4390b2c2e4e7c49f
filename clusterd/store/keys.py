"""The keys of agents: `etc/client.keys` and `queue/agents-timestamp` (wdb.md 8.5)."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from hashing.atomic import FileOps, write_atomic

KEY_FILE = "etc/client.keys"
TIMESTAMPS = "queue/agents-timestamp"
MODE = 0o640
ANY = "any"
_REMOVED = ("!", "#")
_PARTS = 4
_ID_WIDTH = 3


class Key(msgspec.Struct, frozen=True):
    """A line of client.keys. `id` as it is written, usually three digits or more; `is_removed`: kept for the record."""

    id: str
    name: str
    ip: str
    key: str
    is_removed: bool = False

    @property
    def number(self) -> int:
        return int(self.id)

    def line(self) -> str:
        return f"{self.id} {'!' if self.is_removed else ''}{self.name} {self.ip} {self.key}\n"


class Unreadable(ValueError):
    """client.keys has content of which no line is one of agents."""


def parse_keys(text: str) -> tuple[list[Key], int]:
    """The keys, and how many lines are none. Lines that begin with # or a space are comments."""
    keys, bad = [], 0
    for line in text.splitlines():
        if not line or line.startswith(("#", " ")):
            continue
        parts = line.split(" ")
        if len(parts) != _PARTS or not all(parts) or not (parts[0].isascii() and parts[0].isdigit()):
            bad += 1
            continue
        agent_id, name, ip, key = parts
        is_removed = name.startswith(_REMOVED)
        if is_removed and len(name) == 1:
            bad += 1
            continue
        keys.append(Key(agent_id, name[1:] if is_removed else name, ip, key, is_removed))
    return keys, bad


class KeyTable:
    """Keys by number, name and address. Of two lines with one number the later counts."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[int, Key] = {}
        self._removed: dict[int, Key] = {}
        self._names: dict[str, int] = {}
        self._addresses: dict[str, int] = {}
        self._greatest = 0
        for key in keys:
            if key.is_removed:
                self._greatest = max(self._greatest, key.number)
                self._removed[key.number] = key
            else:
                self.add(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def get(self, number: int) -> Key | None:
        return self._keys.get(number)

    def named(self, name: str) -> Key | None:
        return self._found(self._names.get(name))

    def at(self, address: str) -> Key | None:
        """The key of this address; `any` is nobody's."""
        return None if address == ANY else self._found(self._addresses.get(address))

    def _found(self, number: int | None) -> Key | None:
        return None if number is None else self._keys.get(number)

    def next_id(self) -> str:
        """One more than the greatest that ever was."""
        return f"{self._greatest + 1:0{_ID_WIDTH}d}"

    def count_from(self, other: "KeyTable") -> None:
        """Give no number that the other has given or seen."""
        self._greatest = max(self._greatest, other._greatest)

    def add(self, key: Key) -> None:
        """In place of whoever has this number."""
        number = key.number
        self._drop(number)
        self._removed.pop(number, None)
        self._keys[number] = key
        self._names[key.name] = number
        if key.ip != ANY:
            self._addresses[key.ip] = number
        self._greatest = max(self._greatest, number)

    def remove(self, number: int, *, purge: bool) -> None:
        """No longer in use; `purge`: without a trace in the file."""
        key = self._drop(number)
        if key is not None and not purge:
            self._removed[number] = msgspec.structs.replace(key, is_removed=True)

    def _drop(self, number: int) -> Key | None:
        key = self._keys.pop(number, None)
        if key is not None:
            if self._names.get(key.name) == number:
                del self._names[key.name]
            if self._addresses.get(key.ip) == number:
                del self._addresses[key.ip]
        return key

    def render(self) -> str:
        """The file: keys in use, then the removed ones."""
        return "".join(key.line() for table in (self._keys, self._removed) for key in table.values())


class KeyFile:
    """The file on disk and the table in memory. Read again when somebody else has changed it. Blocking: for threads."""

    def __init__(self, root: str, ops: FileOps | None = None) -> None:
        self._path = Path(root) / KEY_FILE
        self._stamps_path = Path(root) / TIMESTAMPS
        self._ops = ops or FileOps()
        self._identity: tuple[int, ...] | None = None
        self._dates: dict[int, str] = {}
        self.table = KeyTable()
        self.bad_lines = 0

    def refresh(self) -> None:
        """Read the file if it is not the one we know. A missing file has no keys. Raises OSError, Unreadable."""
        identity = self._current()
        if identity == self._identity and identity is not None:
            return
        keys, self.bad_lines = ([], 0) if identity is None else self._read()
        before = self.table
        self.table = KeyTable(keys)
        self.table.count_from(before)
        self._identity = identity
        self._dates = _read_dates(self._stamps_path)

    def forget(self) -> None:
        """What is in memory was never written: the next `refresh` reads the file."""
        self._identity = None
        self.table = KeyTable()

    def _current(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> tuple[list[Key], int]:
        text = self._path.read_text(encoding="utf-8", errors="surrogateescape")
        keys, bad = parse_keys(text)
        if bad and not keys:
            raise Unreadable(f"no line of {KEY_FILE} is one of agents ({bad} lines)")
        return keys, bad

    def save(self) -> None:
        """Replace the file, and have it on disk. Raises OSError."""
        content = self.table.render().encode(errors="surrogateescape")
        write_atomic(self._ops, str(self._path), content, MODE)
        self._identity = self._current()

    def save_dates(self, added: Iterable[Key], date_add: int) -> None:
        """When agents were registered. Raises OSError."""
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(date_add))
        for key in added:
            self._dates[key.number] = date
        lines = [
            f"{key.id} {key.name} {key.ip} {self._dates[key.number]}\n"
            for key in self.table
            if key.number in self._dates
        ]
        content = "".join(lines).encode(errors="surrogateescape")
        write_atomic(self._ops, str(self._stamps_path), content, MODE, durable=False)


def _read_dates(path: Path) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return {}
    dates = {}
    for line in text.splitlines():
        parts = line.split(" ", 3)
        if len(parts) == _PARTS and parts[0].isascii() and parts[0].isdigit():
            dates[int(parts[0])] = parts[3]
    return dates


def keys_in_use(root: str) -> dict[int, Key]:
    """The keys in use, read anew. Raises OSError, Unreadable."""
    file = KeyFile(root)
    file.refresh()
    return {key.number: key for key in file.table}

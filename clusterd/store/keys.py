"""Agent keys: `etc/client.keys` and `queue/agents-timestamp` (wdb.md 8.5)."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from clusterd.agent_keys import GREATEST_ID, KEY_FILE, Key, Other, decode_keys, parse_id, parse_keys
from clusterd.key_guard import WRITTEN_KEPT, KeyContent, note_written
from hashing.atomic import OPEN_DIRECTORY, FileOps, create_temporary
from hashing.in_place import replace, sweep

TIMESTAMPS = "queue/agents-timestamp"
MODE = 0o640
"""Mode of a new file; a replaced file keeps its mode and owner."""
ANY = "any"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
_PARTS = 4
_ID_WIDTH = 3
Identity = tuple[int, int, int, int]
"""Device, inode, size, mtime_ns: shows whether another program has written the file."""
_NO_FILE: Identity = (0, 0, 0, 0)


class Unreadable(ValueError):
    """client.keys has content, but no line of it is an agent's."""


class SuddenLoss(ValueError):
    """client.keys lacks many keys that it had, and nobody has allowed their removal."""


class NoIdLeft(ValueError):
    """An agent already has the greatest possible id."""


class ChangedMeanwhile(OSError):
    """Another program wrote the file after it was read; the file was left unchanged."""


class NotSynced(OSError):
    """The file was replaced for every reader, but a power failure may bring the old one back."""


class _Index:
    """Agents by a text such as their name. We never give one text to two agents, but a file written by others can."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._others: dict[str, list[int]] = {}

    def find(self, text: str) -> int | None:
        return self._first.get(text)

    def put(self, text: str, number: int) -> None:
        if self._first.setdefault(text, number) != number:
            self._others.setdefault(text, []).append(number)

    def drop(self, text: str, number: int) -> None:
        others = self._others.get(text, [])
        if number in others:
            others.remove(number)
        elif others:
            self._first[text] = others.pop(0)
        else:
            del self._first[text]
        if not others:
            self._others.pop(text, None)


class KeyTable:
    """Keys by number, name and address.

    If two lines have one number, the later line wins, but a removed agent never displaces one in use: removed lines
    stand last in the file, even if their number was given again. `other`: the lines that are no agents."""

    def __init__(self, keys: Iterable[Key] = (), other: Other | None = None) -> None:
        self.other = other or Other()
        self._keys: dict[int, Key] = {}
        self._removed: dict[int, Key] = {}
        self._names = _Index()
        self._addresses = _Index()
        self.greatest = 0
        """The greatest number ever used, removed agents included."""
        for key in keys:
            if not key.is_removed:
                self.add(key)
            elif key.number not in self._keys:
                self.count_from(key.number)
                self._removed[key.number] = key

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __contains__(self, number: int) -> bool:
        return number in self._keys

    def get(self, number: int) -> Key | None:
        return self._keys.get(number)

    def named(self, name: str) -> Key | None:
        return self._found(self._names.find(name))

    def at(self, address: str) -> Key | None:
        """The key of this address; `any` belongs to no agent."""
        return None if address == ANY else self._found(self._addresses.find(address))

    def _found(self, number: int | None) -> Key | None:
        return None if number is None else self._keys[number]

    def next_id(self) -> str:
        """The greatest number ever used plus one. Raises NoIdLeft."""
        if self.greatest >= GREATEST_ID:
            raise NoIdLeft(f"an agent has had the greatest id there is, {GREATEST_ID}")
        return f"{self.greatest + 1:0{_ID_WIDTH}d}"

    def count_from(self, number: int) -> None:
        """From now on no number up to this one is given out."""
        self.greatest = max(self.greatest, number)

    def add(self, key: Key) -> None:
        """Adds the key in place of the agent that has its number."""
        number = key.number
        self._drop(number)
        self._removed.pop(number, None)
        self._keys[number] = key
        self._names.put(key.name, number)
        if key.ip != ANY:
            self._addresses.put(key.ip, number)
        self.count_from(number)

    def remove(self, number: int, *, purge: bool) -> None:
        """Marks the key as removed; with `purge` its line leaves the file."""
        key = self._drop(number)
        if key is not None and not purge:
            self._removed[number] = msgspec.structs.replace(key, is_removed=True)

    def _drop(self, number: int) -> Key | None:
        key = self._keys.pop(number, None)
        if key is not None:
            self._names.drop(key.name, number)
            if key.ip != ANY:
                self._addresses.drop(key.ip, number)
        return key

    def render(self) -> str:
        """The content of the file: comments, keys in use, removed keys, and at the end the lines that are not
        understood."""
        lines = [f"{line}\n" for line in self.other.comments]
        lines += [f"{key.id} {key.name} {key.ip} {key.key}\n" for key in self._keys.values()]
        lines += [key.line() for key in self._removed.values()]
        return "".join(lines + [f"{line}\n" for line in self.other.bad])


class KeyFile:
    """The file on disk and its table in memory, read again after another program has changed it. Blocking: call it in a
    thread."""

    def __init__(self, root: str, ops: FileOps | None = None) -> None:
        self._root = root
        self._digests: deque[bytes] = deque(maxlen=WRITTEN_KEPT)
        self._path = Path(root) / KEY_FILE
        self._stamps_path = Path(root) / TIMESTAMPS
        self._ops = ops or FileOps()
        self._identity: Identity | None = None
        self.written: Identity | None = None
        """Identity of the file when this object wrote it last."""
        self.foreign: Identity | None = None
        """Identity of the file of others that this object read last."""
        self.disowned = 0
        """How often the database may have come to differ from the file."""
        self._stamps: dict[int, str] | None = None
        # Lines of agents-timestamp, cached: with 100,000 agents making them takes most of the time of a batch.
        self._greatest = 0
        self.table = KeyTable()
        self.news: KeyContent | None = None
        """What the last `refresh` read; None if the file was unchanged."""

    def sweep(self) -> None:
        """Removes half-written files of an earlier life of this process. On a master only: on a worker, packages are
        applied in the same directory."""
        with suppress(OSError):
            dir_fd = os.open(self._path.parent, OPEN_DIRECTORY)
            try:
                sweep(self._ops, dir_fd, os.listdir(dir_fd))
            finally:
                os.close(dir_fd)

    def refresh(self) -> bool:
        """Reads the file if it has changed; returns whether it did. A missing file has no keys.

        Raises OSError, Unreadable."""
        identity = self._current()
        self.news = None
        if identity == self._identity and identity is not None:
            return False
        data = None if identity is None else self._path.read_bytes()
        self.table = KeyTable() if data is None else _parsed(data)
        self.news = KeyContent(data)
        self.table.count_from(self._greatest)
        self._greatest = self.table.greatest
        self._identity = identity
        if identity is None or identity != self.written:
            self.foreign = identity or _NO_FILE
        self._stamps = None
        return identity is not None

    def forget(self) -> None:
        """Discards the table, which was never written: the next `refresh` reads the file."""
        self._identity = None
        self.table = KeyTable()

    def disown(self) -> None:
        """The database may differ from the file: whoever keeps it equal has to read that, whoever wrote it."""
        self.disowned += 1

    def _current(self) -> Identity | None:
        try:
            return _identity(os.stat(self._path))
        except FileNotFoundError:
            return None

    @property
    def bad_lines(self) -> int:
        """Lines of the file that are no agents."""
        return len(self.table.other.bad)

    def save(self) -> None:
        """Replaces the file and syncs it to disk. Raises ChangedMeanwhile, OSError: the old file is unchanged and the
        table must be discarded. Raises NotSynced: the new file is in place."""
        content = self.table.render().encode(errors="surrogateescape")
        if self._current() != self._identity:
            raise ChangedMeanwhile(f"{KEY_FILE} is being changed by another program")
        self._digests.append(blake2b(content).digest())
        note_written(self._root, self._digests)
        fd = os.open(self._path.parent, OPEN_DIRECTORY)
        try:
            self._identity = self.written = _replace(self._ops, fd, self._path.name, content, durable=True)
            self._greatest = self.table.greatest
            try:
                self._ops.fsync(fd)
            except OSError as failure:
                raise NotSynced(failure.errno, failure.strerror) from failure
        finally:
            os.close(fd)

    def save_dates(self, added: Iterable[Key], date_add: int) -> None:
        """Writes the registration dates. They are for people, so nobody waits until they are on disk. Raises
        OSError."""
        date = time.strftime(DATE_FORMAT, time.localtime(date_add))
        if self._stamps is None:
            dates = _read_dates(self._stamps_path)
            self._stamps = {key.number: _stamp(key, dates[key.number]) for key in self.table if key.number in dates}
        self._stamps.update((key.number, _stamp(key, date)) for key in added)
        self._stamps = {number: line for number, line in self._stamps.items() if number in self.table}
        content = "".join(self._stamps.values())
        fd = os.open(self._stamps_path.parent, OPEN_DIRECTORY)
        try:
            _replace(self._ops, fd, self._stamps_path.name, content.encode(errors="surrogateescape"), durable=False)
        finally:
            os.close(fd)


class KeysRead(msgspec.Struct, frozen=True):
    """The file as the database needs it. `keys`: those in use by id, invalid UTF-8 replaced; `dates`: registration
    times where known (seconds since 1970); `content`: input of the guard."""

    keys: dict[int, Key]
    dates: dict[int, int]
    content: KeyContent


def keys_in_use(root: str) -> KeysRead:
    """Reads the keys in use. Raises OSError, Unreadable."""
    file = KeyFile(root)
    file.refresh()
    assert file.news is not None
    keys = {key.number: readable(key) for key in file.table}
    return KeysRead(keys, _moments(Path(root) / TIMESTAMPS), file.news)


def _parsed(data: bytes) -> KeyTable:
    keys, other = parse_keys(decode_keys(data))
    if other.bad and not keys:
        raise Unreadable(f"no line of {KEY_FILE} is one of agents ({len(other.bad)} lines)")
    return KeyTable(keys, other)


def _moments(path: Path) -> dict[int, int]:
    moments = {}
    for number, date in _read_dates(path).items():
        try:
            moments[number] = int(time.mktime(time.strptime(date, DATE_FORMAT)))
        except (ValueError, OverflowError):
            # Not one of our lines; skip it, the date is for people only.
            continue
    return moments


def readable(key: Key) -> Key:
    """The key without bytes that are invalid in UTF-8."""
    if key.name.isascii() and key.key.isascii() and key.ip.isascii():
        return key
    name, ip, secret = (
        text.encode(errors="surrogateescape").decode(errors="replace") for text in (key.name, key.ip, key.key)
    )
    return msgspec.structs.replace(key, name=name, ip=ip, key=secret)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _replace(ops: FileOps, dir_fd: int, name: str, data: bytes, *, durable: bool) -> Identity:
    """Writes a temporary file and renames it. Mode and owner stay. Raises OSError: nothing is changed and no temporary
    file is left."""
    try:
        old = os.stat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        old = None
    fd, temporary = create_temporary(ops, name, 0o600, dir_fd=dir_fd)
    try:
        try:
            if old is not None:
                _keep_owner(ops, fd, old)
            ops.chmod(fd, MODE if old is None else old.st_mode & 0o777)
            ops.write(fd, data)
            if durable:
                ops.fsync(fd)
            identity = _identity(os.fstat(fd))
        finally:
            os.close(fd)
        if replace(ops, temporary, name, dir_fd=dir_fd):
            identity = _identity(os.stat(name, dir_fd=dir_fd))
    except OSError as failure:
        try:
            ops.unlink(temporary, dir_fd=dir_fd)
        except OSError as second:
            # The next attempt overwrites the leftover; raise the first failure, which explains more.
            failure.add_note(f"{temporary} stays behind: {second}")
        raise
    return identity


def _keep_owner(ops: FileOps, fd: int, old: os.stat_result) -> None:
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) == (old.st_uid, old.st_gid):
        return
    # Only root can change a file's owner. A daemon that has dropped its privileges owns what it writes and keeps the
    # group if it is a member of it. If it is not, it could read the old file only as anybody can, and anybody can read
    # the new one.
    for uid in (old.st_uid, -1):
        try:
            ops.chown(fd, uid, old.st_gid)
        except PermissionError:
            continue
        return


def _stamp(key: Key, date: str) -> str:
    return f"{key.id} {key.name} {key.ip} {date}\n"


def _read_dates(path: Path) -> dict[int, str]:
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return {}
    dates = {}
    for line in text.split("\n"):
        parts = line.split(" ", 3)
        number = parse_id(parts[0])
        if len(parts) == _PARTS and number is not None:
            dates[number] = parts[3]
    return dates

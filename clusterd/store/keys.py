"""Agent keys: `etc/client.keys` and `queue/agents-timestamp` (wdb.md 8.5)."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from clusterd.agent_keys import KEY_FILE, Key, Other, decode_keys, parse_id, parse_keys, readable
from clusterd.file_version import FileVersion, version_at, version_of
from clusterd.key_guard import WRITTEN_KEPT, KeyContent, note_written
from clusterd.store.key_table import KeyTable
from hashing.atomic import OPEN_DIRECTORY, FileOps, create_temporary
from hashing.in_place import replace, sweep

TIMESTAMPS = "queue/agents-timestamp"
MODE = 0o640
"""Mode of a new file; a replaced file keeps its mode and owner."""
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
_PARTS = 4
_NO_FILE: FileVersion = (0, 0, 0, 0, 0)


class Unreadable(ValueError):
    """client.keys has content, but no line of it is an agent's."""


class SuddenLoss(ValueError):
    """client.keys lacks many keys that it had, and nobody has allowed their removal."""


class ChangedMeanwhile(OSError):
    """Another program wrote the file after it was read; the file was left unchanged."""


class NotSynced(OSError):
    """The file was replaced for every reader, but a power failure may bring the old one back."""


class KeyMarks(NamedTuple):
    """What authd says of client.keys to whoever keeps the database equal to it. `own`: the version that it wrote last,
    and the database with it. `others`: the version of other programs that it read last: it writes those keys again into
    the file, but not into the database. `doubts`: how often it has left the database as it may not be."""

    own: FileVersion | None = None
    others: FileVersion | None = None
    doubts: int = 0


class KeyFile:
    """The file on disk and its table in memory, read again after another program has changed it. Blocking: call it in a
    thread."""

    def __init__(self, root: str, ops: FileOps | None = None) -> None:
        self._root = root
        self._digests: deque[bytes] = deque(maxlen=WRITTEN_KEPT)
        self._path = Path(root) / KEY_FILE
        self._stamps_path = Path(root) / TIMESTAMPS
        self._ops = ops or FileOps()
        self._version: FileVersion | None = None
        """Of the file that `table` was read from, or is."""
        self.marks = KeyMarks()
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
        version = version_at(self._path)
        self.news = None
        if version == self._version and version is not None:
            return False
        data = None if version is None else self._path.read_bytes()
        keys, other = _parsed(data)
        self.table, self.news = KeyTable(keys, other), KeyContent(data, keys)
        self.table.count_from(self._greatest)
        self._greatest = self.table.greatest
        self._version = version
        if version is None or version != self.marks.own:
            self.marks = self.marks._replace(others=version or _NO_FILE)
        self._stamps = None
        return version is not None

    def forget(self) -> None:
        """Discards the table, which was never written: the next `refresh` reads the file."""
        self._version = None
        self.table = KeyTable()

    def doubt_database(self) -> None:
        """The database may differ from the file: whoever keeps it equal has to read that, whoever wrote it."""
        self.marks = self.marks._replace(doubts=self.marks.doubts + 1)

    def _check_unchanged(self) -> None:
        """Raises ChangedMeanwhile, OSError."""
        if version_at(self._path) != self._version:
            raise ChangedMeanwhile(f"{KEY_FILE} is being changed by another program")

    @property
    def bad_lines(self) -> int:
        """Lines of the file that are no agents."""
        return len(self.table.other.bad)

    def save(self) -> None:
        """Replaces the file and syncs it to disk. Raises ChangedMeanwhile, OSError: the old file is unchanged and the
        table must be discarded. Raises NotSynced: the new file is in place."""
        content = self.table.render().encode(errors="surrogateescape")
        self._check_unchanged()
        self._digests.append(blake2b(content).digest())
        note_written(self._root, self._digests)
        fd = os.open(self._path.parent, OPEN_DIRECTORY)
        try:
            # It is checked once more when all is written: with many keys, or a slow disk, that takes a while.
            written = _replace(
                self._ops, fd, self._path.name, content, durable=True, before_rename=self._check_unchanged
            )
            self._version, self.marks = written, self.marks._replace(own=written)
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


def _parsed(data: bytes | None) -> tuple[list[Key], Other]:
    keys, other = parse_keys("" if data is None else decode_keys(data))
    if other.bad and not keys:
        raise Unreadable(f"no line of {KEY_FILE} is one of agents ({len(other.bad)} lines)")
    return keys, other


def _moments(path: Path) -> dict[int, int]:
    moments = {}
    for number, date in _read_dates(path).items():
        try:
            moments[number] = int(time.mktime(time.strptime(date, DATE_FORMAT)))
        except (ValueError, OverflowError):
            # Not one of our lines; skip it, the date is for people only.
            continue
    return moments


def _replace(
    ops: FileOps,
    dir_fd: int,
    name: str,
    data: bytes,
    *,
    durable: bool,
    before_rename: Callable[[], None] = lambda: None,
) -> FileVersion:
    """Writes a temporary file and renames it. Mode and owner stay. Returns the version that it wrote. Raises OSError,
    also that of `before_rename`: nothing is changed and no temporary file is left."""
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
            written = os.fstat(fd)
        finally:
            os.close(fd)
        before_rename()
        is_copied = replace(ops, temporary, name, dir_fd=dir_fd)
    except OSError as failure:
        try:
            ops.unlink(temporary, dir_fd=dir_fd)
        except OSError as second:
            # The next attempt overwrites the leftover; raise the first failure, which explains more.
            failure.add_note(f"{temporary} stays behind: {second}")
        raise
    try:
        found = os.stat(name, dir_fd=dir_fd)
    except OSError:
        return version_of(written)  # gone again: whoever looks next sees another version
    # A rename changes the ctime. Anything else is the change of another program.
    return version_of(found if is_copied or version_of(found)[:-1] == version_of(written)[:-1] else written)


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

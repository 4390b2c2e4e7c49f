"""Reads the places that file events name again, and reports what has changed in the manifest (wire.md 5.1). It
follows the rules of a whole walk (walk.py) and gives the manifest that a walk would give."""

import os
import stat
import time
from collections.abc import Callable, Iterable

import msgspec

from hashing.atomic import TEMPORARY_PREFIX
from hashing.digest_cache import NO_ROWS, CachedDirectory, CachedFile, ShardRows, files_checksum
from hashing.errors import FileVanished, LinkToNothing, Note, UnsafePath
from hashing.live_manifest import LiveManifest
from hashing.manifest import FileMeta
from hashing.rules import ItemRule, Rules, is_too_deep, item_of
from hashing.walk import OnStep, Walk

REUSE_ABOVE = 32
"""Files known below a directory from which on it is cheaper to look up their digests than to read them all."""

Shards = Callable[[], Iterable[ShardRows]]


class Rescan(msgspec.Struct, frozen=True):
    """`changes` and `unread` are for the manifest that was given. `trees`: those of the paths that are directories.
    `again` as in ShardScan, of the places looked at. `hashed`, `reused`, `hashed_bytes`, `notes` as in ShardScan."""

    changes: dict[str, FileMeta | None]
    unread: frozenset[str]
    trees: list[str]
    again: list[str]
    hashed: int
    reused: int
    hashed_bytes: int
    notes: list[Note]


def rescan(
    root: str,
    rules: Rules,
    live: LiveManifest,
    paths: Iterable[str],
    directories: Iterable[str] = (),
    shards: Shards = tuple,
    *,
    on_step: OnStep | None = None,
) -> Rescan:
    """Read the files `paths` again; of those that are directories (also: directories of items, or above them; "" for
    all) everything below. In `directories` only the files that lie directly in them. All relative to `root`, no
    trailing slash.

    `shards`: the digest caches, asked for when a large directory is looked at: what is the same file still is not read.
    Raises OSError only when `root` itself cannot be opened.
    """
    look = _Look(root, rules, live, shards, on_step or _nothing)
    try:
        for path in sorted(set(paths)):
            look.at(path)
        look.know_listed(directories)
        for path in sorted(set(directories)):
            look.into(path)
    finally:
        os.close(look.root_fd)
    return look.result()


def _nothing() -> None:
    return


class _PartWalk(Walk):
    """The walk of a part of the tree; what is known is the manifest."""

    def __init__(self, root: str, rules: Rules, on_step: OnStep, live: LiveManifest) -> None:
        super().__init__(root, rules, 0, 1, NO_ROWS, ignore_cache=False, on_step=on_step, started_ns=time.time_ns())
        self._live = live

    def was_there(self, item: ItemRule, path: str) -> bool:
        return bool(self._live.below(path))

    def was_file_there(self, path: str, known: CachedFile | None) -> bool:
        return path in self._live


class _Look:
    """The state of one rescan. `trees`, `listed`, `files`: the places whose rows are those found, and no others."""

    def __init__(self, root: str, rules: Rules, live: LiveManifest, shards: Shards, on_step: OnStep) -> None:
        self.rules = rules
        self.live = live
        self.shards = shards
        self.walk = _PartWalk(root, rules, on_step, live)
        self.root_fd = self.walk.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.found: list[FileMeta] = []
        self.trees: set[str] = set()
        self.existing: list[str] = []
        self.listed: set[str] = set()
        self.files: set[str] = set()

    # ---- places ------------------------------------------------------------------------------------------------------

    def at(self, path: str) -> None:
        """One path of an event."""
        if self.is_covered(path):
            return
        around = [item for item in self.rules.items if path.startswith(item.key)]
        if not path or any(item.key.startswith(path + "/") for item in self.rules.items):
            # The directory of an item, or above one.
            self.tree(path)
            self.files.add(path)
        if not around:
            return
        directory, _, name = path.rpartition("/")
        if is_too_deep(directory):
            return  # a walk does not go there: it has said so of the directory above
        try:
            fd = self.walk.links.directory(self.root_fd, directory)
        except LinkToNothing as away:
            if self.live.below(away.path):
                self.tree(away.path)
            else:
                self.gone(path)
            return
        except FileVanished:
            self.gone(path)
            return
        except UnsafePath:
            if all(self.is_fine(item) for item in around):
                self.gone(path)  # below a link, or what was a directory is none any more
            else:
                self.whole(around)
            return
        except OSError:
            self.whole(around)
            return
        try:
            self.in_directory(around, path, fd, name)
        finally:
            os.close(fd)

    def in_directory(self, around: list[ItemRule], path: str, fd: int, name: str) -> None:
        """The path of an event, whose directory is open."""
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        except (FileNotFoundError, ValueError, UnicodeEncodeError):
            self.gone(path)
        except OSError:
            self.whole(around)
        else:
            if stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and self.leads_to_directory(around, path)):
                if stat.S_ISLNK(mode):
                    self.walk.findings.again.append(path + "/")  # the watch does not follow it, if it is new
                if path not in self.trees:
                    self.tree(path)
                    self.files.add(path)
                return
            self.gone(path)
            item = item_of(self.rules, path)
            if item is not None and not name.startswith(TEMPORARY_PREFIX):
                self.file(item, path, fd, name, mode)

    def leads_to_directory(self, around: list[ItemRule], path: str) -> bool:
        if not any(item.recursive for item in around):
            return False
        return self.walk.links.is_followed(self.root_fd, path, before=bool(self.live.below(path)))

    def file(self, item: ItemRule, path: str, fd: int, name: str, mode: int) -> None:
        walk, prefix, files = self.walk, path[: -len(name)], list[CachedFile]()
        noted, second = walk.findings.noted, walk.files.second_names
        if stat.S_ISREG(mode):
            walk.files.take(files, prefix, name, fd, None)
        elif stat.S_ISLNK(mode):
            walk.files.take_linked(files, self.root_fd, item, prefix, name, None)
        else:
            walk.findings.note("DEBUG", path, f"File {path} is not a regular file.")
        if walk.findings.noted != noted or walk.files.second_names != second or stat.S_ISLNK(mode):
            walk.findings.again.append(prefix[:-1])
        self.found += _rows(prefix, item, files)

    def into(self, path: str) -> None:
        """Read the files of one directory, nothing below it."""
        if self.is_covered(path):
            return
        try:
            fd = self.walk.links.directory(self.root_fd, path)
        except (FileVanished, UnsafePath, OSError):
            self.at(path)
            return
        try:
            self.listed.add(path)
            for item in self.rules.items:
                if path + "/" == item.key or (item.recursive and path.startswith(item.key)):
                    self.walk.visit(item, path, fd)
        finally:
            os.close(fd)

    def tree(self, path: str) -> None:
        """A directory and all below it, as every item sees it."""
        self.trees.add(path)
        self.existing.append(path)
        self.know(path)
        directory, _, name = path.rpartition("/")
        for item in self.rules.items:
            if not path or item.key.startswith(path + "/"):
                self.walk.item(self.root_fd, item)
            elif item.recursive and path.startswith(item.key):
                try:
                    fd = self.walk.links.directory(self.root_fd, directory)
                except (FileVanished, UnsafePath):
                    continue
                except OSError as error:
                    self.walk.cannot_list(item, path, error)
                    continue
                try:
                    below_fd = self.walk.enter(item, path, fd, name)
                finally:
                    os.close(fd)
                if below_fd is not None:
                    try:
                        self.walk.tree(item, path, below_fd)
                    finally:
                        os.close(below_fd)

    def gone(self, path: str) -> None:
        """The path is no directory, or nothing at all. The walk of an item reports what is below the item's own
        directory."""
        self.files.add(path)
        self.trees.add(path)

    def whole(self, items: list[ItemRule]) -> None:
        """A directory on the way cannot be opened: a walk of its items reports which rows are kept."""
        for item in items:
            path = item.key.rstrip("/")
            if not self.is_covered(path):
                self.tree(path)

    def is_fine(self, item: ItemRule) -> bool:
        """True if the item's own directory can be reached, or is not there."""
        try:
            os.close(self.walk.links.directory(self.root_fd, item.key.rstrip("/")))
        except FileVanished:
            return True
        except (UnsafePath, OSError):
            return False
        return True

    def is_covered(self, path: str) -> bool:
        """True if a directory that is looked at whole holds this path, or is it."""
        if not self.trees:
            return False
        if "" in self.trees or path in self.trees:
            return True
        at = path.find("/")
        while at >= 0:
            if path[:at] in self.trees:
                return True
            at = path.find("/", at + 1)
        return False

    def know(self, path: str) -> None:
        """Look up the digests of what is below a directory, if that is much."""
        if len(self.live.below(path) if path else self.live.rows) > REUSE_ABOVE:
            self.learn(lambda found: not path or found == path or found.startswith(path + "/"))

    def know_listed(self, paths: Iterable[str]) -> None:
        """The same for directories without what is below them, which are many sometimes."""
        listed = {path for path in paths if not self.is_covered(path)}
        if sum(len(self.live.below(path)) for path in listed) > REUSE_ABOVE:
            self.learn(listed.__contains__)

    def learn(self, is_wanted: Callable[[str], bool]) -> None:
        known = self.walk.known
        for shard in self.shards():
            for found in shard.directories:
                if is_wanted(found.path):
                    before = known.get((found.path, found.item))
                    known[found.path, found.item] = found if before is None else _joined(before, found)

    # ---- result ------------------------------------------------------------------------------------------------------

    def result(self) -> Rescan:
        walk, live = self.walk, self.live
        rows = self.found
        for directory in walk.directories:
            rows += _rows(directory.path + "/", directory.item, directory.files)
        unread_files = frozenset(walk.findings.unread)
        unread_directories = tuple(path for path in walk.findings.unread if path.endswith("/"))
        changes: dict[str, FileMeta | None] = {}
        for row in self.places():
            if row.path not in unread_files and not row.path.startswith(unread_directories):
                changes[row.path] = None
        held = live.held
        for row in rows:
            path = row.path
            if path in unread_files or path.startswith(unread_directories):
                continue
            if live.get(path) != row or path in held:
                changes[path] = row
            else:
                changes.pop(path, None)
        kept = {path for path in live.unread if not self.is_looked_at(path)}
        return Rescan(
            changes,
            frozenset(kept | set(walk.findings.unread)),
            self.existing,
            sorted(set(walk.findings.again)),
            walk.files.hashed,
            walk.files.reused,
            walk.files.hashed_bytes,
            walk.findings.notes.all(),
        )

    def places(self) -> Iterable[FileMeta]:
        """The rows of everything that was looked at."""
        live = self.live
        if "" in self.trees:
            yield from live.rows
            return
        for path in self.trees:
            yield from live.below(path)
        for path in self.files:
            row = live.get(path)
            if row is not None:
                yield row
        for path in self.listed:
            start = len(path) + 1
            yield from (row for row in live.below(path) if "/" not in row.path[start:])

    def is_looked_at(self, unread: str) -> bool:
        path = unread.rstrip("/")
        if self.is_covered(path):
            return True
        return not unread.endswith("/") and path.rpartition("/")[0] in self.listed


def _rows(prefix: str, item: ItemRule | str, files: Iterable[CachedFile]) -> list[FileMeta]:
    key = item if isinstance(item, str) else item.key
    return [FileMeta(prefix + file.name, key, file.digest, file.size, file.mtime_ns) for file in files]


def _joined(one: CachedDirectory, other: CachedDirectory) -> CachedDirectory:
    files = [*one.files, *other.files]
    return msgspec.structs.replace(one, files=files, settled=False, checksum=files_checksum(files))

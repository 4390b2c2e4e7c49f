"""Walks one shard of a tree and gives the rows of its manifest (wire.md 5.1): regular files only, never through a
linked directory. What is known to be unchanged is not read again (digest_cache.py).

A file that cannot be read keeps its row and is named in a note: every worker deletes a file that is missing in the
master's manifest (C8).
"""

import errno
import os
import time
from collections.abc import Callable
from operator import attrgetter

import msgspec
import xxhash

from hashing.atomic import TEMPORARY_PREFIX
from hashing.digest import OPEN_DIRECTORY
from hashing.digest_cache import (
    NO_ROWS,
    SETTLE_NS,
    CachedDirectory,
    CachedFile,
    ShardRows,
    files_checksum,
    fingerprint,
    make_shard_rows,
    shard_of,
)
from hashing.errors import FileVanished, LinkToNothing, Note, UnsafePath
from hashing.file_rows import AWAY, FileRows
from hashing.findings import Findings, bare_reason
from hashing.links import Links
from hashing.rules import ItemRule, Rules, is_too_deep, refusal

OnStep = Callable[[], None]


class ShardScan(msgspec.Struct, frozen=True):
    """What a scan found. `rows` is to be saved if `is_changed`; an unchanged tree changes nothing. `files`: of this
    shard, `hashed` of them were read (`hashed_bytes`), `reused` were known; the rest could not be read and are kept as
    they were. `again`: directories to look at again from time to time, as no event may tell when they have changed:
    they hold links, files with a second name, or something that could not be read. With a trailing slash: with all
    below it."""

    rows: ShardRows
    is_changed: bool
    files: int
    hashed: int
    reused: int
    hashed_bytes: int
    notes: list[Note]
    again: list[str]


def scan_shard(
    root: str,
    rules: Rules,
    shard: int,
    shards: int,
    previous: ShardRows = NO_ROWS,
    *,
    ignore_cache: bool = False,
    on_step: OnStep | None = None,
    started_ns: int | None = None,
) -> ShardScan:
    """Walk the configured directories below `root` and give the files whose path hashes to `shard` of `shards`.

    `previous`: the rows of the last scan of this shard, what is unchanged since is taken over; with `ignore_cache`
    every file is read all the same. `on_step` is called again and again while this works, at least once per buffer
    read. `started_ns`: wall clock (ns), now if None.

    What cannot be read is in the notes, and its rows are those of `previous`; a missing directory is an empty one.
    Raises OSError only when `root` itself cannot be opened.
    """
    walk = Walk(root, rules, shard, shards, previous, ignore_cache, on_step or _nothing, started_ns or time.time_ns())
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for item in rules.items:
            walk.item(root_fd, item)
    finally:
        os.close(root_fd)
    return walk.result()


def printable(name: str) -> str:
    """A file name from the system as text that can be shown and sent: bytes that are not UTF-8 as `\\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _nothing() -> None:
    return


class Walk:
    """The state of one scan; rescan.py uses it for parts of a tree."""

    def __init__(
        self,
        root: str,
        rules: Rules,
        shard: int,
        shards: int,
        previous: ShardRows,
        ignore_cache: bool,
        on_step: OnStep,
        started_ns: int,
    ) -> None:
        self.root_fd = -1
        self.links = Links(root, rules)
        self.rules = rules
        self.shard = shard
        self.shards = shards
        self.previous = previous
        self.on_step = on_step
        self.settled_before = started_ns - SETTLE_NS
        self.reuse_lists = not ignore_cache and previous.rules == fingerprint(rules)
        self.known = {(directory.path, directory.item): directory for directory in previous.directories}
        self.excluded_names = frozenset(rules.excluded_files)
        self.excluded_extensions = rules.excluded_extensions
        self.directories: list[CachedDirectory] = []
        self.findings = Findings(root)
        self.files = FileRows(
            self.findings, self.links, self.was_file_there, self.settled_before, on_step, reuse=not ignore_cache
        )

    def result(self) -> ShardScan:
        known, found, taken = self.known, self.findings, self.files
        is_same = (
            self.reuse_lists
            and len(self.directories) == len(known)
            and all(known.get((new.path, new.item)) is new for new in self.directories)
            and sorted(found.unread) == self.previous.unread
        )
        rows = self.previous if is_same else make_shard_rows(self.rules, self.directories, found.unread)
        files = sum(len(directory.files) for directory in self.directories)
        return ShardScan(
            rows, not is_same, files, taken.hashed, taken.reused, taken.hashed_bytes, found.notes.all(), found.again
        )

    # ---- directories -------------------------------------------------------------------------------------------------

    def item(self, root_fd: int, item: ItemRule) -> None:
        path = item.key.rstrip("/")
        try:
            self.root_fd = root_fd
            fd = self.links.directory(root_fd, path)
        except FileVanished:
            return
        except UnsafePath as error:
            self.cannot_list(item, path, OSError(errno.ELOOP, error.text))
            return
        except OSError as error:
            self.cannot_list(item, path, error)
            return
        try:
            self.tree(item, path, fd)
        finally:
            os.close(fd)

    def tree(self, item: ItemRule, path: str, fd: int) -> None:
        """Take a directory, open as `fd`, and all below it. Those on the way to the one that is looked at stay open: at
        most as many as a path may have."""
        way = [(path, fd, iter(self.visit(item, path, fd)))]
        try:
            while way:
                path, fd, names = way[-1]
                name = next(names, None)
                if name is None:
                    way.pop()
                    if way:
                        os.close(fd)
                    continue
                below = f"{path}/{name}"
                below_fd = self.enter(item, below, fd, name)
                if below_fd is not None:
                    # On the way before it is looked at, so that it is closed whatever happens.
                    way.append((below, below_fd, iter(())))
                    way[-1] = (below, below_fd, iter(self.visit(item, below, below_fd)))
        finally:
            for _, fd, _ in way[1:]:
                os.close(fd)

    def visit(self, item: ItemRule, path: str, fd: int) -> list[str]:
        """Take one directory, open as `fd`. Returns the names of those in it."""
        self.on_step()
        known = self.known.get((path, item.key))
        try:
            # The identity is taken before the names are read: whatever changes after this is seen by the next scan.
            status = os.fstat(fd)
            if known is not None and self.is_unchanged(known, status, fd):
                found = known
                self.files.reused += len(known.files)
            else:
                found = self.list_names(item, path, fd, status, known)
                if found == known:
                    found = known
        except OSError as error:
            self.cannot_list(item, path, error)
            return []
        self.directories.append(found)
        return found.directories

    def enter(self, item: ItemRule, path: str, parent_fd: int, name: str) -> int | None:
        """Open a directory for `tree`; the caller closes it. None if it is not to be taken, which is noted."""
        if is_too_deep(path):
            self.cannot_list(item, path, OSError(errno.ENAMETOOLONG, "Too many directories below one another"))
            return None
        try:
            return os.open(name, OPEN_DIRECTORY, dir_fd=parent_fd)
        except OSError as error:
            # Gone, or something else in its place, since its parent was listed: not a directory of ours any more.
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and self.links.any_below:
                return self.through_link(item, path)
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                self.cannot_list(item, path, error)
            return None

    def through_link(self, item: ItemRule, path: str) -> int | None:
        """The directory that a link leads to; None if there is none."""
        try:
            return self.links.directory(self.root_fd, path)
        except LinkToNothing:
            if self.was_there(item, path):
                self.cannot_list(item, path, OSError(errno.ENOENT, AWAY))
            return None
        except (FileVanished, UnsafePath):
            return None
        except OSError as error:
            self.cannot_list(item, path, error)
            return None

    def was_there(self, item: ItemRule, path: str) -> bool:
        """Whether something is known of this directory."""
        return (path, item.key) in self.known

    def was_file_there(self, path: str, known: CachedFile | None) -> bool:
        """`known`: the row that this walk knows."""
        return known is not None

    def cannot_list(self, item: ItemRule, path: str, error: OSError) -> None:
        """Keep what was known of a directory and all below it. To be listed again next time, whatever its times say."""
        for known in self.previous.directories:
            if known.item == item.key and (known.path == path or known.path.startswith(path + "/")):
                kept = msgspec.structs.replace(known, settled=False) if known.settled else known
                self.directories.append(kept)
        self.findings.unread.append(path + "/")
        self.findings.again.append(path + "/")
        # Each shard says so, as it may have failed in one of them only: who joins the shards says it once.
        reason = self.findings.explain(error, path)
        self.findings.note("WARNING", path, f"Error getting file status: {reason}.", why=bare_reason(error))

    def is_unchanged(self, known: CachedDirectory, status: os.stat_result, fd: int) -> bool:
        """True if a known directory has the same names as before and no file of this shard in it needs to be read."""
        if not (
            self.reuse_lists
            and known.settled
            and known.mtime_ns == status.st_mtime_ns
            and known.ctime_ns == status.st_ctime_ns
            and known.inode == status.st_ino
            and known.device == status.st_dev
        ):
            return False
        stat, on_step = os.stat, self.on_step
        for number, file in enumerate(known.files):
            if not number & 255:
                on_step()
            if not file.settled:
                return False
            try:
                status = stat(file.name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                return False
            if (  # is_same, written out: this runs for every file of every scan
                status.st_nlink != 1  # to be told as in list_names
                or status.st_mtime_ns != file.mtime_ns
                or status.st_ctime_ns != file.ctime_ns
                or status.st_size != file.size
                or status.st_ino != file.inode
                or status.st_dev != file.device
            ):
                return False
        return True

    def list_names(
        self, item: ItemRule, path: str, fd: int, status: os.stat_result, known: CachedDirectory | None
    ) -> CachedDirectory:
        """Read the names of a directory, and those files of this shard that are not known unchanged."""
        noted_before, second_before = self.findings.noted, self.files.second_names
        unread_before = len(self.findings.unread)
        prefix = path + "/"
        before = {file.name: file for file in known.files} if known is not None else {}
        directories, names, links, leads_on = self.entries(item, prefix, fd, before)
        files: list[CachedFile] = []
        for number, name in enumerate(names):
            if not number & 15:
                self.on_step()
            self.files.take(files, prefix, name, fd, before.get(name))
        for name in links:
            self.files.take_linked(files, self.root_fd, item, prefix, name, before.get(name))
        files.sort(key=attrgetter("name"))
        # A directory with something to tell is listed again each time, so that it is told again.
        is_plain = (
            not links
            and not leads_on
            and self.files.second_names == second_before
            and self.findings.noted == noted_before
            and len(self.findings.unread) == unread_before
        )
        if not is_plain:
            self.findings.again.append(path)
        settled = is_plain and max(status.st_mtime_ns, status.st_ctime_ns) < self.settled_before
        return CachedDirectory(
            path,
            item.key,
            status.st_dev,
            status.st_ino,
            status.st_mtime_ns,
            status.st_ctime_ns,
            settled,
            directories,
            files,
            files_checksum(files),
        )

    def entries(
        self, item: ItemRule, prefix: str, fd: int, before: dict[str, CachedFile]
    ) -> tuple[list[str], list[str], list[str], bool]:
        """The names in a directory: directories to be entered (sorted), files and links to files of this shard; and
        whether any link leads to a directory. `before`: the files that are known of it, by name."""
        prefix_bytes = prefix.encode()
        only = None if item.files == ("all",) else frozenset(item.files)
        rivals = self.rivals(item, prefix)
        hash_path, shard, shards = xxhash.xxh3_64_intdigest, self.shard, self.shards
        excluded_names, excluded_extensions = self.excluded_names, self.excluded_extensions
        directories: list[str] = []
        names: list[str] = []
        links: list[str] = []
        leads_on = False
        with os.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                if entry.is_dir(follow_symlinks=False):
                    if item.recursive and self.is_text(prefix, name):
                        directories.append(name)
                    continue
                if (
                    item.recursive
                    and self.links.any_below
                    and entry.is_symlink()
                    and not _is_file(entry)
                    and (_is_directory(entry) or not self.was_file_there(prefix + name, before.get(name)))
                ):
                    if self.is_text(prefix, name) and self.leads_to_directory(item, prefix + name):
                        directories.append(name)
                    leads_on = True
                    continue
                try:
                    if hash_path(prefix_bytes + name.encode()) % shards != shard:
                        continue
                except UnicodeEncodeError:
                    if only is None and not name.endswith(excluded_extensions):
                        self.is_text(prefix, name)
                    continue
                if (
                    name in excluded_names
                    or name.endswith(excluded_extensions)
                    or name.startswith(TEMPORARY_PREFIX)
                    or (only is not None and name not in only)
                ):
                    continue
                if rivals and any(refusal(self.rules, rival, prefix + name) is None for rival in rivals):
                    continue
                if entry.is_file(follow_symlinks=False):
                    names.append(name)
                elif entry.is_symlink():
                    links.append(name)
                else:
                    self.findings.note("DEBUG", prefix + name, f"File {prefix}{name} is not a regular file.")
        directories.sort()
        return directories, names, links, leads_on

    def leads_to_directory(self, item: ItemRule, path: str) -> bool:
        """True for a link to a directory that is followed; one that is not is noted, by one shard. What is behind it is
        looked at in every scan: no event need tell of it."""
        try:
            os.close(self.links.directory(self.root_fd, path))
        except (FileVanished, UnsafePath) as error:
            if isinstance(error, LinkToNothing) and self.was_there(item, path):
                self.cannot_list(item, path, OSError(errno.ENOENT, AWAY))
            elif shard_of(path, self.shards) == self.shard:
                self.findings.note("WARNING", path, f"File {path} is left out: it {error.text}.", why=error.text)
            return False
        except OSError:
            pass  # `enter` finds it again, and keeps what was known below
        self.findings.again.append(path + "/")
        return True

    def rivals(self, item: ItemRule, prefix: str) -> list[ItemRule]:
        """Items with a longer key that may also describe files of this directory; the longest key has them."""
        return [other for other in self.rules.items if len(other.key) > len(item.key) and prefix.startswith(other.key)]

    def is_text(self, prefix: str, name: str) -> bool:
        """True if the name is UTF-8. If not it can be in no metadata: noted, by one shard."""
        try:
            name.encode()
        except UnicodeEncodeError:
            path = prefix + printable(name)
            if shard_of(path, self.shards) == self.shard:
                text = f"File {path} is left out: its name is not UTF-8."
                self.findings.note("WARNING", path, text, why="name is not UTF-8")
            return False
        return True


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a file in the end; not, if it leads nowhere or in a circle."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """The same for a directory."""
    try:
        return entry.is_dir()
    except OSError:
        return False

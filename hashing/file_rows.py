"""The row of one file: as it is known, or read (wire.md 5.1)."""

import errno
import os
from collections.abc import Callable
from typing import TypeGuard

import msgspec

from hashing.digest import OPEN_FILE, Buffer
from hashing.digest_cache import CachedFile, is_same, read_file
from hashing.errors import FileVanished, LinkToNothing, UnsafePath
from hashing.findings import Findings, bare_reason
from hashing.links import Links
from hashing.rules import ItemRule

AWAY = "the link leads to nothing"


class FileRows:
    """Reads what is not known unchanged. `hashed`, `hashed_bytes`, `reused`: counts as in ShardScan. `second_names`:
    files that have another name, too (a hard link): no event tells of what is written through that one."""

    def __init__(
        self,
        findings: Findings,
        links: Links,
        was_there: Callable[[str, CachedFile | None], bool],
        settled_before: int,
        on_step: Callable[[], None],
        *,
        reuse: bool,
    ) -> None:
        """`was_there`: whether there is a row of a path, of which the walk knows this one; `settled_before`: files that
        were changed before this moment (wall clock, ns) are known by their times; `reuse`: take over what is known
        unchanged."""
        self._findings = findings
        self._links = links
        self._was_there = was_there
        self._settled_before = settled_before
        self._on_step = on_step
        self._reuse = reuse
        self._buffer = Buffer()
        self.hashed = 0
        self.hashed_bytes = 0
        self.reused = 0
        self.second_names = 0

    def take(self, files: list[CachedFile], prefix: str, name: str, dir_fd: int, known: CachedFile | None) -> None:
        """Add the row of one file to `files`: as known, or read."""
        try:
            if self._may_reuse(known) and is_same(known, status := os.stat(name, dir_fd=dir_fd, follow_symlinks=False)):
                self.reused += 1
                self.second_names += status.st_nlink > 1
                files.append(known)
                return
            fd = os.open(name, OPEN_FILE, dir_fd=dir_fd)
            try:
                file = read_file(name, fd, self._buffer, self._settled_before, self._on_step)
                self.second_names += os.fstat(fd).st_nlink > 1
            finally:
                os.close(fd)
        except OSError as error:
            self._cannot_read(files, prefix + name, error, known)
            return
        self._add(files, file)

    def take_linked(
        self,
        files: list[CachedFile],
        root_fd: int,
        item: ItemRule,
        prefix: str,
        name: str,
        known: CachedFile | None,
    ) -> None:
        """The same for a link: the file it leads to counts, if that lies inside the same item."""
        path = prefix + name
        try:
            fd = self._links.file(root_fd, item.key, path)
            try:
                if self._may_reuse(known) and is_same(known, os.fstat(fd)):
                    self.reused += 1
                    files.append(known)
                    return
                file = read_file(name, fd, self._buffer, self._settled_before, self._on_step)
            finally:
                os.close(fd)
        except LinkToNothing:
            if self._was_there(path, known):
                self._cannot_read(files, path, OSError(errno.ENOLINK, AWAY), known)
            return
        except FileVanished:
            self._cannot_read(files, path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), known)
            return
        except UnsafePath as error:
            self._findings.note("WARNING", path, f"File {path} is left out: it {error.text}.", why=error.text)
            return
        except OSError as error:
            self._cannot_read(files, path, error, known)
            return
        self._add(files, file)

    def _may_reuse(self, known: CachedFile | None) -> TypeGuard[CachedFile]:
        return self._reuse and known is not None and known.settled

    def _add(self, files: list[CachedFile], file: CachedFile | None) -> None:
        """Add a file that was read; None is one that became something else than a regular file since it was listed."""
        if file is not None:
            self.hashed += 1
            self.hashed_bytes += file.size
            files.append(file)

    def _cannot_read(self, files: list[CachedFile], path: str, error: OSError, known: CachedFile | None) -> None:
        reason = self._findings.explain(error, path)
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            # Gone, or something else in its place. The names of the directory have changed: the next scan sees that.
            self._findings.note("DEBUG", path, f"File {path} was deleted in previous iteration: {reason}")
            return
        if known is not None:
            files.append(msgspec.structs.replace(known, settled=False) if known.settled else known)
        self._findings.unread.append(path)
        text = f"Can't read metadata from file {path}: {reason}"
        self._findings.note("ERROR", path, text, why=bare_reason(error))

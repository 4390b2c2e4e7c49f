"""File events of the directories that are synchronised (watchfiles, which is inotify on Linux), as paths relative to
the root.

Events say where to look, never what is there. Some things cause no event, so the caller asks `is_stale` and walks from
time to time: the replacement of a watched directory, changes behind a link inside an item, a directory that may be read
now, and an overflow of the kernel's queue. Where something is mounted or unmounted (mounts.py), the watch ends.

The library is told to refuse rather than to skip what it may not read. It would end there, for the limit of watches,
too, and say that it watches everything.
"""

import asyncio
import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from watchfiles._rust_notify import RustNotify

from clusterd.names import is_utf8
from clusterd.sync.manifest.inotify import NEW_DIRECTORY, DirectoryNotify
from clusterd.sync.manifest.mounts import Mounts
from hashing.atomic import TEMPORARY_PREFIX
from hashing.errors import FileVanished, UnsafePath
from hashing.links import Links
from hashing.rules import Rules, item_of

STEP_MS = 25
DEBOUNCE_MS = 50
"""An event is passed on when no further one has come for a step, or after the debounce time."""
LAG_S = (DEBOUNCE_MS + STEP_MS) / 1000
"""A change is known after this time at the latest, unless the machine is busy."""
MOST_EVENTS = 4096
"""With this many events at once the kernel's queue (16,384) may have overflowed, and everything must be looked at."""
POLL_MS = 300
NOT_TEXT = "a name that is not UTF-8 was changed"
MOUNTED = "something was mounted or unmounted"
MOUNTS_MS = 1000
"""How often is asked whether something was mounted."""

Identity = tuple[int, int] | None


class Notify(Protocol):
    """The part of watchfiles' RustNotify that is used."""

    def watch(
        self, debounce_ms: int, step_ms: int, timeout_ms: int, stop_event: threading.Event
    ) -> "set[tuple[int, str]] | str": ...

    def close(self) -> None: ...


MakeNotify = Callable[[list[str]], Notify]


def watch_recursively(paths: list[str]) -> Notify:
    """Begins to watch these directories and everything below. Raises OSError and RuntimeError when the system or the
    library refuses."""
    notify: Notify = RustNotify(paths, False, False, POLL_MS, True, False)
    return notify


class CannotWatch(Exception):
    """Why files cannot be watched; for people. `is_passing`: beginning again will help."""

    def __init__(self, text: str, *, is_passing: bool) -> None:
        super().__init__(text)
        self.is_passing = is_passing


class Watcher:
    """Watches from `start` to `stop`, or until it calls `lost`."""

    def __init__(
        self,
        root: str,
        found: Callable[[set[str]], None],
        lost: Callable[[str, bool], None],
        make: MakeNotify = watch_recursively,
        make_alone: MakeNotify = DirectoryNotify,
    ) -> None:
        """`found`: gets the paths of events; `lost`: gets the reason why watching ended, and whether beginning again
        will help. Both are called on the loop."""
        self._root = os.path.abspath(root)
        self._found = found
        self._lost = lost
        self._make = make
        self._make_alone = make_alone
        self.rules: Rules | None = None
        self._roots: dict[str, Identity] = {}
        self._alone: dict[str, frozenset[str]] = {}
        self._closed: set[str] = set()
        """Directories that this user may not read: nothing in them is watched."""
        self._has_new = False
        """Whether a directory was created where directories are watched alone. It may have the name and the inode of an
        earlier one, so a comparison would not show it."""
        self._links = Links(root)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def is_watching(self) -> bool:
        return bool(self._threads)

    async def start(self, rules: Rules) -> None:
        """Begins to watch the items' directories; every change from now on is found. Raises CannotWatch."""
        await self.stop()
        self.rules, self._has_new = rules, False
        # In a thread, because it takes long with very many directories.
        notifies, mounts = await asyncio.to_thread(self._begin, rules)
        self._stopping = threading.Event()
        loop = asyncio.get_running_loop()
        for notify in notifies:
            thread = threading.Thread(
                target=self._follow,
                args=(notify, mounts if notify is notifies[0] else None, rules, self._stopping, loop),
                name="watch",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as failure:  # there is no room for a thread at this moment
                for unused in (*notifies[len(self._threads) :], *(() if self._threads else (mounts,))):
                    unused.close()
                await self.stop()
                raise CannotWatch(explain(failure), is_passing=True) from failure
            self._threads.append(thread)

    async def stop(self) -> None:
        """Ends the threads. `found` is not called any more."""
        threads, self._threads = self._threads, []
        self._stopping.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    def is_stale(self) -> bool:
        """Returns True if a watched directory is gone, new or another one than at the start, or if a closed one can be
        read now. Where a directory is watched alone, the directories in it count as well."""
        return (
            self._has_new
            or any(self._identity(path) != known for path, known in self._roots.items())
            or any(self._directories(path) != known for path, known in self._alone.items())
            or any(os.access(os.path.join(self._root, path), os.R_OK | os.X_OK) for path in self._closed)
        )

    # ---- in threads --------------------------------------------------------------------------------------------------

    def _begin(self, rules: Rules) -> tuple[list[Notify], Mounts]:
        """The library follows every link to a directory, up to `/`, and ends at a directory that it may not read, or
        at a name that is not UTF-8. So directories that hold a link out of the synchronised items, a directory that is
        closed, or such a name (nothing in it is synchronised), and those above them, are watched alone (inotify.py);
        everything else in them is watched recursively."""
        items = sorted(item.key.rstrip("/") for item in rules.items)
        self._links = Links(self._root, rules)
        self._roots = {path: self._identity(path) for path in items}
        there = [path for path in items if self._roots[path] is not None]
        tops = [path for path in there if not any(path.startswith(other + "/") for other in there)]
        self._closed = set()
        out = {link for path in tops for link in self._links_out(path, there)} | self._closed
        alone = sorted({way for link in out for way in _parents(link, tops)})
        self._alone = {path: self._directories(path) for path in alone}
        below = {f"{path}/{name}" for path, names in self._alone.items() for name in names}
        whole = sorted({*tops, *below} - {*alone, *out})
        begun: list[Notify] = []
        mounts = Mounts(os.path.join(self._root, path) for path in items)
        try:
            for make, paths in ((self._make, whole), (self._make_alone, alone)):
                if paths or make is self._make:
                    begun.append(make([os.path.join(self._root, path) for path in paths]))
        except Exception as error:  # whatever the library comes up with: no scan may fail because nothing is watched
            mounts.close()
            for notify in begun:
                notify.close()
            is_passing = isinstance(error, FileNotFoundError)  # one is gone since we looked
            raise CannotWatch(explain(error), is_passing=is_passing) from error
        return begun, mounts

    def _identity(self, path: str) -> Identity:
        """Returns device and inode of a directory, also behind a link that is followed; None for anything else."""
        try:
            root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fd = self._links.directory(root_fd, path)
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
        except (FileVanished, UnsafePath, OSError):
            return None
        finally:
            os.close(root_fd)
        return status.st_dev, status.st_ino

    def _directories(self, path: str) -> frozenset[str]:
        """Returns the names of directories in this one, and of links to directories."""
        try:
            with os.scandir(os.path.join(self._root, path)) as entries:
                return frozenset(entry.name for entry in entries if _leads_to_directory(entry))
        except OSError:
            return frozenset()

    def _links_out(self, top: str, items: list[str]) -> set[str]:
        """Returns links to directories that lead out of the items and are not followed, and names that are not UTF-8;
        notes closed directories."""
        found = set[str]()
        inside = tuple(os.path.realpath(os.path.join(self._root, path)) + "/" for path in items)
        waiting = [os.path.join(self._root, top)]
        while waiting:
            directory = waiting.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if not is_utf8(entry.name):
                            found.add(os.path.relpath(entry.path, self._root))
                        elif entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        elif (
                            entry.is_symlink()
                            and _leads_to_directory(entry)
                            and not (os.path.realpath(entry.path) + "/").startswith(inside)
                        ):
                            path = os.path.relpath(entry.path, self._root)
                            if self._identity(path) is None:
                                found.add(path)
                            else:
                                waiting.append(entry.path)  # one that is followed: what is in it may lead out
            except PermissionError:
                self._closed.add(os.path.relpath(directory, self._root))
            except OSError:
                continue  # gone
        return found

    def _follow(
        self,
        notify: Notify,
        mounts: Mounts | None,
        rules: Rules,
        stopping: threading.Event,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """The thread: passes events to the loop until it is told to stop, the library fails, or what it watches is
        hidden by a mount. Only one of the threads has the `mounts`."""
        try:
            while not stopping.is_set():
                found = notify.watch(DEBOUNCE_MS, STEP_MS, MOUNTS_MS, stopping)
                if mounts is not None and mounts.have_changed():
                    self._call(loop, self._failed, MOUNTED, True)
                    return
                if stopping.is_set() or isinstance(found, str):
                    continue
                paths = self._relevant(rules, (path for _, path in found)) if len(found) <= MOST_EVENTS else {""}
                if paths:
                    closed = {path for path in paths if _is_closed(os.path.join(self._root, path))}
                    has_new = any(number == NEW_DIRECTORY for number, _ in found)
                    self._call(loop, self._report, paths, closed, has_new)
        except Exception as error:  # whatever a foreign library, or ours, comes up with: said, and the walks go on
            # The library ends at the first name it cannot decode. A walk reports that file, and the next watch has its
            # directory alone.
            is_passing = "decode path" in str(error)
            self._call(loop, self._failed, NOT_TEXT if is_passing else explain(error), is_passing)
        finally:
            notify.close()
            if mounts is not None:
                mounts.close()

    def _relevant(self, rules: Rules, paths: Iterable[str]) -> set[str]:
        start = len(self._root) + 1
        return {path for path in (self._kept(rules, full[start:]) for full in paths) if path is not None}

    def _kept(self, rules: Rules, path: str) -> str | None:
        """Returns the path to look at for an event; None if it concerns nothing that is synchronised."""
        name = path.rpartition("/")[2]
        if name.startswith(TEMPORARY_PREFIX):
            return None
        for item in rules.items:
            if (item.recursive and path.startswith(item.key)) or item.key.startswith(path + "/"):
                break
            if path.startswith(item.key) and "/" not in path[len(item.key) :]:
                break
        else:
            return None
        # A file that belongs to no item, such as an editor's. A vanished path may have been a directory.
        if item_of(rules, path) is None and not _is_directory(os.path.join(self._root, path), when_gone=True):
            return None
        return path

    def _call(self, loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
        try:
            loop.call_soon_threadsafe(function, threading.current_thread(), *arguments)
        except RuntimeError:
            return  # the loop is closed: nobody wants to know

    # ---- on the loop -------------------------------------------------------------------------------------------------

    def _report(self, thread: threading.Thread, paths: set[str], closed: set[str], has_new: bool) -> None:
        if thread in self._threads:
            self._closed |= closed
            self._has_new |= has_new
            self._found(paths)

    def _failed(self, thread: threading.Thread, reason: str, is_passing: bool) -> None:
        if thread in self._threads:
            self._threads = []
            self._stopping.set()
            self._lost(reason, is_passing)


def explain(failure: Exception) -> str:
    """Returns the reason for people, with a remedy where one is known."""
    text = str(failure)
    if "watch limit" in text or f"os error {errno.ENOSPC}" in text or getattr(failure, "errno", None) == errno.ENOSPC:
        return "the system's limit of file watches is reached: raise fs.inotify.max_user_watches with sysctl"
    if f"os error {errno.EMFILE}" in text or getattr(failure, "errno", None) == errno.EMFILE:
        return "the system's limit of watchers is reached: raise fs.inotify.max_user_instances with sysctl"
    # The line is a WARNING, and a search for errors in the log must not find it.
    return re.sub("error|traceback", "failure", " ".join(text.split()) or "no reason given", flags=re.IGNORECASE)


def _parents(link: str, tops: list[str]) -> list[str]:
    """Returns the directories on the way to it, from the top directory of the recursive watch."""
    return [
        link[:at]
        for at, letter in enumerate(link)
        if letter == "/" and any(link[:at] == top or link.startswith(top + "/", 0, at + 1) for top in tops)
    ]


def _leads_to_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # in a circle, or where nobody may look: the library cannot follow it either


def _is_closed(path: str) -> bool:
    """Returns whether it is a directory that this user may not read."""
    return not os.access(path, os.R_OK | os.X_OK) and _is_directory(path, when_gone=False)


def _is_directory(path: str, *, when_gone: bool) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return when_gone

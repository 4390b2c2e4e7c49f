"""Each operation on files of one piece of work fails, or its process dies there: number 1, 2, 3, ... until one run has
fewer operations. `python -m tests.campaigns.every_operation WORK DIRECTORY`. It starts no nodes; it runs the functions
that the processes of a node run.

Prints one line for each run after which something is wrong, and `N runs` at the end. It is a process of its own without
threads, because every run is a fork with the layer of the campaigns (hook/sitecustomize.py) below it.
"""

import errno
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import xxhash

from clusterd.errors import StartFailure
from hashing.atomic import TEMPORARY_PREFIX, is_kept, is_temporary
from tests.campaigns.hook.sitecustomize import install
from tests.campaigns.hooked import KILL, Page
from tests.fakes.forks import die_with_parent
from tools.rig.peer_base import wait_until

REFUSALS = (OSError, sqlite3.Error, StartFailure)
"""The errors that the processes of a node expect of a disk, and report."""
Say = Callable[[Any], None]
DIED, WELL, FAILED = "died", "well", "failed"
READS = frozenset(
    ("open", "read", "readv", "pread", "preadv", "stat", "lstat", "fstat", "scandir", "listdir")
)  # fmt: skip
"""These need no space; a kill before one of them equals a kill before the next operation that changes something."""
LIMIT_STEP = 2048
"""Half a page of the database: the limit falls into every page that is written, and between any two."""


class Work:
    """`prepare` makes a tree. `work` runs in a fork and reports what it has promised. `heal` runs in another fork
    without faults and does what the next start and the next round do. `broken` returns what is wrong after `work`,
    `wrong` what is wrong after `heal`, given those promises."""

    uses_database = False
    codes: ClassVar[tuple[int, ...]] = (KILL, errno.ENOSPC)
    """What each operation that changes something meets beside EIO."""

    def lasting(self, root: Path) -> Path:
        """What `heal` and `wrong` read of what `work` leaves."""
        return root

    def prepare(self, root: Path) -> None:
        raise NotImplementedError

    def work(self, root: Path, say: Say) -> None:
        raise NotImplementedError

    def heal(self, root: Path, say: Say) -> None:
        raise NotImplementedError

    def broken(self, root: Path, said: list[Any]) -> str:
        return ""

    def wrong(self, root: Path, said: list[Any], healed: list[Any]) -> str:
        raise NotImplementedError


def forked(before: Callable[[], None], work: Callable[[Path, Say], None], root: Path) -> tuple[str, list[Any]]:
    """Runs `work` in a process of its own. Returns how that ended, and what it reported until then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.close(reading)
        # A failed operation may have only these outcomes; a traceback tells of any other.
        status = 1
        try:
            before()
            work(root, lambda value: _send(writing, value))
            status = 0
        except REFUSALS:
            status = 2
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = list(_received(file))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {0: WELL, 2: FAILED, 1: "raised something else"}.get(code, DIED), said


def _send(fd: int, value: Any) -> None:
    data = pickle.dumps(value)
    os.writev(fd, [len(data).to_bytes(4, "big"), data])


def _received(file: Any) -> Iterator[Any]:
    while head := file.read(4):
        yield pickle.loads(file.read(int.from_bytes(head, "big")))


def limited(size: int, kill: bool) -> None:
    """Limits files to `size`: a larger one is EFBIG, or the end of the process. This reaches the writes of SQLite."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kill else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Runs:
    """Makes all runs of one work."""

    def __init__(self, work: Work, place: Path) -> None:
        self._work = work
        self._prepared, self._root = place / "prepared", place / "root"
        self._page_path = place / "page"
        self._page = Page(self._page_path)
        self.count = 0
        self.problems: list[str] = []
        self._judged: dict[tuple[Any, ...], str] = {}
        self._prepared.mkdir()
        ended, _ = forked(lambda: None, lambda root, say: work.prepare(root), self._prepared)
        if ended != WELL:
            raise SystemExit(f"could not prepare: {ended}")
        # Once here, so that no fork has to load and to compile what it needs.
        self._fresh()
        for part in (work.work, work.heal):
            part(self._root, lambda value: None)
        self.count = 0
        wait_until(lambda: len(os.listdir("/proc/self/task")) == 1, 60, "its threads have ended")

    def all(self) -> None:
        number = 1
        while self._met(number, errno.EIO):
            number += 1
        operations, refused = self._operations()
        changing = [at for at, what in enumerate(operations, 1) if what.split()[0] not in READS]
        for code in self._work.codes:
            for number in changing:
                if code != KILL or number not in refused:
                    self._met(number, code)
        if self._work.uses_database:
            for kill in (True, False):
                size = 0
                while self._hit(size, kill):
                    size += LIMIT_STEP

    def _operations(self) -> tuple[list[str], set[int]]:
        """All of a run without a fault, and which of them the system refused: a kill before one of these equals a kill
        before the next one, too."""
        self._fresh()
        self._page.arm(self._root)
        forked(lambda: install(str(self._page_path)), self._work.work, self._root)
        self._page.disarm()
        return self._page.noted(), self._page.refused()

    def _met(self, number: int, code: int) -> bool:
        """Lets this operation fail; returns False if there are fewer."""
        self._fresh()
        self._page.arm(self._root, number, code)
        ended, said = forked(lambda: install(str(self._page_path)), self._work.work, self._root)
        what = self._page.failed
        self._page.disarm()
        name = errno.errorcode[code] if code else "killed"
        if what:
            self._judge(f"operation {number} ({what.replace(str(self._root), '')}, {name})", ended, said, code == KILL)
        elif ended != WELL:
            self.problems.append(f"without a fault it {ended}")
        return bool(what)

    def _hit(self, size: int, kill: bool) -> bool:
        """Limits the size of files; returns False if no file reached the limit."""
        self._fresh()
        ended, said = forked(lambda: limited(size, kill), self._work.work, self._root)
        largest = max(path.stat().st_size for path in self._root.rglob("*") if path.is_file())
        self._judge(f"files of {size} bytes at most, {'killed' if kill else 'EFBIG'}", ended, said, kill)
        return not (ended == WELL and largest < size)

    def _fresh(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        shutil.copytree(self._prepared, self._root)
        self.count += 1

    def _judge(self, what: str, ended: str, said: list[Any], kill: bool) -> None:
        wrong = "" if ended in (WELL, FAILED) or (kill and ended == DIED) else f"the process {ended}"
        wrong = wrong or self._work.broken(self._root, said)
        wrong = wrong or self._next_round(said)
        if wrong:
            self.problems.append(f"{what}: {wrong}")

    def _next_round(self, said: list[Any]) -> str:
        """What is wrong after it. What left the same files and the same promises as another run needs no second one."""
        lasting = self._work.lasting
        left = (pickle.dumps(said), *state_of(lasting(self._root), lasting(self._prepared)))
        if left not in self._judged:
            healed, news = forked(lambda: None, self._work.heal, self._root)
            wrong = self._work.wrong(self._root, said, news) if healed == WELL else f"the next round {healed}"
            self._judged[left] = wrong
        return self._judged[left]


def state_of(root: Path, before: Path) -> Iterator[tuple[Any, ...]]:
    """Yields all that a next round can see below `root`: paths, kinds, modes, contents, and whether the file is as old
    as `before`. The owner in the name of a temporary file is random; it is dead."""
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted((*names, *files)):
            path = Path(directory, name)
            found, relative = path.lstat(), path.relative_to(root)
            content = xxhash.xxh3_128_digest(path.read_bytes()) if stat.S_ISREG(found.st_mode) else b""
            try:
                is_old = (before / relative).lstat().st_mtime_ns == found.st_mtime_ns
            except FileNotFoundError:
                is_old = False
            if is_temporary(name) and not is_kept(name):
                relative = relative.with_name(name.removeprefix(TEMPORARY_PREFIX).partition("-")[0])
            yield str(relative), found.st_mode, content, is_old


def main(argv: list[str]) -> int:
    from tests.campaigns.works import WORKS

    name, place = argv
    runs = Runs(WORKS[name](), Path(place))
    runs.all()
    print(*runs.problems[:20], f"{runs.count} runs", sep="\n")
    return 1 if runs.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

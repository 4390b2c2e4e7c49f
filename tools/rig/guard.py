"""Ends everything that a harness (tests, benchmarks, demonstration) started when the harness ends, in whatever way.

A harness gets its directories from `guarded`. This module also runs as one small process beside the harness. It waits
for the end of the harness, even by SIGKILL, then kills every process that runs for one of those directories and removes
them. If that process is killed too, the next harness on this machine does this when it starts.

Processes are found by CLUSTERD_RIG in their environment: a directory of a harness, or one below it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

MARK = "CLUSTERD_RIG"
PROJECT = Path(__file__).resolve().parent.parent.parent
ENDING_S = 10.0
LOOKS, LOOK_S = 3, 0.05
"""A process that is just being executed shows no environment: only so many looks that find nothing count."""


class _Books:
    """The list of this process's directories: a file named after its pid and start time, one directory a line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._open: list[str] = []
        self._file = Path()
        self._life = -1
        """The end of a pipe that the system closes when this process ends."""

    def add(self, directory: Path) -> None:
        with self._lock:
            if self._pid != os.getpid():  # the first one, or a fork of a process that had some
                self._begin()
            self._open.append(str(directory))
            self._write()

    def remove(self, directory: Path) -> None:
        with self._lock:
            if self._pid == os.getpid():
                self._open.remove(str(directory))
                self._write()

    def _begin(self) -> None:
        sweep()
        self._pid, self._open = os.getpid(), []
        self._file = _place() / f"{self._pid}-{psutil.Process().create_time():.2f}"
        self._write()
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        environment["PYTHONPATH"] = str(PROJECT)
        ours, self._life = os.pipe()
        try:
            subprocess.run(
                [sys.executable, "-m", "tools.rig.guard", str(self._file)],
                stdin=ours,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                check=True,
            )
        finally:
            os.close(ours)

    def _write(self) -> None:
        beside = self._file.with_name(f"{self._file.name}.new")  # the name has a dot of its own
        beside.write_text("".join(f"{directory}\n" for directory in self._open))
        beside.replace(self._file)


_books = _Books()


@contextlib.contextmanager
def guarded(prefix: str, where: str | None = None) -> Iterator[Path]:
    """Yields a new directory that other users may pass through. It is removed at the end of the block; if this process
    ends before, its guard kills everything that runs for the directory and removes it."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=where)).resolve()
    directory.chmod(0o711)  # nodes started as root drop to a user who has to get in
    _books.add(directory)
    try:
        yield directory
    except BaseException:
        # The block's own clean-up may have been cut short.
        _end(directory)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _books.remove(directory)


def carrying(name: str, fits: Callable[[str], bool]) -> Iterator[psutil.Process]:
    """Yields the living processes with this variable in their environment and a value that fits.

    Harnesses look often, and at every process of the machine: psutil takes three times as long as a look into /proc."""
    begin = f"\0{name}=".encode()
    for pid in os.listdir("/proc"):
        if not pid.isdecimal():
            continue
        with contextlib.suppress(OSError, psutil.Error):  # gone, or somebody else's
            with open(f"/proc/{pid}/environ", "rb") as file:
                _, found, rest = (b"\0" + file.read()).partition(begin)
            if found and fits(os.fsdecode(rest.partition(b"\0")[0])):
                process = psutil.Process(int(pid))
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def _exit(number: int) -> NoReturn:
    raise SystemExit(128 + number)


def end_in_order(leave: Callable[[int], NoReturn] = _exit) -> None:
    """Makes SIGTERM and SIGHUP end this process as Ctrl-C does: its clean-up code runs. `leave` raises."""
    own = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a fork, which has nothing to undo
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        signal.signal(number, signal.SIG_IGN)
        leave(number)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGHUP, handle)


def sweep() -> None:
    """Removes everything that dead harnesses left behind, and their lists."""
    for file in _place().iterdir():
        if not _is_alive(file.name):
            clean(file)


def clean(file: Path) -> None:
    """Kills the processes of the directories in this list, and removes the directories and the list."""
    try:
        directories = [Path(line) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return
    for directory in directories:
        _end(directory)
        shutil.rmtree(directory, ignore_errors=True)
    file.unlink(missing_ok=True)


def _end(directory: Path) -> None:
    deadline, nothing = time.monotonic() + ENDING_S, 0
    while time.monotonic() < deadline and nothing < LOOKS:
        found = list(carrying(MARK, lambda mark: Path(mark).is_relative_to(directory)))
        if not found:
            nothing += 1
            time.sleep(LOOK_S)
            continue
        nothing = 0
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def _is_alive(name: str) -> bool:
    pid, _, began = name.removesuffix(".new").partition("-")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == began
    except (psutil.Error, ValueError):
        return False


def _place() -> Path:
    """Returns the directory of the lists; one that another user owns or can write is refused."""
    place = Path(tempfile.gettempdir()) / f"clusterd-harness-{os.geteuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    facts = place.lstat()
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077 or not place.is_dir() or place.is_symlink():
        raise PermissionError(f"{place} is not ours alone: remove it")
    return place


def main() -> None:
    """Runs the guard of the harness whose list is named. It is not a child of the harness, and signals to the harness's
    group do not reach it."""
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    clean(Path(sys.argv[1]))


if __name__ == "__main__":
    main()

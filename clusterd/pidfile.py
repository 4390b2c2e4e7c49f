"""Ensures one daemon at a time with `var/run/wazuh-clusterd-{pid}.pid`, locked as long as any process of the node
lives.

The pid file keeps the stock name and content. Children inherit its lock (flock), so the lock is free exactly when the
last process of the node has ended, however that happened; a pid that was later given to another program never counts. A
short lock on the directory serialises starts. The file appears as a whole, locked: a stock control script, which takes
whatever stands in such a file for a pid and removes the file of a pid that is no process, finds no empty one.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator

OURS = "clusterd"
STOCK = "the stock wazuh-clusterd"
DIRECTORY = "var/run"
MODE = 0o640
LOCK_WAIT_S = 5.0
DYING_WAIT_S = 15.0
"""For the processes of a node whose supervisor was killed: the kernel kills them, and writing what they have open to a
slow disk may take a while."""
ENDED = ("zombie", "dead")
"""States of psutil."""
_POLL_S = 0.02
UNFINISHED = ".clusterd-pid-"
"""Beginning of the name under which a pid file is written: scripts that look for pid files do not see it. What begins
like this and is left over is removed by the next start."""
_NAME = re.compile(r"wazuh-clusterd(_child_\d+)?-(\d+)\.pid")


class AlreadyRunning(Exception):
    """Another cluster daemon, ours or stock, runs at this root. `pid` is its (first) process. `is_dying`: that one has
    ended, and what it has started ends by itself."""

    def __init__(self, pid: int, program: str, *, is_dying: bool = False) -> None:
        super().__init__(
            f"{program} (pid {pid}) was killed, and processes of it have not ended yet"
            if is_dying
            else f"{program} is already running with pid {pid}"
        )
        self.pid = pid
        self.is_dying = is_dying


class PidFile:
    """The pid file of this process. Children inherit its descriptor and with it the lock; they never change the
    file."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def open_as(self, descriptor: int) -> None:
        """The file is open as this number from now on, in place of what was: a daemon's standard input, which each of
        its processes has anyway."""
        os.dup2(self._fd, descriptor)
        os.close(self._fd)
        self._fd = descriptor

    def restore(self) -> bool:
        """Writes the file again if another program has removed it: otherwise no command finds the node, and a second
        start takes its sockets away. Returns whether it did. Children that live do not have the lock of the new file,
        only those forked later. Raises OSError; leaves it to the next call while another start looks at the
        directory."""
        if os.path.lexists(self.path):
            return False
        directory, began_ns = os.path.dirname(self.path), os.fstat(self._fd).st_mtime_ns
        try:
            with _directory_lock(directory, wait_s=0.0):
                if any(_is_held(path) for path, _ in _pid_files(directory)):
                    return False  # a second node: it must not lose its file for ours
                made = _write_own(directory)
        except TimeoutError:
            return False
        os.utime(self.path, ns=(began_ns, began_ns))
        os.dup2(made._fd, self._fd, os.get_inheritable(self._fd))
        os.close(made._fd)
        return True

    def remove(self) -> None:
        """Removes the file and closes the descriptor. Children that still live keep the lock, but nobody finds the
        file."""
        with contextlib.suppress(OSError):  # on a disk that is read-only by now it is stale without its lock
            os.unlink(self.path)
        os.close(self._fd)


def claim(root: str) -> tuple[PidFile, list[str]]:
    """Becomes the daemon of this root: removes stale pid files and writes ours. Returns it and the names of the stale
    ones.

    Waits DYING_WAIT_S for processes of a node whose supervisor was killed a moment ago. Raises AlreadyRunning, OSError
    (directory missing or not writable), TimeoutError (another start hangs)."""
    directory = f"{root}/{DIRECTORY}"
    deadline = time.monotonic() + DYING_WAIT_S
    while True:
        with _directory_lock(directory):
            try:
                stale = _remove_stale(directory)
                return _write_own(directory), stale
            except AlreadyRunning as other:
                if not other.is_dying or time.monotonic() > deadline:
                    raise
        time.sleep(_POLL_S)


def running_pid(root: str) -> int | None:
    """The supervisor's pid of the clusterd that runs at this root, or None. Has no side effects.

    After a supervisor was killed this is still its pid until its last child has ended."""
    for path, pid in _pid_files(f"{root}/{DIRECTORY}"):
        if _is_held(path):
            return pid
    return None


def pid_file_of(root: str, pid: int) -> str:
    return _path(f"{root}/{DIRECTORY}", pid)


def _path(directory: str, pid: int) -> str:
    return f"{directory}/wazuh-clusterd-{pid}.pid"


def running_daemon(root: str) -> tuple[int, str] | None:
    """Pid and program (OURS, STOCK) of the cluster daemon that runs at this root. Has no side effects."""
    for path, pid in _pid_files(f"{root}/{DIRECTORY}"):
        if _is_held(path):
            return pid, OURS
        if _is_stock(path, pid):
            return pid, STOCK
    return None


def is_process(pid: int) -> bool:
    """Whether there is a process with this pid, a zombie included; one of the threads of another process is none."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # another user's
    except (OSError, OverflowError):
        return False
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return any(line.split() == [b"Tgid:", str(pid).encode()] for line in file)
    except OSError:
        return True  # /proc is hidden


def _write_own(directory: str) -> PidFile:
    pid = os.getpid()
    path = _path(directory, pid)
    unfinished = f"{directory}/{UNFINISHED}{pid}"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        os.fchmod(fd, MODE)
        fcntl.flock(fd, fcntl.LOCK_EX)  # nobody else looks at this name; a lock stays with its file under another name
        os.write(fd, f"{pid}\n".encode())
        os.rename(unfinished, path)
    except BaseException:
        PidFile(unfinished, fd).remove()
        raise
    return PidFile(path, fd)


def _remove_stale(directory: str) -> list[str]:
    """Removes pid files of processes that have ended, and what starts that were killed left; returns the names of the
    former. Raises AlreadyRunning for one that lives."""
    stale = []
    for name in os.listdir(directory):
        if name.startswith(UNFINISHED):  # nobody writes one now: the directory is locked
            _unlink(f"{directory}/{name}")
    for path, pid in _pid_files(directory):
        if _is_held(path):
            raise AlreadyRunning(pid, OURS, is_dying=not _lives(path, pid))
        if _is_stock(path, pid):
            raise AlreadyRunning(pid, STOCK)
        _unlink(path)
        stale.append(os.path.basename(path))
    return stale


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _pid_files(directory: str) -> list[tuple[str, int]]:
    """Pid files of cluster daemons, ours and stock, parents before children."""
    found = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.append((match[1] is not None, f"{directory}/{name}", int(match[2])))
    return [(path, pid) for _, path, pid in sorted(found)]


def _is_held(path: str) -> bool:
    """Whether a process holds the lock of this pid file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lives(path: str, pid: int) -> bool:
    """Whether the process that wrote this file has not ended. One that started after the file was written reuses the
    pid; one that nobody has waited for (the first process of a container may wait for none) has ended all the same."""
    import psutil  # not for those who only ask whether ours runs, as `clusterd status` does

    try:
        process = psutil.Process(pid)
        return process.status() not in ENDED and process.create_time() <= os.stat(path).st_mtime + 1
    except (psutil.Error, OSError):
        return False


def _is_stock(path: str, pid: int) -> bool:
    """Whether a living process without our lock wrote this file: the stock daemon."""
    if pid == os.getpid() or not _lives(path, pid):
        return False
    import psutil

    try:
        return any("wazuh-clusterd" in word or "wazuh_clusterd" in word for word in psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return False


@contextlib.contextmanager
def _directory_lock(directory: str, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another start of clusterd has held {directory} for {wait_s:g} s") from None
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)

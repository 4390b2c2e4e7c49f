"""Temporary files, to be written beside a target and renamed over it: a reader sees the old file or the new one, also
after a crash. No two writers ever share a temporary name: one would rename what the other has half written.

Every change to the disk goes through FileOps, so that a test can count the operations and fail or stop at the n-th.
"""

import ctypes
import os

import xxhash

TEMPORARY_PREFIX = ".clusterd-"
TEMPORARY_SUFFIX = ".tmp"
"""`.tmp` is one of the excluded extensions of wire.md 5.1, so that a stock node never takes such a file for content."""
_PROCESS = "pid"
_KEPT = "kept"

OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Data = bytes | bytearray | memoryview


class FileOps:
    """The operations that change a file system, as one object that a test replaces. Names are relative to `dir_fd`.

    Opening for reading, stat and close change nothing and are not here.
    """

    def create(self, name: str, mode: int, *, dir_fd: int | None = None) -> int:
        """Make a new file open for writing; FileExistsError if there is anything of that name, a link included."""
        return os.open(name, OPEN_NEW, mode, dir_fd=dir_fd)

    def write(self, fd: int, data: Data) -> None:
        """Write all of `data`."""
        written = os.write(fd, data)
        if written != len(data):
            view = memoryview(data).cast("B")
            while written < len(view):
                written += os.write(fd, view[written:])

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def syncfs(self, fd: int) -> None:
        """Write out the whole file system that `fd` is on; all file systems where the C library has no syncfs.
        OSError when the kernel could not write something since `fd` was opened: then nothing may be renamed."""
        # Not in the os module. Looked up at each call: microseconds beside a sync, and nothing happens at import.
        function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if function is None:
            os.sync()
        elif function(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def rename(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        """Rename within one directory, over whatever `target` was."""
        os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def move(self, name: str, *, from_fd: int, to_fd: int) -> None:
        """Rename into another directory of the same file system, under the same name."""
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def link(self, name: str, second: str, *, dir_fd: int | None = None) -> None:
        """Give the file a second name in its directory; FileExistsError if there is anything of that name."""
        os.link(name, second, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    def unlink(self, name: str, *, dir_fd: int | None = None) -> None:
        os.unlink(name, dir_fd=dir_fd)

    def mkdir(self, name: str, mode: int, *, dir_fd: int | None = None) -> None:
        os.mkdir(name, mode, dir_fd=dir_fd)

    def rmdir(self, name: str, *, dir_fd: int | None = None) -> None:
        os.rmdir(name, dir_fd=dir_fd)

    def chmod(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def chown(self, fd: int, uid: int, gid: int) -> None:
        os.fchown(fd, uid, gid)


def sync_path(path: str | os.PathLike[str]) -> None:
    """Returns when the content of this file, or the names of this directory, are on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_name(name: str, owner: str) -> str:
    """Name under which `owner` writes `name` beside its target; owners are words of letters, digits and dashes that
    nobody else has. Short, so that a name of 255 bytes has one too."""
    return f"{TEMPORARY_PREFIX}{xxhash.xxh3_64_hexdigest(os.fsencode(name))}-{owner}{TEMPORARY_SUFFIX}"


def new_owner() -> str:
    """An owner for one write by this process. `is_abandoned` reads the process id in it."""
    return f"{_PROCESS}{os.getpid()}-{os.urandom(8).hex()}"


def is_temporary(name: str) -> bool:
    """True for names that temporary_name gives, or gave in earlier versions."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def kept_name(name: str) -> str:
    """Where the old content of `name` is kept while it is written in place (in_place.py)."""
    return temporary_name(name, _KEPT)


def is_kept(name: str) -> bool:
    """True for names that kept_name gives."""
    return is_temporary(name) and name.endswith(f"-{_KEPT}{TEMPORARY_SUFFIX}")


def is_abandoned(name: str) -> bool:
    """True for a temporary file that nobody will use any more. False for one of a living process, which may rename
    it at any moment, and for the kept old content of a file. Temporary files of plans (plan.py) always count as
    abandoned: only the caller knows whether a plan is still being applied."""
    if not is_temporary(name) or is_kept(name):
        return False
    owner = name.removeprefix(TEMPORARY_PREFIX).removesuffix(TEMPORARY_SUFFIX).partition("-")[2]
    pid = owner.removeprefix(_PROCESS).partition("-")[0] if owner.startswith(_PROCESS) else ""
    return not (pid.isascii() and pid.isdigit() and _lives(int(pid)))


def _lives(pid: int) -> bool:
    """Asks the kernel, because /proc may hide the processes of other users (hidepid)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def create_temporary(
    ops: FileOps, name: str, mode: int, *, dir_fd: int | None = None, owner: str = ""
) -> tuple[int, str]:
    """Create the temporary file of `name`. Returns (fd, temporary name); the caller closes the fd and renames or
    unlinks the file. With `owner` the file replaces one that an earlier, dead run of the same work has left. Without
    `owner` the name is unique. OSError as it comes."""
    temporary = temporary_name(name, owner or new_owner())
    try:
        return ops.create(temporary, mode, dir_fd=dir_fd), temporary
    except FileExistsError:
        if not owner:
            raise
        ops.unlink(temporary, dir_fd=dir_fd)
        return ops.create(temporary, mode, dir_fd=dir_fd), temporary

"""Loaded by every Python of a rig that has this directory on its PYTHONPATH: faults of file operations, and another
wall clock.

CLUSTERD_HOOK names a page that the campaign and all processes share (tests/campaigns/hooked.py):

    0   armed: 1 while operations count
    1   1: each that counts is noted, a line "NAME CLASS" in the file beside the page (its name and ".ops"); one that
        the system refuses is noted again with its number, "refused 7"
    8   the operation that fails, counted from 1; 0: none
    16  operations so far
    24  the errno; 0: the process is killed
    32  1 once it has failed
    40  seconds by which the wall clock is ahead, a float
    64  the directory whose files count, UTF-8, ends at the first zero
    1024  the name of the operation that failed
    2048  "NAME CLASS": only these count; empty: all

An operation fails once: whoever tries again succeeds. The class of a path is its directory below the one that counts,
at most three deep, and "~" for a temporary file in it.
"""

import builtins
import contextlib
import fcntl
import functools
import io
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator

PAGE = os.environ.get("CLUSTERD_HOOK")
WRITING = os.O_CREAT | os.O_WRONLY | os.O_RDWR
"""An `open` with one of these is called `create`."""
BY_PATH = (
    "open",
    "rename",
    "replace",
    "link",
    "symlink",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "chmod",
    "chown",
    "lchown",
    "utime",
    "truncate",
    "scandir",
    "listdir",
    "stat",
    "lstat",
)
BY_FD = (
    "write",
    "pwrite",
    "writev",
    "pwritev",
    "read",
    "readv",
    "pread",
    "preadv",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fchmod",
    "fchown",
    "posix_fallocate",
    "sendfile",
    "fstat",
    "copy_file_range",
)


def class_of(below: str) -> str:
    """Returns the class of a path, given the part below the directory that counts."""
    *directories, name = below.strip("/").split("/")
    place = "/".join(directories[:3]) or "."
    return place + ("~" if name.startswith(".") and name.endswith(".tmp") else "")


def install(page: str) -> None:
    """From now on every operation of this process asks the page."""
    real_open, real_readlink, real_write, real_close = os.open, os.readlink, os.write, os.close
    fd = real_open(page, os.O_RDWR | os.O_CLOEXEC)
    memory = mmap.mmap(fd, 4096)
    os.close(fd)  # a daemon closes what it did not open, and the number becomes another file's
    gate = [threading.Lock()]
    # A lock that another thread held at the fork would be held for ever.
    os.register_at_fork(after_in_child=lambda: gate.__setitem__(0, threading.Lock()))

    def place_of(target: object, dir_fd: object) -> str:
        if isinstance(target, int):
            return real_readlink(f"/proc/self/fd/{target}")
        path = os.fsdecode(target)  # type: ignore[arg-type]
        if os.path.isabs(path):
            return path
        base = os.getcwd() if dir_fd is None else real_readlink(f"/proc/self/fd/{dir_fd}")
        return os.path.join(base, path)

    def meet(name: str, target: object, dir_fd: object) -> int:
        """Returns the operation's number if it was noted, otherwise 0."""
        if not memory[0]:
            return 0
        try:
            where = place_of(target, dir_fd)
        except (OSError, TypeError, ValueError):
            return 0
        wanted = bytes(memory[64:1024]).split(b"\0", 1)[0].decode()
        if not where.startswith(wanted) or where.endswith((".log", ".pid", "/board")) or "__pycache__" in where:
            return 0
        what = f"{name} {class_of(where[len(wanted) :])}"
        only = bytes(memory[2048:2304]).split(b"\0", 1)[0].decode()
        if only and only != what:
            return 0
        with gate[0]:
            # One page for all processes. The descriptor is opened now, so that no other process has its lock, not even
            # after a fork.
            fd = real_open(f"{page}.ops", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                (count,) = struct.unpack_from("Q", memory, 16)
                (fail_at,) = struct.unpack_from("Q", memory, 8)
                struct.pack_into("Q", memory, 16, count + 1)
                if memory[1]:
                    real_write(fd, f"{what}\n".encode())
                if count + 1 != fail_at:
                    return count + 1 if memory[1] else 0
                memory[32] = 1
                text = f"{name} {where}".encode()[:1000]
                memory[1024 : 1024 + len(text)] = text
                (code,) = struct.unpack_from("Q", memory, 24)
            finally:
                real_close(fd)
        if code == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(code, os.strerror(code), target if isinstance(target, str) else None)

    @contextlib.contextmanager
    def noting(number: int) -> Iterator[None]:
        try:
            yield
        except OSError:
            if number:
                fd = real_open(f"{page}.ops", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                real_write(fd, f"refused {number}\n".encode())
                real_close(fd)
            raise

    def wrap(name: str, real: object) -> object:
        @functools.wraps(real)  # type: ignore[arg-type]
        def wrapped(*args: object, **options: object) -> object:
            target = args[0] if args else options.get("path", options.get("src", "."))
            flags = args[1] if name == "open" and len(args) > 1 else options.get("flags", 0)
            number = meet(
                "create" if name == "open" and flags & WRITING else name,
                target,
                options.get("dir_fd", options.get("src_dir_fd")),
            )
            with noting(number):
                return real(*args, **options)  # type: ignore[operator]

        return wrapped

    for name in (*BY_PATH, *BY_FD):
        real = getattr(os, name, None)
        if real is None:
            continue
        wrapped = wrap(name, real)
        setattr(os, name, wrapped)
        for known in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
            if real in known:
                known.add(wrapped)
    plain_open = io.open

    @functools.wraps(plain_open)
    def wrapped_open(file, *args, **options):  # type: ignore[no-untyped-def]
        if not isinstance(file, int):
            mode = args[0] if args else options.get("mode", "r")
            with noting(meet("create" if set(mode) & set("wax+") else "open", file, None)):
                return plain_open(file, *args, **options)
        return plain_open(file, *args, **options)

    builtins.open = io.open = wrapped_open  # type: ignore[assignment]

    real_time, real_time_ns = time.time, time.time_ns

    def ahead() -> float:
        return struct.unpack_from("d", memory, 40)[0]  # type: ignore[no-any-return]

    time.time = lambda: real_time() + ahead()
    time.time_ns = lambda: real_time_ns() + int(ahead() * 1e9)


if PAGE:
    with contextlib.suppress(OSError):
        install(PAGE)

"""Watches single directories with inotify(7) itself: watchfiles ends at the first event whose name is not UTF-8."""

import ctypes
import os
import select
import struct
import threading

from clusterd.names import is_utf8

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")
_OVERFLOW = 0x4000
_CAME = 0x80 | 0x100
_DIRECTORY = 0x4000_0000
_MASK = (
    0x2 | 0x4 | 0x8  # modified, attributes changed, closed after writing
    | 0x40 | 0x80 | 0x100 | 0x200  # moved from here, moved to here, created, deleted
    | 0x400 | 0x800  # itself deleted, moved
    | 0x0100_0000  # only directories
)  # fmt: skip
_BUFFER = 65536
_LOOK_MS = 100
"""How often is looked whether to stop."""
CHANGED, NEW_DIRECTORY = 0, -1
"""The numbers of events. A new directory is not watched, also where one of its name was."""


class DirectoryNotify:
    """Takes the place of RustNotify (watcher.py, Notify) for these directories without those below."""

    def __init__(self, paths: list[str]) -> None:
        """Raises OSError."""
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            self._paths = {
                _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK), path): path for path in paths
            }
        except BaseException:
            os.close(self._fd)
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def watch(
        self, debounce_ms: int, step_ms: int, timeout_ms: int, stop_event: threading.Event
    ) -> set[tuple[int, str]] | str:
        """Returns the paths of events with their numbers; or "stop" or "timeout"."""
        waited_ms = 0
        while not stop_event.is_set():
            if self._poll.poll(_LOOK_MS):
                found = self._read()
                for _ in range(debounce_ms // step_ms):
                    stop_event.wait(step_ms / 1000)
                    if not self._poll.poll(0):
                        break
                    found |= self._read()
                if found:
                    return found
            waited_ms += _LOOK_MS
            if timeout_ms and waited_ms >= timeout_ms:
                return "timeout"
        return "stop"

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self) -> set[tuple[int, str]]:
        """Returns what waits; every directory, as new, when the kernel's queue has overflowed."""
        data, at, found = os.read(self._fd, _BUFFER), 0, set[tuple[int, str]]()
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            at += length
            if mask & _OVERFLOW:
                return {(NEW_DIRECTORY, path) for path in self._paths.values()}
            directory = self._paths.get(number)
            if directory is not None and is_utf8(name):
                is_new = mask & _DIRECTORY and mask & _CAME
                found.add((NEW_DIRECTORY if is_new else CHANGED, f"{directory}/{name}" if name else directory))
        return found


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result

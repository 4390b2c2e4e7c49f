"""What is mounted in the directories that are watched: no file event tells of it."""

import os
import re
import select
from collections.abc import Iterable

MOUNTS = "/proc/self/mountinfo"
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mounts:
    """Knows what is mounted at, above or below these absolute paths since it was made."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Where the system does not tell what is mounted (no /proc), nothing ever changes."""
        self._paths = tuple(f"{os.path.realpath(path)}/" for path in paths)
        self._poll = select.poll()
        self._fd = -1
        if not self._paths:
            return
        try:
            self._fd = os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._fd, select.POLLPRI)
            self._known = self._read()
        except OSError:
            self.close()

    def have_changed(self) -> bool:
        """Whether something there is mounted that was not, or the reverse. Costs one poll while nothing is mounted
        anywhere. For one thread."""
        try:
            return self._fd >= 0 and bool(self._poll.poll(0)) and self._read() != self._known
        except OSError:
            return False  # a walk finds it

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self) -> frozenset[tuple[bytes, str]]:
        """Returns number and place of each mount that concerns the paths (proc(5): fields 1 and 5)."""
        data, at = b"", 0
        while piece := os.pread(self._fd, 65536, at):
            data += piece
            at += len(piece)
        found = set()
        for line in data.splitlines():
            fields = line.split(b" ", 5)
            place = os.fsdecode(_ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), fields[4])).rstrip("/") + "/"
            if place.startswith(self._paths) or any(path.startswith(place) for path in self._paths):
                found.add((fields[0], place))
        return frozenset(found)

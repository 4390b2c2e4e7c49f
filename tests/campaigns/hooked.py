"""The campaign's end of the page that tests/campaigns/hook/sitecustomize.py describes."""

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOOK = Path(__file__).parent / "hook"


class Page:
    """Faults and clock of all nodes started after it was made."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(4096))
        path.chmod(0o666)  # nodes started as root become another user's
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)

    def arm(self, directory: Path, fail_at: int = 0, code: int = errno.ENOSPC) -> None:
        """From now on operations on files below `directory` are counted, and number `fail_at` fails."""
        self.disarm()
        text = str(directory).encode()
        self._memory[64:1024] = text + bytes(960 - len(text))
        self._memory[1024:2048] = bytes(1024)
        struct.pack_into("QQQQ", self._memory, 8, fail_at, 0, code, 0)
        self._memory[0] = 1

    def disarm(self) -> int:
        """Nothing fails any more; how many operations there were."""
        self._memory[0] = 0
        return int(struct.unpack_from("Q", self._memory, 16)[0])

    @property
    def failed(self) -> str:
        """The operation that failed and its path; empty if none has."""
        return bytes(self._memory[1024:2048]).split(b"\0", 1)[0].decode(errors="replace") if self._memory[32] else ""

    def shift_clock(self, seconds: float) -> None:
        """The wall clock of all nodes is so much ahead of ours."""
        struct.pack_into("d", self._memory, 40, seconds)


@contextmanager
def hooked(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[Page]:
    """Nodes started in this block have the hook. `directory`: passable for every user."""
    page = directory / "page"
    made = Page(page)
    monkeypatch.setenv("CLUSTERD_HOOK", str(page))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH")))))
    try:
        yield made
    finally:
        made.disarm()
        made.shift_clock(0)

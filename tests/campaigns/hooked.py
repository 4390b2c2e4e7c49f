"""The campaign's end of the page that tests/campaigns/hook/sitecustomize.py describes."""

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KILL = 0
HOOK = Path(__file__).parent / "hook"


class Page:
    """Faults and clock of all nodes that are started after it was made."""

    def __init__(self, path: Path) -> None:
        self._notes = path.with_name(f"{path.name}.ops")
        for file, content in ((path, bytes(4096)), (self._notes, b"")):
            file.write_bytes(content)
            file.chmod(0o666)  # nodes started as root become another user's
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)

    def arm(self, directory: Path, fail_at: int = 0, code: int = errno.ENOSPC, only: str = "") -> None:
        """From now on operations on files below `directory` are counted, and number `fail_at` fails. With `code` KILL
        its process is killed. `only`: "NAME CLASS" as in `noted`; other operations do not count. Without `fail_at`
        operations are only noted."""
        self.disarm()
        os.truncate(self._notes, 0)
        text = only.encode()
        self._memory[2048:2304] = text + bytes(256 - len(text))
        self._memory[1] = not fail_at
        text = str(directory).encode()
        self._memory[64:1024] = text + bytes(960 - len(text))
        self._memory[1024:2048] = bytes(1024)
        struct.pack_into("QQQQ", self._memory, 8, fail_at, 0, code, 0)
        self._memory[0] = 1

    def disarm(self) -> int:
        """Ends all faults. Returns how many operations there were."""
        self._memory[0] = 0
        return int(struct.unpack_from("Q", self._memory, 16)[0])

    def noted(self) -> list[str]:
        """Returns NAME CLASS of each operation since `arm` without a number."""
        return [line for line in self._notes.read_text().splitlines() if not line.startswith("refused ")]

    def refused(self) -> set[int]:
        """Returns the numbers of those operations that the system refused, which changed nothing."""
        lines = self._notes.read_text().splitlines()
        return {int(line.split()[1]) for line in lines if line.startswith("refused ")}

    @property
    def failed(self) -> str:
        """Returns the operation that failed and its path; empty if none has."""
        return bytes(self._memory[1024:2048]).split(b"\0", 1)[0].decode(errors="replace") if self._memory[32] else ""

    def shift_clock(self, seconds: float) -> None:
        """Sets the wall clock of all nodes ahead of this process's."""
        struct.pack_into("d", self._memory, 40, seconds)


@contextmanager
def hooked(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Iterator[Page]:
    """Nodes that are started in this block have the hook. `directory`: every user can enter it."""
    page = directory / "page"
    made = Page(page)
    monkeypatch.setenv("CLUSTERD_HOOK", str(page))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH")))))
    try:
        yield made
    finally:
        made.disarm()
        made.shift_clock(0)

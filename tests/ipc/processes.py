"""Children of a test: forked, killed, always collected."""

import asyncio
import os
import signal
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

import uvloop

from tests.fakes.forks import die_with_parent
from tools.rig.patience import Patience

PATIENCE_S = 60.0


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Run on uvloop, as our processes do."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work(), PATIENCE_S))


def until(claim: Callable[[], bool]) -> None:
    """Waits for a condition, not for a fixed time."""
    patience = Patience(PATIENCE_S)
    while not claim():
        assert not patience.is_over(), "it did not come true in time"
        time.sleep(0.005)


def named_memory(pid: int) -> list[str]:
    """Returns the mappings of /dev/shm in this process: it could leave nothing else there. Other files there belong to
    others."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split(maxsplit=5)[5] for line in maps if "/dev/shm/" in line]


class Child:
    """A forked process that runs `work`; ends with the block at the latest. Its exit code is 1 if `work` raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.pid = os.fork()
        self._is_collected = False
        if self.pid == 0:
            die_with_parent()
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def kill(self) -> None:
        """Sends SIGKILL and waits until the process is gone."""
        if not self._is_collected:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Returns the exit code."""
        self._is_collected = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

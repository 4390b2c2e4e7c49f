"""What the children with an event loop have in common: how they run, wait for their stop, and say why they could not
start."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from clusterd.exits import ExitCode
from clusterd.rundir import reason_path


def run_loop(
    main: Callable[[], Coroutine[Any, Any, int]],
    root: str,
    *failures: type[Exception],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Runs `main` and returns the exit code. One of `failures` is written down for whoever waits for the start."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main())
    except failures as failure:
        with contextlib.suppress(OSError):
            Path(reason_path(root)).write_text(f"{failure}\n", encoding="utf-8")
        return int(ExitCode.COULD_NOT_START)


async def until_stopped(stop: asyncio.Event, tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Waits until a stop is asked for. Raises the failure of a task that has ended: these live for ever, so it is a
    bug, and the process ends to be replaced."""
    stopping = asyncio.create_task(stop.wait())
    ended, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in ended - {stopping}:
        task.result()

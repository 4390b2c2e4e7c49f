"""Stories played on a framework of a test."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.fakes.framework import FakeFramework
from tests.framework.lone_port import LonePort

Story = Callable[[LonePort], Awaitable[None]]


def play(story: Story, framework: FakeFramework, tmp_path: Path, **own: Any) -> LonePort:
    lone = LonePort(framework, tmp_path, **own)

    async def whole() -> None:
        async with lone.alive():
            await story(lone)

    asyncio.run(whole())
    return lone


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False

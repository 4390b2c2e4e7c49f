"""A former master tells what it alone had once its files are those of the new master."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from clusterd import left_behind
from clusterd.sync.integrity import former_master
from clusterd.sync.integrity.worker import LastSync
from clusterd.sync.ports.troubles import Troubles


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (SimpleNamespace(files=1, agents=0), "warning"),
        (SimpleNamespace(files=0, agents=1), "warning"),
        (SimpleNamespace(files=0, agents=0), "info"),
    ],
)
@pytest.mark.parametrize("step_s", [1.0, -3600.0], ids=["clock goes on", "clock is set back"])
def test_what_was_left_behind_is_told_after_a_check_over_this_link(
    monkeypatch: pytest.MonkeyPatch, step_s: float, found: Any, level: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(former_master, "LOOK_S", 0.001)
    monkeypatch.setattr(left_behind, "unsorted", lambda root: [3])
    monkeypatch.setattr(left_behind, "sort", lambda root, term: found)
    monkeypatch.setattr(left_behind, "told", lambda found: "one file")
    log = SimpleNamespace(**{level: said.append})
    context: Any = SimpleNamespace(
        settings=SimpleNamespace(root="/"),
        clock=SimpleNamespace(wall=lambda: 1000.0),
        troubles=Troubles(),
        tag="m",
        tag_log=lambda tag, subtag: log,
    )
    last = LastSync(checked_at=999.0, result="equal")

    async def story() -> None:
        sorting = asyncio.create_task(former_master.sort_left_behind(context, lambda: last))
        for result, step in (("equal", -1.0), ("failed", step_s), ("equal", step_s)):
            assert said == []
            last.result, last.checked_at = result, 1000.0 + step
            await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            await sorting
        assert said == ["one file."]

    asyncio.run(story())

"""When a registration waits for a candidate, and when it does not."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from clusterd.messages.replica import AskChanges
from clusterd.store import candidates
from clusterd.store.candidates import FOLLOWING, Candidates


def held(position: int) -> AskChanges:
    return AskChanges("e", position, position, False, FOLLOWING, None, None)


def test_a_candidate_that_is_late_again_and_again_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    known = Candidates("e", synchronous=True, limit_s=0.01, say=lambda level, text: said.append(level))

    async def registered(position: int) -> str:
        """One registration, confirmed only afterwards; the mode then."""
        await known.have(position)
        known.heard("w1", held(position))
        return known.mode()[0]

    async def check() -> None:
        known.heard("w1", held(0))
        assert await registered(1) == "synchronous", "one lateness is forgiven at once"
        assert [await registered(position) for position in range(2, 9)] == ["asynchronous"] * 7
        assert said == ["WARNING", "INFO", "WARNING"], "and not said each time"
        later = time.monotonic() + candidates.REST_S
        monkeypatch.setattr(candidates, "time", SimpleNamespace(monotonic=lambda: later, time=time.time))
        known.heard("w1", held(9))
        assert known.mode()[0] == "synchronous"

    asyncio.run(check())

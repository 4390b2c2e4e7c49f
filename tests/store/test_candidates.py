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
        """Makes one registration, which is confirmed only afterwards. Returns the mode then."""
        await known.have(position)
        known.heard("w1", held(position))
        return known.mode()[0]

    async def check() -> None:
        known.told(known.heard("w1", held(0)), 9)
        assert await registered(1) == "synchronous", "one lateness is forgiven at once"
        assert [await registered(position) for position in range(2, 9)] == ["asynchronous"] * 7
        assert said == ["WARNING", "INFO", "WARNING"], "and not said each time"
        later = time.monotonic() + candidates.REST_S
        monkeypatch.setattr(candidates, "time", SimpleNamespace(monotonic=lambda: later, time=time.time))
        known.heard("w1", held(9))
        assert known.mode()[0] == "synchronous"

    asyncio.run(check())


@pytest.mark.parametrize("claim", [1 << 62, 21, 20])
def test_a_position_that_was_not_given_out_confirms_nothing(claim: int) -> None:
    said: list[str] = []
    known = Candidates("e", synchronous=True, limit_s=60.0, say=lambda level, text: said.append(text))

    async def check() -> None:
        one = known.heard("w1", held(0))
        known.told(one, 10)
        assert known.heard("w1", held(10)).held == 10
        assert known.mode() == ("synchronous", "")
        waiting = asyncio.ensure_future(known.have(20))
        await asyncio.sleep(0)
        known.told(one, 19)
        known.heard("w1", held(claim))
        await asyncio.wait_for(waiting, 60)
        assert known.mode()[0] == "asynchronous"
        assert said[0].startswith(f"Candidate w1 says that it holds position {claim}, which this master has not given")
        (shown,) = known.shown(20, lambda position: 20 - position)
        assert (shown["position"], shown["confirms"]) == (0, False)
        assert str(claim) in shown["may_not_lead"]
        known.told(one, 20)
        known.heard("w1", held(20))
        await known.have(20)
        assert known.mode() == ("synchronous", "")

    asyncio.run(check())


def test_a_candidate_that_does_not_come_back_is_forgotten_and_one_that_is_linked_is_not() -> None:
    known = Candidates("e", synchronous=True, limit_s=60.0, say=lambda level, text: None)

    def names() -> list[str]:
        return [row["name"] for row in known.shown(10, lambda position: 0)]

    for name in ("w1", "w2"):
        known.heard(name, held(10))
    known.gone("w1")
    for name in ("w1", "w2", "nobody"):
        known.forget(name)
    assert names() == ["w2"]


def test_a_forgotten_candidate_that_comes_back_is_believed_what_it_was_told() -> None:
    said: list[str] = []
    known = Candidates("e", synchronous=True, limit_s=60.0, say=lambda level, text: said.append(text))

    async def check() -> None:
        known.told(known.heard("w1", held(0)), 10)
        known.gone("w1")
        known.forget("w1")
        assert known.heard("w1", held(10)).held == 10
        assert known.heard("w1", held(11)).claimed == 11
        assert len(said) == 1

    asyncio.run(check())

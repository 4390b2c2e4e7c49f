"""One candidate confirms, and etcd knows which before anything follows from it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.election import ConfirmingSet
from clusterd.messages.replica import AskChanges
from clusterd.store import confirming
from clusterd.store.candidates import FOLLOWING, Candidates
from clusterd.store.confirming import ConfirmingChoice
from clusterd.store.replica_copy import COPYING

EARLIER = 10


class Bench:
    """`etcd`: what was written, name and position; `gate`: etcd answers while it is set; `fails`: how it refuses."""

    def __init__(self, *, synchronous: bool = True, limit_s: float = 60.0) -> None:
        self.etcd: list[tuple[str, int]] = []
        self.fails = ""
        self.leads = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.said: list[tuple[str, str]] = []
        self.known = Candidates("e", synchronous=True, limit_s=limit_s, say=self._say)
        self.choice = ConfirmingChoice(
            self.known,
            self._tell,
            lambda: self.leads,
            synchronous=synchronous,
            limit_s=limit_s,
            answered=EARLIER,
            say=self._say,
        )

    def _say(self, level: str, text: str) -> None:
        self.said.append((level, text))

    async def _tell(self, name: str, position: int) -> ConfirmingSet:
        await self.gate.wait()
        if self.fails:
            raise ClusterError(1000, self.fails)
        self.etcd.append((name, position))
        return ConfirmingSet(name, True)

    def heard(self, name: str, position: int, priority: int = 100) -> None:
        """The candidate was told everything, and has this much on its disk."""
        one = self.known.heard(name, AskChanges("e", position, 0, False, FOLLOWING, None, None, priority))
        self.known.told(one, 1000)
        self.known.heard(name, AskChanges("e", position, position, False, FOLLOWING, None, None, priority))

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.001)

    async def waits(self, position: int) -> "asyncio.Task[bool]":
        task = asyncio.create_task(self.choice.have(position))
        await asyncio.sleep(0.02)
        return task


def run(story: Callable[[Bench], Awaitable[None]], **options: object) -> Bench:
    async def main() -> Bench:
        bench = Bench(**options)  # type: ignore[arg-type]
        task = asyncio.create_task(bench.choice.run())
        try:
            async with asyncio.timeout(60):
                await story(bench)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        return bench

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "LOOK_S", 0.02)
    monkeypatch.setattr(confirming, "FIRST_S", 0.0)


def test_only_the_candidate_that_etcd_knows_confirms() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("a", 10)
        await bench.until(lambda: bench.etcd == [("a", EARLIER)])
        bench.heard("b", 10)
        answer = await bench.waits(20)
        bench.heard("b", 20)
        await asyncio.sleep(0.05)
        assert not answer.done(), "it is not the one"
        bench.heard("a", 20)
        assert await answer
        assert bench.etcd == [("a", EARLIER)]
        assert bench.choice.mode() == ("synchronous", "")
        shown = {row["name"]: row["confirms"] for row in bench.known.shown(20, lambda _: 0, bench.choice.name)}
        assert shown == {"a": True, "b": False}

    run(story)


def test_another_one_confirms_only_once_etcd_has_it_and_it_has_all_that_was_answered() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("a", 10)
        await bench.until(lambda: bench.choice.name == "a")
        answer = await bench.waits(20)
        bench.heard("a", 20)
        assert await answer
        bench.heard("b", 19)
        bench.gate.clear()
        bench.known.gone("a")
        answer = await bench.waits(21)
        bench.heard("b", 21)
        await asyncio.sleep(0.05)
        assert not answer.done(), "etcd has not taken it"
        assert bench.choice.mode()[0] == "refused"
        bench.gate.set()
        assert await answer
        assert bench.etcd[-1] == ("b", 20), "with what was answered"

    bench = run(story)
    assert [name for name, _ in bench.etcd if name] == ["a", "b"]


def test_without_a_candidate_nothing_is_answered_before_etcd_knows_that_nobody_confirms() -> None:
    async def story(bench: Bench) -> None:
        bench.gate.clear()
        answer = await bench.waits(20)
        assert not answer.done()
        bench.gate.set()
        assert await answer
        assert bench.etcd == [("", EARLIER)]
        mode, why = bench.choice.mode()
        assert (mode, why) == ("asynchronous", "no candidate is connected")
        # It lacks what was answered without it, and then it does not.
        bench.heard("a", 15)
        await asyncio.sleep(0.05)
        assert bench.etcd == [("", EARLIER)]
        bench.gate.clear()
        bench.heard("a", 20)
        answer = await bench.waits(30)
        await asyncio.sleep(0.05)
        assert not answer.done(), "from the moment in which etcd is asked on it has to confirm"
        bench.gate.set()
        await bench.until(lambda: bench.etcd[-1] == ("a", 20))
        assert not answer.done()
        bench.heard("a", 30)
        assert await answer

    bench = run(story)
    assert [level for level, _ in bench.said] == ["WARNING", "INFO"]


def test_the_first_answers_of_a_master_wait_for_candidates_that_have_to_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confirming, "FIRST_S", 30.0)

    async def story(bench: Bench) -> None:
        answer = await bench.waits(20)
        assert not answer.done()
        bench.heard("a", 20)
        assert await answer
        assert bench.etcd == [("a", EARLIER)]
        monkeypatch.setattr(confirming, "FIRST_S", 0.0)  # over by now
        bench.known.gone("a")
        await bench.until(lambda: bench.etcd[-1] == ("a", 20) or bench.etcd[-1] == ("", 20))

    bench = run(story, limit_s=0.05)
    assert bench.etcd[-1][0] == "", "later nobody waits for long for those who are not there"


@pytest.mark.parametrize("limit_s", [60.0, 0.1])
def test_the_last_candidates_link_may_end_for_a_moment_and_no_answer_is_given_without_it(limit_s: float) -> None:
    """It is back within a second, as a rule. A master that was lost in that second lost what it had answered."""

    async def story(bench: Bench) -> None:
        bench.heard("a", 20)
        await bench.until(lambda: bench.choice.name == "a")
        assert await bench.choice.have(20)
        bench.known.gone("a")
        answer = await bench.waits(21)
        if limit_s > 1:
            assert not answer.done()
            assert bench.choice.mode() == ("refused", "the link to the last candidate has just ended")
            bench.heard("a", 21)
        assert await answer
        assert bench.etcd[1:] == [("a", 20) if limit_s > 1 else ("", 20)]

    run(story, limit_s=limit_s)


@pytest.mark.parametrize("limit_s", [60.0, 0.05])
def test_answers_wait_for_a_candidate_that_makes_its_copy_but_not_for_ever(limit_s: float) -> None:
    async def story(bench: Bench) -> None:
        bench.known.heard("a", AskChanges("e", 5, 0, False, COPYING, None, None, 100))
        answer = await bench.waits(20)
        if limit_s > 1:
            assert not answer.done()
            bench.heard("a", 20)
        assert await answer
        assert bench.etcd == [("a" if limit_s > 1 else "", EARLIER)]
        bench.heard("a", 20)
        await bench.until(lambda: bench.etcd[-1][0] == "a")

    run(story, limit_s=limit_s)


def test_a_candidate_that_does_not_catch_up_holds_up_nobody_for_long() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("a", 9)
        assert await bench.choice.have(20)
        assert bench.etcd == [("", EARLIER)]

    run(story, limit_s=0.05)


def test_a_late_candidate_is_given_up_and_the_answer_is_given_without_it() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("a", 10)
        await bench.until(lambda: bench.choice.name == "a")
        assert await bench.choice.have(20)
        assert bench.etcd == [("a", EARLIER), ("", EARLIER)]

    run(story, limit_s=0.05)


def test_what_etcd_does_not_take_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "SET_S", 0.1)

    async def story(bench: Bench) -> None:
        bench.fails = "no member of etcd answers"
        assert not await bench.choice.have(20)
        assert bench.choice.mode() == ("refused", "no member of etcd answers")
        bench.fails = ""
        await bench.until(lambda: bench.choice.mode()[0] != "refused")
        assert await bench.choice.have(20)

    bench = run(story, limit_s=0.05)
    assert len([text for _, text in bench.said if "no member of etcd answers" in text]) == 1


def test_who_asks_while_etcd_has_been_away_for_long_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would wait for as long as the first one otherwise, one after the other."""
    why = "no member of etcd answers"
    waited: list[float] = []

    async def story(bench: Bench) -> None:
        bench.fails = why
        wait = bench.known.wait

        async def counted(seconds: float) -> None:
            if asyncio.current_task() is asker:
                waited.append(seconds)
            await wait(seconds)

        monkeypatch.setattr(bench.known, "wait", counted)
        asker = asyncio.current_task()
        assert await bench.choice.ready() == why, "the first one waits, and then nothing is written"
        assert waited
        waited.clear()
        assert await bench.choice.ready() == why
        assert not await bench.choice.have(20)
        assert waited == []
        bench.fails = ""
        await bench.until(lambda: bench.choice.mode()[0] != "refused")
        assert await bench.choice.ready() == ""
        bench.leads = False
        await bench.until(lambda: bench.choice.mode()[1] == "this node does not lead")
        assert await bench.choice.ready() == "this node does not lead"
        assert bench.choice._unset_since is None, "whoever leads again has the whole time again"

    monkeypatch.setattr(confirming, "SET_S", 0.5)
    run(story, limit_s=0.05)


def test_a_node_that_does_not_lead_asks_etcd_for_nothing_and_answers_nothing() -> None:
    async def story(bench: Bench) -> None:
        bench.leads = False
        bench.heard("a", 20)
        assert not await bench.choice.have(20)
        await asyncio.sleep(0.05)
        assert bench.etcd == []
        assert bench.choice.mode() == ("refused", "this node does not lead")

    run(story)


def test_who_never_leads_never_confirms_and_the_better_one_is_taken() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("plain", 30, 0)
        bench.heard("far", 20, 200)
        bench.heard("near", 25, 50)
        bench.heard("equal", 25, 60)
        await bench.until(lambda: bool(bench.etcd))
        assert bench.etcd == [("equal", EARLIER)]

    run(story)


def test_who_begins_to_confirm_and_then_never_leads_is_left() -> None:
    """Whoever leads next must have been the one that confirms: nobody could."""

    async def story(bench: Bench) -> None:
        bench.heard("a", 20)
        await bench.until(lambda: bool(bench.etcd))
        bench.heard("b", 20)
        bench.heard("a", 20, 0)
        await bench.until(lambda: len(bench.etcd) > 1)
        assert bench.etcd == [("a", EARLIER), ("b", EARLIER)]

    run(story)


def test_who_may_not_lead_for_a_while_confirms_nothing_and_then_again() -> None:
    """Its files are incomplete: if the leader was lost in that moment nobody could lead."""
    why = "its files are incomplete: etc/rules/a.xml: no room"

    async def story(bench: Bench) -> None:
        bench.heard("a", 20)
        await bench.until(lambda: bool(bench.etcd))
        bench.known.heard("a", AskChanges("e", 20, 20, False, FOLLOWING, None, None, 0, why))
        assert await bench.choice.have(21)
        assert bench.etcd == [("a", EARLIER), ("", EARLIER)]
        assert bench.choice.mode() == ("asynchronous", f"a may not lead: {why}")
        bench.heard("a", 21)
        await bench.until(lambda: len(bench.etcd) > 2)
        assert bench.etcd[-1] == ("a", 21)

    run(story)


def test_with_asynchronous_answers_etcd_knows_that_nobody_confirms() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("a", 10)
        assert await bench.choice.have(20)
        assert bench.etcd == [("", EARLIER)]
        assert bench.choice.mode() == ("asynchronous", "clusterd.ha.synchronous is off")

    run(story, synchronous=False)


def test_who_says_that_it_may_not_lead_confirms_nothing_with_the_same_words() -> None:
    async def story(bench: Bench) -> None:
        bench.heard("b", EARLIER)
        await bench.until(lambda: bench.choice.name == "b")
        bench.gate.clear()
        answers = [await bench.waits(20) for _ in range(10)]
        bench.heard("c", 20)
        bench.heard("b", 20, priority=0)
        await asyncio.sleep(0.02)
        assert not any(answer.done() for answer in answers)
        bench.gate.set()
        assert all([await answer for answer in answers])
        assert bench.choice.name == "c"

    run(story)

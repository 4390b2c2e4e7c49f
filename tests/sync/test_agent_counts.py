"""How often `status` lets the database count the agents."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.sync.requests.agent_counts import OLDEST_S, SHARE, AgentCounts
from clusterd.wdb.client import DatabaseError
from tests.fakes.clock import FakeClock


class Counted:
    """A database that takes a while to count, measured by the test's clock."""

    def __init__(self, takes_s: float) -> None:
        self.clock = FakeClock()
        self.takes_s = takes_s
        self.failure: Exception | None = None
        self.asked = 0
        context = SimpleNamespace(
            clock=self.clock, database=self, settings=SimpleNamespace(serves_store=True), leadership=None
        )
        self.context = context
        self.counts = AgentCounts(cast(Any, context))

    async def rows(self, question: str) -> list[dict[str, Any]]:
        if self.failure is not None:
            raise self.failure
        if "to_report" in question:
            return [{"to_report": 1, "to_hand_out": 2}]
        self.asked += 1
        self.clock.move(self.takes_s)
        return [
            {"node_name": "w1", "connection_status": "active", "n": self.asked},
            {"connection_status": "pending", "n": 1},
        ]

    async def ask(self, question: str) -> tuple[str, bytes]:
        return "ok", json.dumps([{"data": [], "hash": "ab"}]).encode()

    def shown(self) -> dict[str, Any]:
        return asyncio.run(self.counts.shown())


def test_counts_are_good_for_a_multiple_of_what_they_took() -> None:
    counted = Counted(0.1)
    first = counted.shown()
    assert first["nodes"] == {"w1": {"active": 1}, "unknown": {"pending": 1}}
    assert (first["problem"], first["to_report"], first["to_hand_out"], first["groups_hash"]) == (None, 1, 2, "ab")
    counted.clock.move(0.1 * SHARE - 0.01)
    assert counted.shown() == first
    counted.clock.move(0.02)
    assert counted.shown()["nodes"]["w1"] == {"active": 2}


@pytest.mark.parametrize(("takes_s", "good_s"), [(0.0, 0.0), (0.7, OLDEST_S)])
def test_counts_that_cost_nothing_are_always_new_and_others_never_older_than_the_bound(
    takes_s: float, good_s: float
) -> None:
    counted = Counted(takes_s)
    counted.shown()
    counted.clock.move(good_s)
    counted.shown()
    assert counted.asked == 2


@pytest.mark.parametrize(
    ("silent", "says"),
    [
        ("rows", "no answer within 0.01 s"),
        (
            "ask",
            "only readers get an answer within 0.01 s; it is busy, or another program has locked it: lsof names it",
        ),
    ],
)
def test_database_that_another_program_has_locked_is_told_from_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, silent: str, says: str
) -> None:
    monkeypatch.setattr("clusterd.sync.requests.agent_counts.TIMEOUT_S", 0.01)
    counted = Counted(0.0)
    monkeypatch.setattr(counted, silent, lambda question: asyncio.sleep(60))
    assert counted.shown()["problem"] == says


def test_node_without_its_lease_counts_its_agents_and_asks_for_nothing_that_waits_for_a_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else status would say that the database does not answer, and doctor that no program serves it."""
    counted = Counted(0.0)
    counted.context.leadership = SimpleNamespace(holds=lambda: False)
    monkeypatch.setattr(counted, "ask", None)
    found = counted.shown()
    assert (found["problem"], found["nodes"]["w1"], found["groups_hash"]) == (None, {"active": 1}, None)


def test_failure_is_shown_at_once_and_not_kept() -> None:
    counted = Counted(0.0)
    counted.shown()
    counted.failure = DatabaseError(2005, "gone")
    assert counted.shown()["problem"]
    counted.failure = None
    assert counted.shown()["problem"] is None

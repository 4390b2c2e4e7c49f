"""A worker and its agent groups: what it tells its master, and when it asks for everything."""

import json

import pytest

from clusterd.messages.agents import ChunkRequest, GroupsOpened
from clusterd.sync.agents.groups_worker import LONGEST_PATIENCE, UNKNOWN_HASH, AgentGroupsWorker
from tests.sync.groups_bench import LIMIT, Site, peer
from tests.sync.rounds_bench import run

# ---- what a worker tells ---------------------------------------------------------------------------------------------


def test_requests_that_cannot_be_read_are_told_to_the_master() -> None:
    """Otherwise it waits for a minute, with the groups of all agents."""

    async def story() -> None:
        site = Site()
        worker = AgentGroupsWorker(site.context)
        opened = GroupsOpened(2, [ChunkRequest(10, 1)], [], has_hash=False)
        result = await worker._write(site.context.tag_log("Worker w", "Agent-groups recv"), "/nowhere/none", opened)
        assert result.updated_chunks == 0
        (text,) = result.error_messages
        assert text.startswith("Error while processing agent-groups chunks: ")
        assert "/nowhere/none" in text
        assert site.texts("ERROR") == [text]

    run(story())


# ---- a worker's comparison -------------------------------------------------------------------------------------------


class ComparingWorker:
    """`say`: the master has written a message with this checksum."""

    def __init__(self, ours: str | None = "a") -> None:
        self.site = Site(ours=True)
        self.ours = ours
        self.site.answer = lambda request: ("ok", self._chunk())
        self.worker = AgentGroupsWorker(self.site.context)
        self.asked: list[str] = []
        self._peer = peer(asked=self.asked)

    def _chunk(self) -> bytes:
        return json.dumps([{"data": [], "hash": self.ours}]).encode() if self.ours != "unknown" else b"nonsense"

    async def say(self, theirs: str | None, times: int = 1) -> None:
        log = self.site.context.tag_log("Worker w", "Agent-groups recv")
        for _ in range(times):
            await self.worker._compare(self._peer, log, theirs)


def test_all_groups_are_asked_for_after_that_many_mismatches_and_less_often_if_it_does_not_help() -> None:
    async def story() -> None:
        bench = ComparingWorker()
        await bench.say("b", LIMIT - 1)
        await bench.say("a")
        await bench.say("b", LIMIT - 1)
        assert (bench.asked, bench.worker.last.mismatches) == ([], LIMIT - 1)
        await bench.say("b")
        assert (bench.asked, bench.worker.last.mismatches, bench.worker.last.matches) == (["syn_w_g_c"], 0, False)
        assert bench.site.texts("ERROR") == []
        patience = 2
        while patience <= 2 * LONGEST_PATIENCE:
            asked = len(bench.asked)
            wanted = LIMIT * min(patience, LONGEST_PATIENCE)
            await bench.say("b", wanted - 1)
            assert len(bench.asked) == asked
            await bench.say("b")
            assert len(bench.asked) == asked + 1
            patience *= 2
        (line,) = bench.site.texts("ERROR")
        assert "still differ from the master's after everything was sent again" in line
        await bench.say("a")
        assert "The groups of this node equal the master's again." in bench.site.texts("INFO")
        asked = len(bench.asked)
        await bench.say("b", LIMIT)
        assert len(bench.asked) == asked + 1, "as patient as at first"

    run(story())


@pytest.mark.parametrize("ours", ["unknown", None])
def test_a_checksum_that_the_database_does_not_tell_equals_none(ours: str | None) -> None:
    async def story() -> None:
        bench = ComparingWorker(ours)
        await bench.say("b", LIMIT)
        assert bench.asked == ["syn_w_g_c"]
        await bench.say(UNKNOWN_HASH if ours is None else None, LIMIT * 2)
        assert len(bench.asked) == 2
        await bench.say(None)
        assert bench.worker.last.matches is (ours is None)

    run(story())

"""Nodes that lead one after the other, each on a machine of its own, for the tests of takeovers."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from clusterd.messages.replica import AskChanges, Changes
from clusterd.rundir import REPLICA_FILE
from clusterd.store import agents, schema, table
from clusterd.store.engine import Engine, Session
from clusterd.store.registry import Registration
from clusterd.store.replica_copy import FOLLOWING, ReplicaCopy
from clusterd.store.replica_db import own_as_replica
from clusterd.store.replica_source import ReplicaSource
from clusterd.supervisor.promotion import take_replica
from tests.store.change_pair import rows
from tests.store.replica_bench import add_agents

AGENTS = 30
FULL_COPY, JOINED = "A full copy", "goes on with the log"
Rows = dict[str, list[Any]]


class Node:
    """A machine of its own: its boot and its clock are others. `copy`, or `engine` and `source`, are open while it
    runs."""

    def __init__(self, base: Path, name: str, clock_us: int) -> None:
        self.name, self.root = name, base / name
        self.clock_us = clock_us
        (self.root / "queue/db").mkdir(parents=True)
        self.boot = self.root / "boot"
        self.boot.write_text(f"boot of {name}\n")
        self.said: list[str] = []
        self.copy: ReplicaCopy | None = None
        self.engine: Engine | None = None
        self.source: ReplicaSource | None = None

    def lead(self) -> None:
        schema.BOOT_ID, schema.wall_offset_us = str(self.boot), lambda: self.clock_us
        schema.prepare(str(self.root), self.name, "4.14.1", log=True)
        self.engine = Engine(str(self.root), readers=1)
        self.source = ReplicaSource(str(self.root), synchronous=False, limit_s=1, say=lambda *_: None, pace_s=0)
        self.engine.committed = self.source.committed

    def follow(self) -> None:
        self.copy = ReplicaCopy(str(self.root), say=lambda _, text: self.said.append(text), digest_s=0)

    def stop(self) -> None:
        if self.copy is not None:
            self.copy.close()
        if self.source is not None and self.engine is not None:
            self.source.close()
            self.engine.close()
        self.copy = self.source = self.engine = None

    def rows(self, name: str = schema.DATABASE) -> Rows:
        db = schema.connect(str(self.root), name=name)
        try:
            return rows(db)
        finally:
            db.close()

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)


class Cluster:
    """`leader` is the one whose store is a master's."""

    def __init__(self, base: Path) -> None:
        clocks = (5_000_000_000_000, 9_000_000_000_000, 1_000_000_000_000)
        self.nodes = {name: Node(base, name, clock) for name, clock in zip("abc", clocks, strict=True)}
        self.leader = self.nodes["a"]
        self.numbers = 1000
        self.asks: dict[str, AskChanges] = {}

    def open(self) -> None:
        for node in self.nodes.values():
            node.lead() if node is self.leader else node.follow()

    def close(self) -> None:
        for node in self.nodes.values():
            node.stop()

    async def write(self, work: Callable[[Session], object]) -> None:
        assert self.leader.engine is not None
        await self.leader.engine.write(work)

    async def populate(self) -> None:
        def work(session: Session) -> None:
            add_agents(session, AGENTS)
            for one in range(1, AGENTS + 1):
                session.stamp(one)

        await self.write(work)

    async def rename(self, one: int) -> None:
        self.numbers += 1
        number = self.numbers
        await self.write(lambda s: agents.update_agent_name(s, agents.AgentName(one, f"name{number}")))

    async def keepalive(self, one: int) -> None:
        def work(session: Session) -> None:
            agents.update_keepalive(session, agents.Keepalive(one, "active", "synced"))
            if session.db.execute("select 1 from agent where id = ?", (one,)).fetchone():
                session.stamp(one)

        await self.write(work)

    async def add(self) -> int:
        self.numbers += 1
        number = self.numbers
        await self.write(lambda s: table._apply(s, [Registration(number, "new", "any", "k", "web", 1)], []))
        return number

    async def delete(self, one: int) -> None:
        await self.write(lambda s: table._apply(s, [], [one]))

    async def step(self, name: str) -> tuple[Changes, AskChanges]:
        """One question and its answer."""
        node, source = self.nodes[name], self.leader.source
        assert node.copy is not None
        assert source is not None
        ask = self.asks.get(name) or await node.copy.first()
        changes = await source.tell(name, ask)
        self.asks[name] = await node.copy.apply(changes)
        return changes, self.asks[name]

    async def follow(self, *names: str) -> None:
        """Until each has everything, was compared, and is equal."""
        for name in names:
            self.asks.pop(name, None)
            for _ in range(200):
                changes, ask = await self.step(name)
                if changes.behind == 0 and changes.digest and ask.state == FOLLOWING:
                    break
            assert ask.is_equal, f"{name} differs"
            assert self.nodes[name].rows(REPLICA_FILE) == self.leader.rows()

    def take_over(self, name: str) -> None:
        """This node leads; who led before is away."""
        self.asks.clear()
        self.leader.stop()
        self.leader = self.nodes[name]
        self.leader.stop()
        take_replica(str(self.leader.root))
        self.leader.lead()

    def come_back(self, name: str, *, with_own: bool = False) -> None:
        """As a worker; its own database is left behind, or becomes its replica."""
        self.nodes[name].stop()
        if with_own:
            assert "from which it goes on" in own_as_replica(str(self.nodes[name].root))
        self.nodes[name].follow()

    def restart(self, name: str) -> None:
        node = self.nodes[name]
        node.stop()
        self.asks.pop(name, None)
        node.lead() if node is self.leader else node.follow()


def told(story: Callable[[Cluster], Awaitable[None]], base: Path) -> Cluster:
    cluster = Cluster(base)

    async def main() -> None:
        cluster.open()
        try:
            async with asyncio.timeout(120):
                await story(cluster)
        finally:
            cluster.close()

    asyncio.run(main())
    return cluster

"""A master's store and a candidate's, in one loop."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from clusterd.messages.replica import AskChanges, Changes
from clusterd.rundir import REPLICA_FILE
from clusterd.store import groups, schema, table
from clusterd.store.engine import Engine, Session
from clusterd.store.private import PrivateDatabases
from clusterd.store.registry import Registration
from clusterd.store.replica_copy import FOLLOWING, ReplicaCopy
from clusterd.store.replica_source import ReplicaSource
from tests.store.change_pair import rows

AGENTS = 40


def add_agents(session: Session, count: int) -> None:
    """Adds agents 1 to `count`, in group web."""
    for name in ("default", "web"):
        groups.insert_group(session, name)
    added = [Registration(one, f"agent{one}", "any", "k" * 64, "web", 1) for one in range(1, count + 1)]
    table._apply(session, added, [])


class Bench:
    """A master's engine and source, and a candidate's copy; `restart_*` begin their next life."""

    def __init__(self, base: Path) -> None:
        self.master, self.candidate = base / "m", base / "w"
        self.said: list[str] = []
        self.teller = ""
        self.lacking: list[tuple[str, int]] = []
        """What the master heard of its disk that was set back."""
        for root in (self.master, self.candidate):
            (root / "queue/db").mkdir(parents=True)

    def open(self) -> None:
        self.start_master()
        self.start_copy()

    def close(self) -> None:
        self.copy.close()
        self.stop_master()

    def start_master(self) -> None:
        schema.prepare(str(self.master), "m", "4.14.1", log=True)
        self.engine = Engine(str(self.master), readers=1)
        self.source = ReplicaSource(
            str(self.master),
            synchronous=True,
            limit_s=60,
            say=lambda _, text: self.said.append(text),
            pace_s=0,
            teller=self.teller,
            set_back=lambda *what: self.lacking.append(what),
        )
        self.engine.committed = self.source.committed

    def stop_master(self) -> None:
        self.source.close()
        self.engine.close()

    def start_copy(self) -> None:
        self.copy = ReplicaCopy(str(self.candidate), say=lambda _, text: self.said.append(text), digest_s=0)

    def restart(self, who: str) -> None:
        if who == "copy":
            self.copy.close()
            self.start_copy()
        else:
            self.stop_master()
            self.start_master()

    async def populate(self) -> None:
        await self.engine.write(lambda session: add_agents(session, AGENTS))

    async def step(self, ask: AskChanges) -> tuple[Changes, AskChanges]:
        changes = await self.source.tell("w", ask)
        return changes, await self.copy.apply(changes)

    async def follow(self) -> AskChanges:
        """Waits until the replica is whole, has everything and was compared."""
        ask = await self.copy.first()
        while True:
            changes, ask = await self.step(ask)
            if changes.behind == 0 and changes.digest and ask.state == FOLLOWING:
                return ask

    def check_equal(self) -> None:
        master, copy = schema.connect(str(self.master)), schema.connect(str(self.candidate), name=REPLICA_FILE)
        try:
            assert rows(copy) == rows(master)
        finally:
            master.close()
            copy.close()


def run(bench: Bench, work: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench.open()
        try:
            await work(bench)
        finally:
            bench.close()

    asyncio.run(main())


def stored(bench: Bench) -> table.StoreTable:
    return table.StoreTable(bench.engine, PrivateDatabases(str(bench.master), "4.14.1"), bench.source.candidates.have)

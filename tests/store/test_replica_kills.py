"""A candidate that is killed at any moment of a full copy: the replica that it has is a whole one, old or new, and the
next life ends the copy."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from clusterd.messages.replica import AskChanges
from clusterd.rundir import COPY_FILE, REPLICA_FILE
from clusterd.store import agents, schema
from clusterd.store.engine import Session
from clusterd.store.replica_copy import FOLLOWING, ReplicaCopy
from clusterd.store.replica_source import ReplicaSource
from tests.fakes.forks import die_with_parent
from tests.store.change_pair import rows
from tests.store.replica_bench import Bench

LIVES = 14


def content(root: Path, name: str) -> dict[str, list[object]] | None:
    if not (root / name).exists():
        return None
    db = schema.connect(str(root), name=name)
    try:
        assert db.execute("pragma quick_check").fetchone() == ("ok",)
        return rows(db)
    finally:
        db.close()


def copy_all(master: Path, candidate: Path) -> None:
    """Copies in a process of its own until everything is there."""

    async def main() -> None:
        source = ReplicaSource(str(master), synchronous=False, limit_s=1, say=lambda *_: None, pace_s=0)
        copy = ReplicaCopy(str(candidate), say=lambda *_: None)
        ask: AskChanges = await copy.first()
        while True:
            changes = await source.tell("w", ask)
            ask = await copy.apply(changes)
            if changes.behind == 0 and ask.state == FOLLOWING:
                return

    asyncio.run(main())


def life(master: Path, candidate: Path, seconds: float) -> bool:
    """Returns whether the copy ended before the kill."""
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        status = 1
        try:
            copy_all(master, candidate)
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0
            return True
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@pytest.mark.slow
def test_replica_is_whole_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def fill() -> None:
        bench.start_master()
        await bench.populate()

        def add(session: Session) -> None:
            for one in range(1000, 1800):
                agents.insert_agent(session, agents.NewAgentRow(one, "n", 1))

        await bench.engine.write(add)
        bench.stop_master()

    asyncio.run(fill())
    assert life(bench.master, bench.candidate, 60)
    old = content(bench.candidate, REPLICA_FILE)
    assert old == content(bench.master, schema.DATABASE)
    # Another log, other content: a full copy beside the old replica.
    schema.prepare(str(bench.master), "m", "4.14.1", log=False)
    db = schema.connect(str(bench.master))
    db.execute("update agent set name = 'new' where id > 0")
    db.close()
    schema.prepare(str(bench.master), "m", "4.14.1", log=True)
    new = content(bench.master, schema.DATABASE)
    chance, spared_s, ended = random.Random(18), 0.02, False
    for _ in range(LIVES):
        ended = life(bench.master, bench.candidate, chance.uniform(0, spared_s))
        assert content(bench.candidate, REPLICA_FILE) in (old, new)
        if ended:
            break
        spared_s *= 1.3
    assert ended or life(bench.master, bench.candidate, 60)
    assert content(bench.candidate, REPLICA_FILE) == new
    assert not (bench.candidate / COPY_FILE).exists()

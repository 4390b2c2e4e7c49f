"""After a change of master a worker's store marks, once, what the new master has not confirmed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clusterd.store import agents, new_term, schema
from clusterd.store.engine import Engine, Session


def on(root: Path, story: Any) -> None:
    """Runs it with an engine over a database of agents 1 to 6: 1 to 4 reported to this node, 5 to another one."""
    schema.prepare(str(root), "node", "4.14.1")

    def make(session: Session) -> None:
        for one in range(1, 7):
            agents.insert_agent(session, agents.NewAgentRow(one, f"agent{one}", 1))
        for one in range(1, 6):
            session.stamp(one)
        session.db.execute("update agent set sync_status = 'synced'")
        session.db.execute("update agent set sync_status = 'syncreq_keepalive' where id = 2")
        session.db.execute("update clusterd_event set node = 'w2' where id = 5")

    async def run() -> None:
        engine = Engine(str(root), readers=1)
        try:
            await engine.write(make)
            await story(engine)
        finally:
            engine.close()

    asyncio.run(run())


async def marked(engine: Engine) -> dict[int, str]:
    return await engine.read(lambda db: dict(db.execute("select id, sync_status from agent where id > 0")))


def test_agents_that_reported_here_are_reported_once_to_each_master(tmp_path: Path) -> None:
    async def story(engine: Engine) -> None:
        for key, expected in (("3 two", 4), ("3 two", 0), ("5 three", 4)):
            count = await new_term.report_again(engine, key)
            assert (key, count) == (key, expected)
            found = await marked(engine)
            if count:
                assert found == dict.fromkeys(range(1, 5), "syncreq") | {5: "synced", 6: "synced"}
            else:
                assert set(found.values()) == {"synced"}, "it has heard of them"
            await engine.write(lambda session: session.db.execute("update agent set sync_status = 'synced'").rowcount)

    on(tmp_path, story)


def test_a_kill_between_two_pieces_restarts_the_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_term, "PIECE", 2)

    async def story(engine: Engine) -> None:
        def killed(*_: object) -> None:
            raise InterruptedError

        with monkeypatch.context() as patch:
            patch.setattr(new_term, "_note", killed)
            with pytest.raises(InterruptedError):
                await new_term.report_again(engine, "3 two")
        await engine.write(lambda session: session.db.execute("update agent set sync_status = 'synced'").rowcount)
        assert await new_term.report_again(engine, "3 two") == 4
        assert await new_term.report_again(engine, "3 two") == 0

    on(tmp_path, story)

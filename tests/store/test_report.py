"""clusterd's own way of agent-info: reported agents stay marked, and a late report never hides a later one."""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.clock import boot_us
from clusterd.store import agents, report, schema
from clusterd.store.engine import Session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    schema.prepare(str(tmp_path), "node", "4.14.1")
    db = schema.connect(str(tmp_path))
    db.execute("begin")
    made = Session(db)
    for agent_id in range(1, 6):
        agents.insert_agent(made, agents.NewAgentRow(agent_id, f"agent{agent_id}", 1))
    yield made
    db.close()


def data(agent_id: int, **columns: Any) -> agents.AgentData:
    return agents.AgentData(
        agent_id, connection_status="active", group_config_status="synced", sync_status="syncreq", **columns
    )


def alive(agent_id: int) -> agents.Keepalive:
    return agents.Keepalive(agent_id, "active", "syncreq_keepalive")


def status_of(session: Session, agent_id: int) -> str:
    return str(session.db.execute("select sync_status from agent where id = ?", (agent_id,)).fetchone()[0])


def row(session: Session, agent_id: int, *columns: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = session.db.execute(
        f"select {', '.join(columns)} from agent where id = ?", (agent_id,)
    ).fetchone()
    return found


def full(agent_id: int, at: int, **columns: Any) -> report.Full:
    return report.Full(
        agent_id, f"agent{agent_id}", connection_status="active", group_config_status="synced", at=at, **columns
    )


def test_taken_agents_stay_marked_until_confirmed(session: Session) -> None:
    agents.update_agent_data(session, data(1, version="v1", labels="env:prod"))
    agents.update_keepalive(session, alive(2))
    body, rows, more = report.take_some(session.db, 10, moments=False)
    assert json.loads(body) == {
        "syncreq": [
            {
                "id": 1,
                "name": "agent1",
                "version": "v1",
                "last_keepalive": row(session, 1, "last_keepalive")[0],
                "connection_status": "active",
                "disconnection_time": 0,
                "group_config_status": "synced",
                "status_code": 0,
                "labels": [{"key": "env", "value": "prod"}],
            }
        ],
        "syncreq_keepalive": [{"id": 2}],
    }
    assert not more
    assert [status_of(session, one) for one in (1, 2)] == ["syncreq", "syncreq_keepalive"]
    assert report.confirm(session, rows) == 2
    assert [status_of(session, one) for one in (1, 2)] == ["synced", "synced"]


def test_agent_that_reports_after_it_was_taken_is_not_confirmed(session: Session) -> None:
    agents.update_keepalive(session, alive(1))
    agents.update_keepalive(session, alive(2))
    _, rows, _ = report.take_some(session.db, 10, moments=True)
    agents.update_keepalive(session, alive(1))
    assert report.confirm(session, rows) == 1
    assert [status_of(session, one) for one in (1, 2)] == ["syncreq_keepalive", "synced"]


def test_agent_whose_word_became_stronger_is_not_confirmed(session: Session) -> None:
    agents.update_keepalive(session, alive(1))
    _, rows, _ = report.take_some(session.db, 10, moments=True)
    agents.update_agent_data(session, data(1))
    assert report.confirm(session, rows) == 0
    assert status_of(session, 1) == "syncreq"


@pytest.mark.parametrize("how", ["reset", "silent"])
def test_agent_that_was_postponed_after_it_was_taken_is_not_confirmed(session: Session, how: str) -> None:
    agents.update_agent_data(session, data(1, version="v1"))
    _, rows, _ = report.take_some(session.db, 10, moments=False)
    if how == "reset":
        agents.reset_connections(session, "syncreq")
    else:
        assert agents.disconnect_silent(session, 0, session.now() + 10, "syncreq") == b'ok [{"id":1}]'
    assert report.confirm(session, rows) == 0
    assert status_of(session, 1) == "syncreq"


def test_agent_that_waits_over_a_restart_of_the_machine_is_not_taken_for_old(session: Session, tmp_path: Path) -> None:
    """The agent moved to this node, its report waited, and the machine was restarted: once the report was lost, because
    it had no time."""
    moved_us = boot_us() - 50_000_000
    agents.update_agent_data(session, data(1, version="moved"))
    session.db.execute("update clusterd_event set at = ?", (moved_us,))
    session.db.execute("update clusterd_seen set name = 'another boot' where kind = 'boot'")
    # The boot before showed a million seconds more than this one.
    session.db.execute(
        "update clusterd_seen set name = ? where kind = 'wall'", (str(schema.wall_offset_us() - 10**12),)
    )
    session.db.execute("update clusterd_event set at = at + ?", (10**12,))
    session.db.execute("commit")
    schema.prepare(str(tmp_path), "node", "4.14.1")
    body, _, _ = report.take_some(session.db, 10, moments=True)
    waited = json.loads(body)["syncreq"][0]
    assert waited["at"] == pytest.approx(min(moved_us, -1), abs=2_000_000)
    session.db.execute("begin")
    # The master's clock is 10^13 us ahead. It heard of the agent from the worker that the agent left, and a minute
    # before the agent moved.
    ahead_us = 10**13
    report.merge_ours(session, [full(1, waited["at"] - 60_000_000, version="old")], "left", ahead_us)
    reported = [full(1, waited["at"], version="moved")]
    assert report.merge_ours(session, reported, "here", ahead_us).stale == 0
    assert row(session, 1, "version") == ("moved",)


def test_batches_are_bounded_and_say_that_more_wait(session: Session) -> None:
    for agent_id in range(1, 6):
        agents.update_keepalive(session, alive(agent_id))
    seen = []
    more = True
    while more:
        body, rows, more = report.take_some(session.db, 2, moments=False)
        seen += [one["id"] for one in json.loads(body)["syncreq_keepalive"]]
        report.confirm(session, rows)
    assert seen == [1, 2, 3, 4, 5]


def test_forgotten_batch_is_unknown(session: Session) -> None:
    batches = report.Batches()
    first = batches.keep([(1, 1, "syncreq")])
    assert batches.pop(first) == [(1, 1, "syncreq")]
    assert batches.pop(first) is None
    numbers = [batches.keep([]) for _ in range(report.KEPT_BATCHES + 1)]
    assert batches.pop(numbers[0]) is None
    assert batches.pop(numbers[-1]) == []


def test_later_report_of_another_worker_is_not_hidden(session: Session) -> None:
    done = report.merge_ours(session, [full(1, 2_000, version="new", node_name="b")], "b", 0)
    assert done == report.MergedReport(1, 0, [])
    done = report.merge_ours(session, [full(1, 1_000, version="old", node_name="a")], "a", 0)
    assert done == report.MergedReport(0, 1, [])
    done = report.merge_ours(session, [report.Status(1, "old", "disconnected", 5, 3, at=1_500)], "a", 0)
    assert done == report.MergedReport(0, 1, [])
    assert row(session, 1, "version", "node_name", "connection_status") == ("new", "b", "active")


def test_moments_of_two_machines_are_compared_by_the_offset(session: Session) -> None:
    report.merge_ours(session, [full(1, 2_000, version="new")], "b", 1_000_000)
    assert report.merge_ours(session, [full(1, 900_000, version="old")], "a", 0).stale == 1
    assert report.merge_ours(session, [full(1, 900_000, version="newest")], "a", 500_000).stale == 0
    assert row(session, 1, "version") == ("newest",)


def test_same_worker_is_always_believed(session: Session) -> None:
    report.merge_ours(session, [full(1, 2_000, version="one")], "a", 0)
    report.merge_ours(session, [full(1, 2_000, version="two")], "a", -50)
    assert row(session, 1, "version") == ("two",)


def test_own_agents_of_the_master_are_not_hidden_by_a_late_worker(session: Session) -> None:
    old = boot_us()
    agents.update_agent_data(session, data(1, version="here"))
    assert report.merge_ours(session, [full(1, old, version="old")], "a", 0).stale == 1
    assert row(session, 1, "version") == ("here",)


def test_old_keepalive_does_not_look_like_a_new_one(session: Session) -> None:
    began = time.monotonic()
    report.merge_ours(session, [report.Alive(1, "v", at=boot_us() - 90_000_000)], "a", 0)
    age = session.now() - row(session, 1, "last_keepalive")[0]
    assert 89 <= age <= 92 + time.monotonic() - began


def test_refused_agent_is_named_and_delays_no_other(session: Session) -> None:
    bad = msgspec.structs.replace(full(2, 1), connection_status="asleep")
    done = report.merge_ours(session, [full(1, 1, version="v"), bad, full(3, 1, version="v")], "a", 0)
    assert len(done.errors) == 1
    assert done.errors[0].startswith("agent 2: CHECK constraint failed")
    assert [row(session, one, "version")[0] for one in (1, 2, 3)] == ["v", None, "v"]


def test_unknown_agent_is_skipped(session: Session) -> None:
    done = report.merge_ours(session, [full(77, 1), full(1, 1, version="v")], "a", 0)
    assert done.errors == []
    assert row(session, 1, "version") == ("v",)
    assert session.db.execute("select count(*) from agent where id = 77").fetchone() == (0,)


def test_deleted_agent_takes_its_moment_with_it(session: Session) -> None:
    agents.update_keepalive(session, alive(1))
    agents.delete_agent(session, 1)
    assert session.db.execute("select count(*) from clusterd_event").fetchone() == (0,)


def test_stock_report_stops_at_what_the_table_refuses(session: Session) -> None:
    bad = msgspec.structs.replace(full(2, 1), connection_status="")
    with pytest.raises(sqlite3.IntegrityError):
        report.merge(session, [full(1, 1, version="v"), bad, full(3, 1, version="v")])
    assert [row(session, one, "version")[0] for one in (1, 3)] == ["v", None]

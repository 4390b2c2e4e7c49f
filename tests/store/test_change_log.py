"""The change log: whatever changes the database, the changes since any position make a copy equal."""

import sqlite3
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from clusterd.store import agents, change_log, groups, report, sql, stream_report, table
from clusterd.store.bounds import StatementWatch
from clusterd.store.engine import Session
from clusterd.store.registry import Registration
from clusterd.store.units import UnitDigest
from tests.store.change_pair import Pair, Work, add, as_bytes, catch_up, rows

_watches: list[StatementWatch] = []


@pytest.fixture(autouse=True, scope="module")
def watch() -> Iterator[None]:
    _watches.append(StatementWatch())
    yield
    _watches.pop().close()


# ---- what the store can do -------------------------------------------------------------------------------------------

ids = st.integers(1, 5)
names = st.sampled_from(["default", "web", "db", "x" * 8])
texts = st.sampled_from(["", "one", "zwei", "\u2028", "0"])
words = st.sampled_from(["synced", "syncreq", "syncreq_status", "syncreq_keepalive"])
status = st.sampled_from(["active", "disconnected", "pending", "never_connected"])


def _assign(mode: str, one: int, listed: list[str], on_worker: bool) -> Work:
    request = {"mode": mode, "sync_status": "syncreq", "data": [{"id": one, "name": "made", "groups": listed}]}
    return lambda session: groups.set_agent_groups(session, request, on_worker=on_worker)


def _statement(text: str) -> Work:
    return lambda session: sql.run_write(session, text, _watches[0])


full = st.builds(
    report.Full,
    id=ids,
    name=texts,
    version=texts,
    connection_status=status,
    group_config_status=st.sampled_from(["synced", "not synced"]),
    labels=st.lists(st.builds(report.Label, key=texts, value=texts), max_size=2, unique_by=lambda label: label.key),
    at=st.integers(0, 9),
)
STATEMENTS = (
    "insert or replace into agent (id, name, date_add) values (2, 'replaced', 1)",
    "insert or ignore into agent (id, name, date_add) values (9, 'ignored', 1)",
    "update or ignore agent set name = 'again' where id = 1",
    "update agent set id = id + 10 where id = 4",
    "update agent set os_name = cast(x'ff41' as text), config_sum = 'a' where id < 3",
    "update agent set os_uname = 'a' || char(0) || id where id < 3",
    "update agent set os_arch = x'ff00' where id < 3",
    "update agent set os_build = 'ü' where id < 4",
    "update agent set status_code = 'text' where id = 1",
    "insert or replace into \"group\" (id, name) values (7, 'web')",
    "update or replace \"group\" set name = 'web' where name = 'db'",
    "update or replace labels set id = 2 where id = 1",
    "insert or ignore into labels values (1, 'new', 'v')",
    "insert or replace into labels values (1, 'k', 'w')",
    "update labels set value = 'other'",
    "update or replace belongs set id_agent = 3 where id_agent = 2",
    "insert or replace into belongs values (1, 1, 0)",
    "insert or ignore into belongs values (4, 1, 0)",
    "delete from agent where id > 3",
    "delete from belongs where id_agent = 1",
    "delete from labels",
    "delete from \"group\" where name = 'web'",
)
statements = st.sampled_from(STATEMENTS)
works: st.SearchStrategy[Work] = st.one_of(
    st.builds(
        lambda one, name, group: lambda s: table._apply(s, [Registration(one, name, "any", "k", group, 1)], []),
        ids,
        texts,
        st.sampled_from([None, "web", "db,web"]),
    ),
    ids.map(lambda one: lambda s: table._apply(s, [], [one])),
    ids.map(lambda one: lambda s: agents.insert_agent(s, agents.NewAgentRow(one, "new", 1))),
    st.builds(
        lambda one, text, how: (
            lambda s: agents.update_agent_data(
                s,
                agents.AgentData(
                    one, version=text, connection_status=how, group_config_status="synced", labels="a:b\nc:d"
                ),
            )
        ),
        ids,
        texts,
        status,
    ),
    st.builds(lambda one, text: lambda s: agents.update_agent_name(s, agents.AgentName(one, text)), ids, texts),
    st.builds(lambda one, w: lambda s: agents.update_keepalive(s, agents.Keepalive(one, "active", w)), ids, words),
    st.builds(
        lambda one, how, w: lambda s: agents.update_connection_status(s, agents.AgentConnection(one, how, w, 0)),
        ids,
        status,
        words,
    ),
    st.builds(lambda one, w: lambda s: agents.update_status_code(s, agents.StatusCode(one, 2, w, "v")), ids, words),
    words.map(lambda w: lambda s: agents.reset_connections(s, w)),
    words.map(lambda w: lambda s: agents.disconnect_silent(s, 0, 2**40, w)),
    ids.map(lambda one: lambda s: agents.delete_agent(s, one)),
    names.map(lambda name: lambda s: groups.insert_group(s, name)),
    names.map(lambda name: lambda s: groups.delete_group(s, name, "syncreq")),
    st.builds(
        _assign,
        st.sampled_from(["override", "append", "empty_only", "remove"]),
        ids,
        st.lists(names, max_size=3),
        st.booleans(),
    ),
    st.just(groups.recalculate_all),
    st.booleans().map(
        lambda done: lambda s: groups.sync_agent_groups_get(s, groups.GroupsQuery("all", set_synced=done))
    ),
    ids.map(lambda one: lambda s: groups.handed_out(s, [groups.HandedOut(one, ["web"])])),
    st.just(report.take_all),
    st.just(lambda s: stream_report.sync_agent_info_get(s, 0)),
    st.lists(full, min_size=1, max_size=3).map(lambda listed: lambda s: report.merge_ours(s, listed, "w", 5)),
    ids.map(lambda one: lambda s: report.merge_ours(s, [report.Alive(one, "v", 3)], "w2", None)),
    ids.map(lambda one: lambda s: report.merge(s, [report.Status(one, "v", "active")])),
    ids.map(lambda one: lambda s: report.confirm(s, [(one, 0, "syncreq")])),
    ids.map(lambda one: lambda s: table.note_seen(s, table.KEYS, [str(one)])),
    ids.map(lambda one: lambda s: table.forget_seen(s, table.KEYS, [str(one)])),
    statements.map(_statement),
)


def _populated() -> Pair:
    pair = Pair()

    def work(session: Session) -> None:
        for name in ("default", "web", "db"):
            groups.insert_group(session, name)
        for one in range(1, 5):
            table._apply(
                session, [Registration(one, f"agent{one}", "any", "key", "web,db" if one < 3 else None, 1)], []
            )
        agents.update_agent_data(
            session, agents.AgentData(1, connection_status="active", group_config_status="synced", labels="k:v\na:b")
        )

    pair.change(work)
    return pair


@pytest.mark.slow
@given(st.lists(st.tuples(works, st.integers(0, 4)), max_size=15))
def test_copy_is_equal_whatever_was_done_and_however_it_was_sent(story: list[tuple[Work, int]]) -> None:
    pair = _populated()
    try:
        for work, told in story:
            pair.change(work)
            if told > 2:
                catch_up(pair)
            elif told:
                pair.batch(told)
        catch_up(pair)
        for db, kept in zip((pair.master, pair.copy), pair.digests, strict=True):
            fresh = UnitDigest()
            with as_bytes(db):
                fresh.read_all(db)
            assert fresh.text == kept.text
    finally:
        pair.close()


@pytest.mark.parametrize("text", STATEMENTS)
def test_every_kind_of_statement_is_in_the_log(text: str) -> None:
    pair = _populated()
    try:
        catch_up(pair)
        before = rows(pair.master)
        pair.change(_statement(text))
        assert rows(pair.master) != before
        catch_up(pair)
    finally:
        pair.close()


@pytest.mark.parametrize("text", STATEMENTS)
def test_rows_of_every_kind_are_copied_in_full(text: str) -> None:
    pair = _populated()
    try:
        pair.change(_statement(text))
        pair.batch(99)
        catch_up(pair)
    finally:
        pair.close()


@pytest.mark.parametrize(
    "text",
    [
        "delete from clusterd_change",
        "update clusterd_mark set value = 'x'",
        "insert into clusterd_change values (9, 1, 1)",
        "with clusterd_log_x as (select 9, 1, 1) insert into clusterd_change select * from clusterd_log_x",
        "with clusterd_log_x as (select 'db_version', '9') "
        "insert or replace into metadata select * from clusterd_log_x",
        "drop trigger clusterd_log_agent_update",
    ],
)
def test_clients_sql_cannot_touch_the_log(pair: Pair, text: str) -> None:
    pair.change(add(1))
    before = change_log.changed_since(pair.master, 0, 99)
    with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
        sql.run_write(pair.session, text, _watches[0])
    assert change_log.changed_since(pair.master, 0, 99) == before

"""The change log: whatever changes the database, the changes since any position make a copy equal."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from clusterd.store import agents, change_log, groups, report, schema, sql, table
from clusterd.store.bounds import StatementWatch
from clusterd.store.change_log import AGENT, LogLife, joined
from clusterd.store.engine import Session
from clusterd.store.jsontext import JsonRefused
from clusterd.store.registry import Registration
from clusterd.store.units import Unit, UnitDigest, read_units, write_units

TABLES = {
    "agent": "select * from agent where id > 0 order by id",
    "labels": "select * from labels order by id, key",
    "group": 'select * from "group" order by id',
    "belongs": "select * from belongs order by id_agent, id_group",
    "clusterd_event": "select * from clusterd_event order by id",
    "keys": "select name from clusterd_seen where kind = 'key' order by name",
}


class Pair:
    """A master's database and a copy that is brought up to date from the log, both in memory."""

    def __init__(self) -> None:
        self.master, self.copy = made(), made()
        self.copy.execute("pragma foreign_keys = off")
        with self.master:
            self.master.execute("begin")
            change_log.begin_log(self.master)
        self.session = Session(self.master)
        self.epoch = str(change_log.mark(self.master, change_log.EPOCH))
        self.position = 0
        self.digests = UnitDigest(), UnitDigest()

    def close(self) -> None:
        self.master.close()
        self.copy.close()

    def change(self, work: Callable[[Session], object]) -> None:
        """As in the engine: a refused statement undoes only itself."""
        self.master.execute("begin immediate")
        try:
            work(self.session)
        except (JsonRefused, sqlite3.Error):
            pass
        finally:
            if self.master.in_transaction:
                self.master.execute("commit")

    def batch(self, most: int) -> bool:
        """Returns whether there was one."""
        listed = change_log.changed_since(self.master, self.position, most)
        wanted = [(kind, one) for _, kind, one in listed]
        with as_bytes(self.master):
            units = read_units(self.master, wanted)
            self.digests[0].read_again(self.master, wanted)
        with as_bytes(self.copy):
            self.copy.execute("begin")
            write_units(self.copy, units)
            self.copy.execute("commit")
            self.digests[1].read_again(self.copy, wanted)
        self.position = listed[-1][0] if listed else self.position
        return bool(listed)


_watches: list[StatementWatch] = []


@pytest.fixture(autouse=True, scope="module")
def watch() -> Iterator[None]:
    _watches.append(StatementWatch())
    yield
    _watches.pop().close()


class as_bytes:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._before, self._db.text_factory = self._db.text_factory, bytes

    def __exit__(self, *_: object) -> None:
        self._db.text_factory = self._before


def made() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.execute("pragma foreign_keys = on")
    db.execute("pragma recursive_triggers = on")
    schema.make(db, "memory")
    return db


def rows(db: sqlite3.Connection) -> dict[str, list[Any]]:
    with as_bytes(db):
        return {name: db.execute(query).fetchall() for name, query in TABLES.items()}


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


# ---- what the store can do -------------------------------------------------------------------------------------------

ids = st.integers(1, 5)
names = st.sampled_from(["default", "web", "db", "x" * 8])
texts = st.sampled_from(["", "one", "zwei", "\u2028", "0"])
words = st.sampled_from(["synced", "syncreq", "syncreq_status", "syncreq_keepalive"])
status = st.sampled_from(["active", "disconnected", "pending", "never_connected"])
Work = Callable[[Session], object]


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
    st.just(lambda s: report.sync_agent_info_get(s, 0)),
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


def _catch_up(pair: Pair) -> None:
    while pair.batch(2):
        pass
    assert rows(pair.copy) == rows(pair.master)
    assert pair.digests[0].text == pair.digests[1].text


@given(st.lists(st.tuples(works, st.integers(0, 4)), max_size=15))
def test_copy_is_equal_whatever_was_done_and_however_it_was_sent(story: list[tuple[Work, int]]) -> None:
    pair = _populated()
    try:
        for work, told in story:
            pair.change(work)
            if told > 2:
                _catch_up(pair)
            elif told:
                pair.batch(told)
        _catch_up(pair)
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
        _catch_up(pair)
        before = rows(pair.master)
        pair.change(_statement(text))
        assert rows(pair.master) != before
        _catch_up(pair)
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
    pair.change(_add(1))
    before = change_log.changed_since(pair.master, 0, 99)
    with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
        sql.run_write(pair.session, text, _watches[0])
    assert change_log.changed_since(pair.master, 0, 99) == before


# ---- positions -------------------------------------------------------------------------------------------------------


def _add(one: int) -> Work:
    return lambda session: agents.insert_agent(session, agents.NewAgentRow(one, "a", 1))


def test_unit_that_changes_again_has_a_new_position_and_its_old_one_is_not_given_again(pair: Pair) -> None:
    seen = set()
    for _ in range(3):
        pair.change(lambda s: s.db.execute("insert or replace into agent (id, name, date_add) values (1, 'a', 1)"))
        last = change_log.head(pair.master)
        assert last not in seen
        seen.add(last)
        (found,) = [row for row in change_log.changed_since(pair.master, 0, 9) if row[1] == AGENT]
        assert found == (last, AGENT, 1)


def test_deleted_unit_is_sent_as_empty(pair: Pair) -> None:
    pair.change(_add(1))
    pair.change(lambda s: agents.delete_agent(s, 1))
    with as_bytes(pair.master):
        (unit,) = read_units(pair.master, [(AGENT, 1)])
    assert unit == Unit(AGENT, 1)
    assert unit.is_gone


def begin(db: sqlite3.Connection) -> str:
    """The next life of the log; its epoch."""
    with db:
        db.execute("begin")
        change_log.begin_log(db)
    return str(change_log.mark(db, change_log.EPOCH))


def test_positions_of_another_life_or_beyond_the_end_are_unknown(pair: Pair) -> None:
    pair.change(_add(1))
    last = change_log.head(pair.master)
    assert change_log.is_known(pair.master, pair.epoch, last)
    assert not change_log.is_known(pair.master, "another", last)
    assert not change_log.is_known(pair.master, pair.epoch, last + 1)
    epoch = begin(pair.master)
    assert not change_log.is_known(pair.master, pair.epoch, last), "a power failure may have taken it back"
    assert change_log.is_known(pair.master, epoch, last)
    assert change_log.is_known(pair.master, epoch, 0)
    assert not change_log.is_known(pair.master, epoch, last + 1)


def test_a_start_of_the_store_is_no_change_and_says_what_the_life_before_had(pair: Pair) -> None:
    pair.change(_add(1))
    last = change_log.head(pair.master)
    epochs = [begin(pair.master) for _ in range(3)]
    assert change_log.lives(pair.master) == [LogLife(epoch, last) for epoch in (pair.epoch, *epochs[:-1])]
    assert (change_log.head(pair.master), change_log.earlier(pair.master)) == (last, last)


def test_only_the_last_lives_are_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "KEPT_LIVES", 2)
    epochs = [begin(pair.master) for _ in range(4)]
    assert [life.epoch for life in change_log.lives(pair.master)] == epochs[1:-1]


def test_a_log_of_an_earlier_version_goes_on_behind_its_gaps(pair: Pair) -> None:
    pair.change(_add(1))
    last = change_log.head(pair.master)
    pair.master.execute("insert into clusterd_change values (?, 0, ?)", (last + 1_000_000, last))
    begin(pair.master)
    assert change_log.lives(pair.master) == [LogLife(pair.epoch, last)]
    pair.change(_add(2))
    assert change_log.changed_since(pair.master, last, 9) == [(last + 1, AGENT, 2)]


OPEN = 0


@pytest.mark.parametrize(
    ("own", "theirs", "found"),
    [
        # The new leader had it all, more, or less.
        ([("a", 7)], [("a", 7), ("b", OPEN)], (7, ())),
        ([("a", 5)], [("a", 7), ("b", OPEN)], (5, ())),
        ([("a", 9)], [("a", 7), ("b", OPEN)], (7, ())),
        # Two changes of leader were slept over; nothing of the one in between was seen.
        ([("a", 5)], [("a", 7), ("b", 30), ("c", OPEN)], (5, ())),
        ([("a", 9)], [("a", 7), ("b", 30), ("c", OPEN)], (7, ())),
        # Both have left it on their own ways.
        ([("a", 7), ("b", 20)], [("a", 6), ("c", OPEN)], (6, ())),
        ([("a", 7), ("b", 20)], [("a", 9), ("c", OPEN)], (7, ())),
        # A backup from the middle of the life that the replica follows still.
        ([("z", 2), ("a", 9)], [("z", 2), ("a", 4), ("c", OPEN)], (4, ())),
        # A replica of the later life, and the master of the earlier one is back with nothing new.
        ([("a", 7), ("b", 20)], [("a", OPEN)], (7, ())),
        # Nothing in common: a new database; lives that were forgotten.
        ([("a", 7)], [("b", OPEN)], None),
        ([("a", 7)], [("b", 30), ("c", OPEN)], None),
        # Moments were moved with the change of machine, once or twice, and on two ways.
        ([("a", 5)], [("a", 7, -3), ("b", OPEN)], (5, (-3,))),
        ([("a", 5)], [("a", 7, -3), ("b", 9), ("c", 20, 8), ("d", OPEN)], (5, (-3, 8))),
        ([("z", 1, 4), ("a", 5)], [("z", 1, 4), ("a", 7, -3), ("b", OPEN)], (5, (-3,))),
        ([("a", 5, 6), ("x", 9)], [("a", 7, -3), ("b", OPEN)], None),
    ],
)
def test_what_a_replica_has_in_common_with_a_log(
    own: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]], found: tuple[int, tuple[int, ...]] | None
) -> None:
    assert joined([LogLife(*one) for one in own], [LogLife(*one) for one in theirs]) == found


def test_deletions_that_a_life_has_forgotten_are_said_and_a_copy_goes_on_behind_them(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "KEPT_DELETIONS", 2)
    for one in range(1, 6):
        pair.change(_add(one))
    earlier = change_log.head(pair.master)
    for one in range(1, 5):
        pair.change(lambda s, one=one: agents.delete_agent(s, one))
    late = change_log.head(pair.master)
    epoch = begin(pair.master)
    assert earlier < change_log.floor(pair.master) <= late, "whoever follows an earlier life is not told less"
    assert all(change_log.is_known(pair.master, epoch, position) for position in range(late + 1))
    units = [(kind, one) for _, kind, one in change_log.changed_since(pair.master, 0, 99)]
    assert sorted(units) == [(AGENT, 3), (AGENT, 4), (AGENT, 5)], "the last deletions, and what there is"


def test_highest_id_survives_its_agent(pair: Pair) -> None:
    pair.change(_add(70))
    pair.change(_add(3))
    pair.change(lambda s: agents.delete_agent(s, 70))
    pair.change(lambda s: agents.insert_agent(s, agents.NewAgentRow(2**40, "no id of authd's", 1)))
    assert change_log.mark(pair.master, change_log.GREATEST) == 70


def test_boot_of_the_machine_moves_all_moments_and_the_log_says_how_far(pair: Pair) -> None:
    pair.change(_add(70))
    pair.change(lambda s: s.stamp(70))
    last = change_log.head(pair.master)
    (before,) = pair.master.execute("select at from clusterd_event").fetchone()
    pair.master.execute("update clusterd_seen set name = 'another boot' where kind = 'boot'")
    pair.master.execute("update clusterd_seen set name = name - 7000000 where kind = 'wall'")
    schema.make(pair.master, "memory")
    (after,) = pair.master.execute("select at from clusterd_event").fetchone()
    begin(pair.master)
    (life,) = change_log.lives(pair.master)
    assert (life.epoch, life.ended) == (pair.epoch, last)
    assert after == min(before + life.moved, -1) < 0
    begin(pair.master)
    assert change_log.lives(pair.master)[-1].moved == 0, "said once"


def test_moments_that_were_moved_twice_or_dropped_make_a_log_of_its_own(pair: Pair) -> None:
    pair.change(_add(70))
    for boots in (["one", "two"], [""]):
        for boot in boots:
            pair.master.execute("update clusterd_seen set name = ? where kind = 'boot'", (boot,))
            if not boot:
                pair.master.execute("delete from clusterd_seen where kind = 'wall'")
            schema.make(pair.master, "memory")
        begin(pair.master)
        assert change_log.lives(pair.master) == []
        begin(pair.master)


def test_log_that_is_turned_off_leaves_nothing_and_a_new_one_has_everything(pair: Pair) -> None:
    plain = made()
    pair.change(_add(1))
    change_log.end_log(pair.master)
    names = "select type, name from sqlite_master order by 1, 2"
    assert pair.master.execute(names).fetchall() == plain.execute(names).fetchall()
    plain.close()
    pair.change(_add(2))
    change_log.begin_log(pair.master)
    assert change_log.mark(pair.master, change_log.EPOCH) != pair.epoch
    assert change_log.mark(pair.master, change_log.GREATEST) == 2
    _catch_up(pair)


def test_file_has_a_log_only_while_it_is_wanted(tmp_path: Path) -> None:
    def is_on() -> bool:
        db = schema.connect(str(tmp_path))
        found = change_log.is_on(db)
        db.close()
        return found

    found = []
    for log in (False, True, True, False):
        schema.prepare(str(tmp_path), "m", "4.14.1", log=log)
        found.append(is_on())
    assert found == [False, True, True, False]

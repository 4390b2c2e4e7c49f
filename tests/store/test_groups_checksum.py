"""The hashes kept in memory equal a full computation over the table, whatever was done (wdb.md 5)."""

import contextlib
import hashlib
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.store import agents, groups, schema, sql
from clusterd.store.bounds import StatementWatch
from clusterd.store.engine import Session
from clusterd.store.groups_checksum import GroupHashes, group_hash
from clusterd.store.jsontext import JsonRefused
from tests.sizes import examples


def computed(db: sqlite3.Connection) -> str | None:
    """Computes the hash from the table, in the words of the specification."""
    texts = [
        row[0] for row in db.execute("select group_hash from agent where id > 0 and group_hash is not null order by id")
    ]
    return hashlib.sha1("".join(texts).encode()).hexdigest() if texts else None


@pytest.mark.parametrize(
    ("csv", "expected"),
    [
        ("default", "37a8eec1"),
        ("default,linux", "fe375984"),
        ("linux,default", "3896ccb4"),
        ("web,db,default", "6d9091db"),
        ("default,group1", "e48046b2"),
        ("group1", "ec282560"),
    ],
)
def test_group_hash_is_that_of_the_worked_examples(csv: str, expected: str) -> None:
    assert group_hash(csv) == expected


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ([(1, "37a8eec1")], "aac8edbccfab5ea7eee53016af08b756a44dc399"),
        ([(1, "37a8eec1"), (2, "fe375984"), (3, "6d9091db")], "2fe17f231655dfb69e1978ca8b523048a186af26"),
        ([(1, "37a8eec1"), (2, "3896ccb4"), (3, "6d9091db")], "55804e2e46cd19056e86d6068ae5ea96e165e159"),
        ([(1, "37a8eec1"), (3, "6d9091db")], "8f2e520195dd880f664ba748049e43861343c7bb"),
        ([(n, "37a8eec1") for n in (1, 2, 3)], "bd612e9ae2faf8a44b387eeb9f3d5a5e577c8c64"),
        ([], None),
    ],
)
def test_global_hash_is_that_of_the_worked_examples(hashes: list[tuple[int, str]], expected: str | None) -> None:
    found = GroupHashes()
    for agent_id, text in reversed(hashes):
        found.put(agent_id, text)
    assert found.digest() == expected


def test_global_hash_of_many_agents_is_that_of_the_worked_example() -> None:
    found = GroupHashes()
    for agent_id in range(100, 0, -1):
        found.put(agent_id, "37a8eec1")
    found.load((agent_id, b"37a8eec1") for agent_id in range(1, 100_001))
    assert found.digest() == "1d587d42c978d4883cdd3d9e1f51fec26e35deaf"


NAMES = ["default", "linux", "web", "db", "no-such-group"]
IDS = st.integers(1, 6)
LISTS = st.lists(st.sampled_from(NAMES), max_size=5)
STEPS = st.one_of(
    st.tuples(st.just("insert"), IDS),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.sampled_from(["override", "append", "empty_only", "remove"]), IDS, LISTS, st.booleans()),
    st.tuples(st.just("delete-group"), st.sampled_from(NAMES)),
    st.tuples(st.just("insert-group"), st.sampled_from(NAMES[:-1])),
    st.tuples(st.just("recalculate")),
    st.tuples(
        st.just("sql"),
        st.sampled_from(
            [
                "update agent set group_hash = 'abcdef01' where id = 2",
                "update agent set group_hash = 'odd' where id = 3",
                "update agent set group_hash = null where id > 3",
                "delete from belongs where id_agent = 1",
                "delete from agent where id = 4",
            ]
        ),
    ),
    st.tuples(st.just("undo")),
)


def do(session: Session, step: tuple, watch: StatementWatch) -> None:  # type: ignore[type-arg]
    match step:
        case ("insert", agent_id):
            session.db.execute("insert or ignore into agent (id, name, date_add) values (?, 'x', 1)", (agent_id,))
        case ("delete", agent_id):
            agents.delete_agent(session, agent_id)
        case ("delete-group", name):
            groups.delete_group(session, name, "syncreq")
        case ("insert-group", name):
            groups.insert_group(session, name)
        case ("recalculate",):
            groups.recalculate_all(session)
        case ("sql", statement):
            sql.run_write(session, statement, watch)
        case ("undo",):
            session.db.execute("rollback")
            session.load_hashes()
            session.db.execute("begin")
        case (mode, agent_id, names, named):
            item = {"id": agent_id, "groups": names} | ({"name": "made"} if named else {})
            groups.set_agent_groups(session, {"mode": mode, "sync_status": "syncreq", "data": [item]}, on_worker=False)


@pytest.mark.slow
@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=examples(120), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hash_from_memory_equals_the_table_after_any_commands(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "queue/db").mkdir(parents=True)
        schema.prepare(root, "node", "4.14.1")
        db = schema.connect(root)
        watch = StatementWatch()
        try:
            db.execute("begin")
            session = Session(db)
            for name in NAMES[:-1]:
                groups.insert_group(session, name)
            for agent_id in (1, 2, 3):
                session.db.execute("insert into agent (id, name, date_add) values (?, 'x', 1)", (agent_id,))
            db.execute("commit")
            db.execute("begin")
            for step in steps:
                with contextlib.suppress(JsonRefused, sqlite3.Error):
                    do(session, step, watch)
                assert session.hashes.digest() == computed(db)
        finally:
            watch.close()
            db.close()

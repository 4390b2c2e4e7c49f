"""What a client's own SQL may do: change rows, and nothing that outlives them or keeps other clients from their
store."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.store import private, sql
from tests.contracts.helpers import add_agents
from tests.store.lone_store import LoneStore, lone_store
from tools.rig.wdb_client import WdbClient

FOREVER = "with recursive n(i) as (select 1 union all select i + 1 from n)"
PATIENT_S = 200.0
"""A statement that is not interrupted takes hours."""
MOST_KB = 500_000
"""How much the process may ever have grown: the heap limit of SQLite (262,144) and its own copies. The most seen was
348,000."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LoneStore]:
    with lone_store(tmp_path) as made:
        yield made


@pytest.fixture
def db(store: LoneStore) -> Iterator[WdbClient]:
    with WdbClient(store.root, PATIENT_S) as client:
        add_agents(client, 1, 2)
        yield client


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneStore]:
    """For statements that change nothing."""
    with lone_store(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(scope="module")
def shared_db(shared_store: LoneStore) -> Iterator[WdbClient]:
    with WdbClient(shared_store.root, PATIENT_S) as client:
        add_agents(client, 1, 2)
        yield client


@pytest.fixture
def at_first_kb(store: LoneStore) -> int:
    """The store is forked from the process of the tests, and is as large as that process."""
    return peak_kb(store)


def peak_kb(store: LoneStore) -> int:
    for line in Path(f"/proc/{store.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


@pytest.mark.parametrize(
    "statement",
    [
        "drop table agent",
        "drop table belongs",
        "drop index agent_name",
        "create table mine (a)",
        "create temp table agent (id)",
        "create temp view agent as select 1 as id",
        "create trigger t after insert on agent begin delete from agent; end",
        "create temp trigger t after insert on agent begin delete from agent; end",
        "create view v as select 1",
        "create index i on agent (ip)",
        "create virtual table v using fts5(a)",
        "alter table agent rename to other",
        "alter table agent add column mine",
        "alter table agent drop column ip",
        "delete from metadata",
        "update metadata set value = '6'",
        "insert into clusterd_seen (kind, name) values ('wall', 'x')",
        "update clusterd_event set at = 'x'",
        "delete from sqlite_master",
        "update sqlite_master set sql = 'x'",
        "insert into sqlite_sequence values ('group', 1)",
        "pragma writable_schema = on",
        "pragma journal_mode = delete",
        "pragma user_version = 5",
        "pragma foreign_keys = off",
        "pragma query_only = off",
        "pragma wal_checkpoint",
        "pragma hard_heap_limit = 1000",
        "select * from pragma_user_version(5)",
        "attach 'other.db' as other",
        "vacuum",
        "vacuum into 'copy.db'",
        "analyze",
        "reindex",
        "begin",
        "select load_extension('x')",
    ],
)
def test_a_client_s_sql_leaves_schema_and_settings_alone(
    shared_store: LoneStore, shared_db: WdbClient, statement: str
) -> None:
    store, db = shared_store, shared_db
    rows = db.raw("global sql select type, name, sql from sqlite_master")
    assert db.raw(f"global sql {statement}").startswith(b"err Cannot execute Global database query; ")
    assert db.raw(f"agent 1 sql {statement}").startswith(b"err ")
    assert db.raw("global sql select type, name, sql from sqlite_master") == rows
    assert db.raw("global sql select count(*) as n from agent where id > 0") == b'ok [{"n":2}]'
    assert not list(store.root.rglob("copy.db"))
    assert not list(store.root.rglob("other.db"))


def test_a_store_starts_after_whatever_a_client_wrote(store: LoneStore, db: WdbClient) -> None:
    for column in ("name", "`group`", "group_hash", "version", "internal_key"):
        db.command(f"global sql update agent set {column} = cast(x'ff' as text) where id = 1")
    db.command("global sql update agent set group_hash = x'ffffffffffffffff', last_keepalive = 'never' where id = 2")
    db.command("global sql delete from clusterd_event")
    db.command("global sql insert or replace into labels values (1, cast(x'ff' as text), cast(x'fe' as text))")
    store.stop()
    store.restart()
    with WdbClient(store.root, PATIENT_S) as again:
        assert json.loads(again.command("global get-agent-info 1"))[0]["name"] == "\ufffd"
        assert again.ids("get-all-agents last_id") == [1, 2]
        assert (
            again.command(
                "global set-agent-groups " + json.dumps({"mode": "append", "data": [{"id": 1, "groups": ["default"]}]})
            )
            == ""
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "select hex(zeroblob(400000000))",
        "select replace(hex(zeroblob(900000)), '0', hex(zeroblob(900000)))",
        f"{FOREVER} select group_concat(hex(zeroblob(1000))) from (select i from n limit 30000)",
        f"{FOREVER} select hex(randomblob(100000)) as x from n order by x",
        f"{FOREVER} select count(distinct randomblob(100000)) from n",
        f"{FOREVER} select count(*) from (select randomblob(100000) as r, i from n group by r)",
        f"{FOREVER} insert into agent (id, name, date_add) "
        "select i, hex(randomblob(100000)), 1 from n order by random()",
        "with c0(x) as (select 1), "
        + ", ".join(f"c{n}(x) as (select a.x from c{n - 1} a, c{n - 1} b)" for n in range(1, 40))
        + " select x from c39",
        "select " + ", ".join(["hex(zeroblob(2000000))"] * 100),
    ],
)
def test_a_statement_that_wants_all_memory_gets_none_of_it(
    store: LoneStore, at_first_kb: int, db: WdbClient, statement: str
) -> None:
    assert db.raw(f"global sql {statement}").startswith(b"err Cannot execute Global database query; ")
    assert db.raw(f"agent 1 sql {statement}").startswith(b"err ")
    assert peak_kb(store) - at_first_kb < MOST_KB
    assert db.raw("global sql select count(*) as n from agent where id > 0") == b'ok [{"n":2}]'


@pytest.mark.slow
def test_many_such_statements_at_once_harm_no_other_client_for_long(
    store: LoneStore, at_first_kb: int, db: WdbClient
) -> None:
    answers: list[bytes] = []

    def attack(whose: str) -> None:
        with WdbClient(store.root, PATIENT_S) as client:
            answers.append(client.raw(f"{whose} sql {FOREVER} select count(distinct randomblob(100000)) from n"))

    # The process has two readers for statements of the first kind; each of the second kind has a connection of its own.
    threads = [threading.Thread(target=attack, args=[whose]) for whose in ("global", "global", *["agent 1"] * 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer.startswith(b"err ") for answer in answers)
    assert peak_kb(store) - at_first_kb < MOST_KB
    db.command("global sql update agent set ip = '10.0.0.9' where id = 1")
    assert "ERROR" not in store.log


def test_rows_larger_than_a_client_may_make_are_still_served(store: LoneStore, db: WdbClient) -> None:
    """The bounds are those of clients' statements, not of the store's own."""
    large = "x" * 60_000
    for number in range(6):
        db.command(f"global sql insert into labels values (1, 'k{number}', '{large}')")
    assert db.raw("global get-labels 1").startswith(b'ok [{"id":1,"key":"k0"')
    assert db.raw("global sql select id from agent where id in (" + ",".join(map(str, range(12_000))) + ")") == (
        b'ok [{"id":0},{"id":1},{"id":2}]'
    )


@pytest.mark.slow
def test_a_statement_whose_single_calls_take_long_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quadratic function: the time is checked between two of its calls, not every 100,000 steps."""
    monkeypatch.setattr(private, "STATEMENT_S", 1.0)
    hay = "hex(zeroblob(100000))"
    with lone_store(tmp_path) as store, WdbClient(store.root, PATIENT_S) as db:
        add_agents(db, 1)
        answer = db.raw(f"agent 1 sql {FOREVER} select sum(instr({hay}, substr({hay}, i % 100, 100000) || '1')) from n")
    assert answer == b"err Cannot execute SQL query"


def test_the_end_of_a_statement_is_found_at_once() -> None:
    many = ";" * 65_000
    began = time.process_time()
    for text in (f"select '{many}", f"/*{many}", f'select "{many}', "create trigger a begin " + "x;" * 32_000):
        sql.first_statement(text)
    assert time.process_time() - began < 1
    assert sql.first_statement("select ';'; select 2") == "select ';';"
    assert sql.first_statement("create trigger a begin x; y; end; z") == "create trigger a begin x; y; end;"

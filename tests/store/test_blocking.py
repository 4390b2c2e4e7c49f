"""The blocking client of the database, with a real store (wdb.md 2)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.wdb.blocking import LARGEST_REQUEST, BlockingDatabase, quoted, statement
from clusterd.wdb.client import DatabaseError
from tests.contracts.helpers import add_many
from tests.store.lone_store import LoneStore, lone_store
from tools.rig.guard import guarded
from tools.rig.wdb_client import WdbClient

MANY = 3000
SELECT = "select id, name, manager_host as host from agent"


@pytest.fixture(scope="module")
def store() -> Iterator[LoneStore]:
    """Agents 1 to MANY, of which the first have long rows and the others short ones."""
    with guarded("wdb-") as base, lone_store(base / "1") as made:
        with WdbClient(made.root) as db:
            add_many(db, MANY)
            db.command(f"global sql update agent set manager_host = '{'h' * 5000}' where id between 1 and 100")
        yield made


@pytest.fixture
def database(store: LoneStore) -> Iterator[BlockingDatabase]:
    with BlockingDatabase(str(store.root)) as made:
        yield made


def test_pages_hold_every_row_once_whatever_their_size(database: BlockingDatabase) -> None:
    rows = list(database.pages(f"{SELECT} where id > ? order by id", [0]))
    assert [row["id"] for row in rows] == list(range(1, MANY + 1))
    assert len(rows[0]["host"]) == 5000
    part = database.pages(f"{SELECT} where id > ? order by id", [0], offset=50, limit=100)
    assert [row["id"] for row in part] == list(range(51, 151))
    assert list(database.pages(f"{SELECT} order by id", limit=0)) == []


def test_rows_of_many_keys_come_whatever_their_size(database: BlockingDatabase) -> None:
    keys = [*range(1, MANY, 2), MANY + 7]
    assert sorted(row["id"] for row in database.rows_of(SELECT, "id", keys)) == keys[:-1]
    assert list(database.rows_of(SELECT, "id", [])) == []


def test_many_short_rows_need_few_requests(database: BlockingDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = database.ask

    def counted(request: str) -> tuple[str, bytes]:
        asked.append(request)
        return ask(request)

    monkeypatch.setattr(database, "ask", counted)
    assert len(list(database.pages("select id from agent order by id"))) == MANY + 1
    assert len(asked) <= 8


def test_row_that_no_answer_holds_is_2007(database: BlockingDatabase) -> None:
    long = "select replace(hex(zeroblob(40000)), '0', 'x') as a from agent where id < 5"
    for find in (
        lambda: list(database.pages(f"{long} order by id")),
        lambda: list(database.rows_of("select replace(hex(zeroblob(40000)), '0', 'x') as a from agent", "id", [1, 2])),
        lambda: database.rows(long),
    ):
        with pytest.raises(DatabaseError) as raised:
            find()
        assert raised.value.code == 2007


def test_request_that_the_database_would_not_take_is_2004_and_not_sent(database: BlockingDatabase) -> None:
    for text in ("x" * LARGEST_REQUEST, "ü" * (LARGEST_REQUEST // 2)):
        with pytest.raises(DatabaseError) as raised:
            database.rows("select ? as a", [text])
        assert raised.value.code == 2004
    assert database.rows("select ? as a", ["x" * 60_000]) == [{"a": "x" * 60_000}]


def test_what_the_database_refuses_is_2003_with_its_text(database: BlockingDatabase) -> None:
    with pytest.raises(DatabaseError, match="no such column") as raised:
        database.rows("select lacking from agent")
    assert raised.value.code == 2003
    assert database.rows("select 1 as a") == [{"a": 1}]


def test_database_that_is_not_there_is_2005(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as raised:
        BlockingDatabase(str(tmp_path)).rows("select 1")
    assert raised.value.code == 2005


def test_values_come_back_as_they_were(database: BlockingDatabase) -> None:
    for value in ("", "'", "''", "a'b\\", '"', "?", "ü\n\t", "%_", 0, -5, 2**62, 1.5):
        assert database.rows("select ? as a", [value]) == [{"a": value}]
    assert database.rows("select ? as a", [None]) == [{}]
    assert quoted(True) == "1"
    with pytest.raises(DatabaseError):
        quoted("a\0b")


def test_every_place_needs_a_value() -> None:
    with pytest.raises(ValueError, match="places"):
        statement("select ?", [])
    with pytest.raises(ValueError, match="places"):
        statement("select 1", [1])

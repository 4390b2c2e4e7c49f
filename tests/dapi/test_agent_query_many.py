"""The agent list where it is longer than one answer of the database."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.agent_keys import GREATEST_ID
from clusterd.dapi.query.agent_query import AgentQuery, find_agents
from clusterd.dapi.query.sql_condition import LONGEST_CONDITION, LONGEST_LIST, among
from clusterd.dapi.query.table_query import IDS_AT_ONCE
from clusterd.wdb.blocking import CUT_BYTES
from tests.contracts.helpers import add_many
from tests.dapi.agent_node import AgentNode, agent_node, code, found

MANY = 700


@pytest.fixture(scope="module")
def big() -> Iterator[AgentNode]:
    """Agents 1 to MANY, more than fit into one answer of the database."""
    with agent_node() as made:
        add_many(made.db, MANY)
        made.db.command(
            f"global sql update agent set os_uname = '{'x' * 300}', manager_host = 'm' || (id % 7) where id > 0"
        )
        yield made


@pytest.mark.parametrize("sort", [None, ["manager"], ["id"]])
def test_pages_together_are_the_whole_list(big: AgentNode, sort: list[str] | None) -> None:
    whole, total = find_agents(big.database, AgentQuery(limit=None, sort=sort, ascending=sort != ["id"]))
    assert total == len(whole) == MANY + 1
    parts: list[dict[str, Any]] = []
    for offset in range(0, total, 150):
        page, counted = find_agents(
            big.database, AgentQuery(offset=offset, limit=150, sort=sort, ascending=sort != ["id"])
        )
        assert counted == total
        parts += page
    assert parts == whole
    if sort == ["manager"]:
        assert [agent.get("manager", "") for agent in whole] == sorted(agent.get("manager", "") for agent in whole)
    assert len({agent["id"] for agent in whole}) == total


@pytest.mark.slow
def test_any_set_of_agents_can_be_named(big: AgentNode) -> None:
    for ids in (
        [],
        [5],
        [1, 2, 3, 4, 9, 11, 12],
        range(1, MANY, 2),
        [number for number in range(190_000) if number % 3],
        [number for number in range(MANY) if number % 7 < 3] + [191_999],
        [*range(100, 20_000, 2), 191_998],
    ):
        wanted = set(ids)
        condition = among("id", wanted).sql
        assert len(condition) <= LONGEST_CONDITION + 200
        assert found(big, ids=list(ids), select=["id"], limit=None) == [n for n in range(MANY + 1) if n in wanted]
    assert "x'" in among("id", range(0, 2 * LONGEST_LIST, 2)).sql


def test_ids_need_not_begin_at_1() -> None:
    """Where agents come and go for years, those of one group have ids of six digits and more, in no order."""
    old = [0, 7, *(500_000 + n for n in range(20_000) if n % 3), *(3_000_000 + n for n in range(9000) if n % 7 == 1)]
    condition = among("n", old)
    assert condition.values == ()
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table t (n integer)")
        for first, count in ((0, 20), (499_000, 23_000), (2_999_000, 11_000)):
            db.executemany("insert into t values (?)", ((first + n,) for n in range(count)))
        assert [row[0] for row in db.execute(f"select n from t where {condition.sql} order by n")] == old


def test_too_many_agents_that_are_too_far_apart_are_1731(big: AgentNode) -> None:
    assert code(big, ids=list(range(1, 4_000_000, 300))) == 1731


def test_keys_of_ten_digits_fit_into_one_answer() -> None:
    """After an agent was given such an id all later ones are longer still."""
    assert len(f'{{"k":{GREATEST_ID}}},') * IDS_AT_ONCE < CUT_BYTES

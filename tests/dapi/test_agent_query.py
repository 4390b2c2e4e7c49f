"""The agent list as SQL (dapi.md 6.5, 6.6), asked of a real store."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from clusterd.dapi.query.agent_fields import COLUMNS
from clusterd.dapi.query.agent_query import AgentQuery, count_distinct, find_agents
from clusterd.wdb.client import DatabaseError
from clusterd.wire.results import WireException
from tests.contracts.helpers import add_agent, put
from tests.dapi.agent_node import AgentNode, agent_node, code, found

NOW = int(time.time())
DAY = 86400
SECRET = "5ec4e7" * 10
SYSTEM = (
    "manager_host",
    "os_name",
    "os_version",
    "os_major",
    "os_minor",
    "os_codename",
    "os_platform",
    "os_uname",
    "os_arch",
)


@pytest.fixture(scope="module")
def node() -> Iterator[AgentNode]:
    """Agents 1 to 6, which differ in everything; no test changes them."""
    with agent_node() as made:
        for number, name in enumerate(["web-01", "Web-02", "db_01", "laptop%", "o'brien", "ünï"], 1):
            add_agent(made.db, number, name, register_ip="any", internal_key=SECRET)
        # The manager's own row describes this machine, so it is emptied here.
        put(made.db, 0, name="localhost", version=None, node_name="unknown", **dict.fromkeys(SYSTEM))
        version = ["Wazuh v4.14.1", "Wazuh v4.9.2", "Wazuh v4.10.0", None, None, None]
        for number, text in enumerate(version, 1):
            put(made.db, number, version=text, ip=f"10.0.0.{number}" if number < 4 else None)
        states = ["active", "active", "disconnected", "never_connected", "pending", "never_connected"]
        for number, state in enumerate(states, 1):
            put(made.db, number, connection_status=state, date_add=NOW - number * DAY, group=None)
        put(made.db, 1, os_name="Ubuntu", os_major="22", os_minor="04", os_version="22.04", os_platform="ubuntu")
        put(made.db, 2, os_name="Ubuntu", os_major="9", os_minor="10", os_version="9.10", os_platform="ubuntu")
        put(made.db, 3, os_name="CentOS", os_major="100", os_minor="1", os_version="100.1", os_platform="centos")
        for number, age in ((1, 10), (2, 3 * DAY), (3, 8 * DAY)):
            put(made.db, number, last_keepalive=NOW - age, node_name=f"worker{number % 2}")
        put(made.db, 3, disconnection_time=NOW - 8 * DAY, status_code=4)
        for number, group in ((1, "default,web"), (2, "web"), (3, "webmail")):
            put(made.db, number, group=group)
        yield made


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_agent_is_shown_with_its_fields_and_without_what_is_null(node: AgentNode) -> None:
    (first,), total = find_agents(node.database, AgentQuery(ids=[1]))
    assert total == 1
    assert first == {
        "os": {"name": "Ubuntu", "version": "22.04", "platform": "ubuntu", "major": "22", "minor": "04"},
        "id": "001",
        "name": "web-01",
        "ip": "10.0.0.1",
        "registerIP": "any",
        "status": "active",
        "version": "Wazuh v4.14.1",
        "node_name": "worker1",
        "dateAdd": datetime.fromtimestamp(NOW - DAY, UTC),
        "lastKeepAlive": datetime.fromtimestamp(NOW - 10, UTC),
        "group": ["default", "web"],
        "group_config_status": "not synced",
        "status_code": 0,
    }
    (third,), _ = find_agents(node.database, AgentQuery(ids=[3], select=["disconnection_time", "status_code"]))
    assert third == {"id": "003", "disconnection_time": datetime.fromtimestamp(NOW - 8 * DAY, UTC), "status_code": 4}


def test_address_is_that_of_the_registration_when_none_is_known(node: AgentNode) -> None:
    assert find_agents(node.database, AgentQuery(ids=[4], select=["ip"]))[0] == [{"id": "004", "ip": "any"}]


def test_keepalive_of_the_manager_is_the_end_of_all_days(node: AgentNode) -> None:
    ((manager,), _) = find_agents(node.database, AgentQuery(ids=[0], select=["lastKeepAlive"]))
    assert manager == {"id": "000", "lastKeepAlive": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)}


def test_key_of_an_agent_can_be_neither_shown_nor_guessed(node: AgentNode) -> None:
    assert "internal_key" not in COLUMNS
    assert SECRET not in repr(find_agents(node.database, AgentQuery()))
    assert code(node, select=["internal_key"]) == 1724
    assert code(node, sort=["internal_key"]) == 1403
    assert code(node, filters={"internal_key": SECRET}) == 1408
    assert code(node, q=f"internal_key={SECRET}") == 1408
    assert found(node, search="5ec4") == []


def test_select_adds_the_id_and_leaves_out_the_rest(node: AgentNode) -> None:
    rows, _ = find_agents(node.database, AgentQuery(ids=[1, 4], select=["os.name", "name"]))
    assert rows == [{"os": {"name": "Ubuntu"}, "id": "001", "name": "web-01"}, {"id": "004", "name": "laptop%"}]


def test_unknown_select_field_is_1724_with_the_allowed_ones(node: AgentNode) -> None:
    with pytest.raises(WireException) as raised:
        find_agents(node.database, AgentQuery(select=["name", "id from agent --"]))
    assert raised.value.code == 1724
    assert "registerIP" in str(raised.value.remediation)


def test_distinct_shows_combinations_without_the_id_and_without_gaps(node: AgentNode) -> None:
    rows, total = find_agents(node.database, AgentQuery(select=["os.name"], distinct=True, sort=["os.name"]))
    assert (rows, total) == ([{"os": {"name": "CentOS"}}, {"os": {"name": "Ubuntu"}}], 2)


def test_combinations_are_counted(node: AgentNode) -> None:
    rows, total = count_distinct(node.database, AgentQuery(q="id!=000"), ["os.name"])
    assert (rows, total) == (  # the total is that of the agents
        [
            {"os": {"name": "N/A"}, "count": 3},
            {"os": {"name": "CentOS"}, "count": 1},
            {"os": {"name": "Ubuntu"}, "count": 2},
        ],
        6,
    )
    most = AgentQuery(q="id!=000", sort=["count"], ascending=False, limit=1)
    assert count_distinct(node.database, most, ["os.name"]) == ([{"os": {"name": "N/A"}, "count": 3}], 6)
    for query, fields, expected in (
        (AgentQuery(), ["internal_key"], 1724),
        (AgentQuery(sort=["name"]), ["os.name"], 1403),
        (AgentQuery(limit=0), ["os.name"], 1406),
    ):
        with pytest.raises(WireException) as raised:
            count_distinct(node.database, query, fields)
        assert raised.value.code == expected


def test_combinations_are_sorted_by_the_fields_as_they_are_named_and_as_each_sorts_in_a_list(node: AgentNode) -> None:
    def systems(*fields: str, **query: Any) -> list[tuple[str, ...]]:
        rows, _ = count_distinct(node.database, AgentQuery(ids=[1, 2, 3], **query), fields)
        return [tuple(row["os"][field.removeprefix("os.")] for field in fields) for row in rows]

    centos, ubuntu_9, ubuntu_22 = ("CentOS", "100.1"), ("Ubuntu", "9.10"), ("Ubuntu", "22.04")
    assert systems("os.name", "os.version") == [centos, ubuntu_9, ubuntu_22]
    assert systems("os.version", "os.name") == [pair[::-1] for pair in (ubuntu_9, ubuntu_22, centos)]
    assert systems("os.name", "os.version", sort=["os.version"], ascending=False) == [centos, ubuntu_22, ubuntu_9]
    names, _ = count_distinct(node.database, AgentQuery(ids=[1, 2, 3]), ["name"])
    assert [row["name"] for row in names] == ["db_01", "web-01", "Web-02"]


def test_without_fields_every_agent_is_a_combination_of_its_own(node: AgentNode) -> None:
    rows, total = count_distinct(node.database, AgentQuery(ids=[1, 4]), [])
    assert ([row["id"] for row in rows], total) == (["001", "004"], 2)
    assert rows[1]["os"]["name"] == rows[1]["version"] == rows[1]["lastKeepAlive"] == "N/A"


# ---- filters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": "active"}, [0, 1, 2]),
        ({"status": "ACTIVE"}, [0, 1, 2]),
        ({"status": ["pending", "disconnected"]}, [3, 5]),
        ({"status": "pending,disconnected"}, []),
        ({"status": "all"}, [0, 1, 2, 3, 4, 5, 6]),
        ({"status": ["active", "all"]}, [0, 1, 2, 3, 4, 5, 6]),
        ({"version": "null", "status": "pending"}, [5]),
        ({"version": "4.9.2"}, [2]),
        ({"version": "v4.9.2"}, [2]),
        ({"version": "wazuh 4.9.2"}, [2]),
        ({"version": "Wazuh v4.9.2"}, [2]),
        ({"version": ["4.9.2", "wazuh V4.14.1"]}, [1, 2]),
        ({"name": "o'brien"}, [5]),
        ({"name": "x' or '1'='1"}, []),
        ({"name": "ünï"}, [6]),
        ({"group": "web"}, [1, 2]),
        ({"group": "mail"}, []),
        ({"os.name": "ubuntu", "node_name": "worker0"}, [2]),
        ({"ip": "10.0.0.2"}, [2]),
        ({"id": "003"}, [3]),
        ({"older_than": "7d"}, [3]),
        ({"older_than": "5d"}, [3, 6]),
        ({"older_than": "0s"}, [0, 1, 2, 3, 4, 5, 6]),
        ({"name": None}, [0, 1, 2, 3, 4, 5, 6]),
        ({"status": []}, []),
    ],
)
def test_filters(node: AgentNode, filters: dict[str, Any], expected: list[int]) -> None:
    assert found(node, filters=filters) == expected


@pytest.mark.parametrize(
    ("filters", "expected"), [({"os": "x"}, 1408), ({"name": {"a": 1}}, 1408), ({"older_than": "soon"}, 1411)]
)
def test_invalid_filter_is_an_error(node: AgentNode, filters: dict[str, Any], expected: int) -> None:
    assert code(node, filters=filters) == expected


# ---- q ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("id=001", [1]),
        ("id!=000;group=null", [4, 5, 6]),
        ("id!=0;group!=null", [1, 2, 3]),
        ("id<2,id>5", [0, 1, 6]),
        ("name=WEB-01", [1]),
        ("name~web", [1, 2]),
        ("name~%", [4]),
        ("name~_", [3]),
        ("name=o'brien", [5]),
        ('name=o"brien', [5]),
        ("name='eb-01", [1]),
        ("id>0;name!=o'brien", [1, 2, 3, 4, 6]),
        ("status=active;id>1,status=pending", [2, 5]),
        ("(status=active,status=pending);(name~web;(id>1,id<5))", [1, 2]),
        ("((id=1,id=2);status=active),id=6", [1, 2, 6]),
        ("group=web", [1, 2]),
        ("id>0;group!=web", [3, 4, 5, 6]),
        ("group~web", [1, 2, 3]),
        ("status=all;id<2", [0, 1]),
        ("lastKeepAlive<7d", [1, 2]),
        ("lastKeepAlive=7d", [1, 2]),
        ("lastKeepAlive>1d12h", [2, 3]),
        (f"lastKeepAlive<{4 * DAY}", [1, 2]),
        ("dateAdd>2020-01-01", [1, 2, 3, 4, 5, 6]),
        ("dateAdd<2020-01-01 10:00:00", []),
        ("version<Wazuh v4.14.1", [3]),
        ("status_code=4", [3]),
        ("os.name=Ubuntu;os.major=22", [1]),
        ("id=abc", []),
    ],
)
def test_q(node: AgentNode, q: str, expected: list[int]) -> None:
    assert found(node, q=q) == expected


def test_q_finds_one_second_of_a_date(node: AgentNode) -> None:
    second = f"{datetime.fromtimestamp(NOW - 2 * DAY, UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert found(node, q=f"dateAdd={second}") == [2]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("nothing", 1407),
        (";id=1", 1407),
        ("=1", 1407),
        ("(id=1", 1407),
        ("key=1", 1408),
        ("agent.id=1", 1408),
        ("id==1", 1409),
        ("id<>1", 1409),
        ("id>=1", 1409),
        ("group<web", 1409),
        ("dateAdd<soon", 1412),
        ("dateAdd<2020-13-01", 1412),
        ("(" * 100 + "id=1" + ")" * 100, 1407),
        ("id=1" * 3000, 1407),
    ],
)
def test_invalid_q_is_an_error(node: AgentNode, q: str, expected: int) -> None:
    assert code(node, q=q) == expected


def test_what_looks_like_sql_stays_a_value(node: AgentNode) -> None:
    for text in (
        "' or 1=1 --",
        "x') or (1=1",
        "x'; delete from agent; --",
        "\\' or 1 --",
        "?",
        "%",
        "x' union select 1 --",
    ):
        assert found(node, filters={"name": text}) == []
        assert found(node, search=text) in ([], [4])
    assert found(node) == [0, 1, 2, 3, 4, 5, 6]


def test_as_many_clauses_as_a_query_holds_are_answered(node: AgentNode) -> None:
    """As a chain they would be nested too deeply for SQLite."""
    assert found(node, q=",".join(["id=1", *["id=9"] * 1500])) == [1]
    assert found(node, q=";".join(["id=1", *["id<9"] * 1500])) == [1]


def test_query_that_no_request_can_hold_is_2004(node: AgentNode) -> None:
    with pytest.raises(DatabaseError) as raised:
        find_agents(node.database, AgentQuery(filters={"name": ["x" * 100] * 1000}))
    assert raised.value.code == 2004
    assert found(node, q="id=1") == [1]


# ---- search, sort, pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "negated", "expected"),
    [
        ("web", False, [1, 2, 3]),
        ("UBUNTU", False, [1, 2]),
        ("v4.", True, [0, 4, 5, 6]),
        # Longer than an id, because three digits may occur in any time of the rows.
        ("0000000006", False, [6]),
        ("o'brien", False, [5]),
        ("%", False, [4]),
        ("nowhere", True, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_search_looks_into_every_field(node: AgentNode, text: str, negated: bool, expected: list[int]) -> None:
    assert found(node, search=text, search_negated=negated) == expected


@pytest.mark.parametrize(
    ("fields", "negated", "expected"),
    [
        (["name"], False, [1, 2]),
        (["name", "group"], False, [1, 2, 3]),
        (["os.name"], False, []),
        (["nothing"], False, []),
        (["name"], True, [0, 3, 4, 5, 6]),
    ],
)
def test_search_looks_into_the_fields_that_are_named(
    node: AgentNode, fields: list[str], negated: bool, expected: list[int]
) -> None:
    assert found(node, search="web", search_negated=negated, search_fields=fields) == expected


@pytest.mark.parametrize(
    ("sort", "ascending", "expected"),
    [
        (None, True, [0, 1, 2, 3, 4, 5, 6]),
        (["id"], False, [6, 5, 4, 3, 2, 1, 0]),
        (["name"], True, [3, 4, 0, 5, 1, 2, 6]),
        (["status", "name"], True, [0, 1, 2, 3, 4, 6, 5]),
        (["os.version"], False, [3, 1, 2, 0, 4, 5, 6]),
        (["lastKeepAlive"], True, [4, 5, 6, 3, 2, 1, 0]),
    ],
)
def test_sort(node: AgentNode, sort: list[str] | None, ascending: bool, expected: list[int]) -> None:
    assert found(node, sort=sort, ascending=ascending) == expected


def test_versions_are_sorted_as_numbers(node: AgentNode) -> None:
    assert found(node, sort=["version"], q="version!=null") == [2, 3, 1]
    assert found(node, sort=["version"], ascending=False, q="version!=null") == [1, 3, 2]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ({"limit": 0}, 1406),
        ({"limit": -1}, 1401),
        ({"limit": 100_001}, 1405),
        ({"offset": -1}, 1400),
        ({"sort": ["os"]}, 1403),
        ({"sort": ["id; drop table agent"]}, 1403),
    ],
)
def test_invalid_page_is_an_error(node: AgentNode, page: dict[str, Any], expected: int) -> None:
    assert code(node, **page) == expected

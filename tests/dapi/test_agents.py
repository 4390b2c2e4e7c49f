"""Lists of agents by filter, query, search, sort and page, over a real store (dapi.md 6.5, 6.6)."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.dapi.agent_query import AgentQuery, among, find_agents
from clusterd.dapi.execution import run
from clusterd.dapi.items import Items
from clusterd.dapi.request import ApiRequest, encode_request
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase, statement
from clusterd.wdb.client import DatabaseError
from clusterd.wire.results import WireCallable, WireException, WireResult
from tests.store.lone_store import lone_store

NOW = int(time.time())
AGENTS: list[dict[str, Any]] = [
    {"id": 1, "name": "web-1", "register_ip": "any", "ip": "10.0.0.1", "connection_status": "active", "os_name": "Ubuntu",
     "os_platform": "ubuntu", "os_major": "22", "os_minor": "04", "os_version": "22.04", "version": "Wazuh v4.14.1",
     "node_name": "worker1", "group": "default,web", "last_keepalive": NOW - 10, "date_add": NOW - 900_000,
     "group_config_status": "synced"},
    {"id": 2, "name": "Web-2", "register_ip": "10.0.0.2", "ip": None, "connection_status": "disconnected", "os_name": "CentOS",
     "os_platform": "centos", "os_major": "9", "os_minor": "1", "os_version": "9.1", "version": "Wazuh v4.9.0",
     "node_name": "worker2", "group": "default", "last_keepalive": NOW - 800_000, "date_add": NOW - 900_000},
    {"id": 3, "name": "it's", "register_ip": "any", "ip": None, "connection_status": "never_connected", "node_name": "unknown",
     "group": None, "date_add": NOW - 700_000, "internal_key": "secretkey"},
    {"id": 10, "name": "db%_\\?", "register_ip": "any", "ip": None, "connection_status": "pending", "node_name": "worker1",
     "group": "webserver", "date_add": NOW - 10},
]  # fmt: skip
KEYS = "".join(f"{one['id']:03d} {one['name']} any {'0' * 64}\n" for one in AGENTS if one["id"] != 10)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("agents")
    with lone_store(root) as store, BlockingDatabase(str(root)) as database:
        (root / "etc/client.keys").write_text(KEYS.replace("db%_\\?", "db"))
        for one in AGENTS:
            names = ", ".join(f'"{name}"' for name in one)
            places = ", ".join("?" * len(one))
            text = statement(f"insert or replace into agent ({names}) values ({places})", list(one.values()))
            database.ask(f"global sql {text}")
        yield store.root


@pytest.fixture
def database(root: Path) -> Iterator[BlockingDatabase]:
    with BlockingDatabase(str(root)) as found:
        yield found


def ids(database: BlockingDatabase, **query: Any) -> list[int]:
    found, _ = find_agents(database, AgentQuery(**query))
    return [int(one["id"]) for one in found]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"status": "all"}, [0, 1, 2, 3, 10]),
        ({"status": "active"}, [0, 1]),
        ({"status": ["active", "pending"]}, [0, 1, 10]),
        ({"status": "active", "node_name": "worker1"}, [1]),
        ({"node_name": "WORKER1"}, [1, 10]),
        ({"name": "it's"}, [3]),
        ({"name": "web-2"}, [2]),
        ({"ip": "10.0.0.2"}, [2]),
        ({"group": "web"}, [1]),
        ({"group": "default"}, [1, 2]),
        ({"group": "null"}, [0, 3]),
        ({"version": "4.14.1"}, [1]),
        ({"version": "v4.9.0"}, [2]),
        ({"version": "wazuh v4.9.0"}, [2]),
        ({"os.platform": "ubuntu"}, [1]),
        ({"id": "2"}, [2]),
        ({"older_than": "7d"}, [2, 3]),
        ({"older_than": "1d12h"}, [2, 3]),
        ({"older_than": "0s"}, [0, 1, 2, 3, 10]),
    ],
)
def test_filters(database: BlockingDatabase, filters: dict[str, Any], expected: list[int]) -> None:
    assert ids(database, filters=filters) == expected


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("id=1", [1]),
        ("id!=0;id<3", [1, 2]),
        ("name~WEB", [1, 2]),
        ("name=web-1,name=web-2", [1, 2]),
        ("id=1,id=2;status=active", [1]),
        ("(id=1,id=2);status=disconnected", [2]),
        ("(status=active,status=pending);(name~web;(id>1,id<5))", [1]),
        ("group=web", [1]),
        ("group!=default;id!=0", [3, 10]),
        ("group~web", [1, 10]),
        ("group=null;id!=0", [3]),
        ("group!=null", [1, 2, 10]),
        ("lastKeepAlive<7d", [1]),
        ("lastKeepAlive>7d", [2]),
        ("dateAdd>8d12h", [1, 2]),
        ("dateAdd<2000-01-01", []),
        ("dateAdd>2000-01-01 00:00:00;id=3", [3]),
        ("os.version<3", [1]),
        ("name='t's", [3]),
        ("name=db%_\\?", [10]),
        ("name~%_", [10]),
        ("status=all;id=2", [2]),
        ("id=x", []),
    ],
)
def test_queries(database: BlockingDatabase, q: str, expected: list[int]) -> None:
    assert ids(database, q=q) == expected


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"q": "name"}, 1407),
        ({"q": "=x"}, 1407),
        ({"q": "(name=a"}, 1407),
        ({"q": "name=a)"}, 1407),
        ({"q": "(" * 40 + "name=a" + ")" * 40}, 1407),
        ({"q": "name=" + "a" * 9000}, 1407),
        ({"q": "internal_key=secretkey"}, 1408),
        ({"q": "nothing=1"}, 1408),
        ({"q": "name==a"}, 1409),
        ({"q": "name<=a"}, 1409),
        ({"q": "group<a"}, 1409),
        ({"q": "dateAdd=yesterday"}, 1412),
        ({"filters": {"internal_key": "secretkey"}}, 1408),
        ({"filters": {"older_than": "soon"}}, 1411),
        ({"sort": ["internal_key"]}, 1403),
        ({"select": ["internal_key"]}, 1724),
        ({"limit": 0}, 1406),
        ({"limit": 100_001}, 1405),
        ({"limit": -1}, 1401),
        ({"offset": -1}, 1400),
    ],
)
def test_what_cannot_be_asked_has_its_code(database: BlockingDatabase, query: dict[str, Any], code: int) -> None:
    with pytest.raises(WireException) as found:
        find_agents(database, AgentQuery(**query))
    assert found.value.code == code


def test_keys_cannot_be_guessed_by_searching(database: BlockingDatabase) -> None:
    assert ids(database, search="secretkey") == []
    assert ids(database, search="secretkey", search_negated=True) == [0, 1, 2, 3, 10]
    assert ids(database, search="CENTOS") == [2]
    assert ids(database, search="%_\\") == [10]
    assert 3 in ids(database, search="3")


def test_sort_page_and_count(database: BlockingDatabase) -> None:
    assert ids(database, sort=["name"], ascending=False)[:2] == [2, 1]
    assert ids(database, sort=["os.version"], q="os.version!=null") == [2, 1]
    assert ids(database, sort=["version"], q="version!=null") == [2, 1]
    found, total = find_agents(database, AgentQuery(offset=1, limit=2))
    assert [one["id"] for one in found] == ["001", "002"]
    assert total == 5
    assert ids(database, limit=None) == [0, 1, 2, 3, 10]


def test_select_and_distinct(database: BlockingDatabase) -> None:
    found, _ = find_agents(database, AgentQuery(select=["os.name", "group"], q="id=1"))
    assert found == [{"os": {"name": "Ubuntu"}, "id": "001", "group": ["default", "web"]}]
    found, total = find_agents(database, AgentQuery(select=["node_name"], distinct=True, sort=["node_name"], q="id!=0"))
    assert [one["node_name"] for one in found] == ["unknown", "worker1", "worker2"]
    assert total == 3
    found, _ = find_agents(database, AgentQuery(select=["os.platform"], distinct=True))
    assert {one["os"]["platform"] for one in found} == {"ubuntu", "centos"}


def test_agents_look_as_documented(database: BlockingDatabase) -> None:
    (found,), _ = find_agents(database, AgentQuery(q="id=1"))
    assert found["os"] == {"name": "Ubuntu", "version": "22.04", "platform": "ubuntu", "major": "22", "minor": "04"}
    assert (found["id"], found["ip"], found["registerIP"], found["group"]) == (
        "001",
        "10.0.0.1",
        "any",
        ["default", "web"],
    )
    assert found["lastKeepAlive"].timestamp() == NOW - 10
    assert "disconnection_time" not in found
    (master,), _ = find_agents(database, AgentQuery(q="id=0"))
    assert master["lastKeepAlive"].isoformat() == "9999-12-31T23:59:59+00:00"


def test_many_ids_are_written_as_ranges() -> None:
    assert among([5, 1, 2, 3, 9]) == "(id between 1 and 3 or id = 5 or id = 9)"
    assert len(among(range(1, 100_000))) < 40
    with pytest.raises(WireException):
        among(range(1, 100_000, 2))


@given(q=st.text(alphabet="abinameo.=!<>~;,()[]'\"%_1 7d\\$?", max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_query_becomes_sql_of_its_own(database: BlockingDatabase, q: str) -> None:
    """Either agents or one of the documented errors, never one of the database."""
    code = 0
    try:
        found, total = find_agents(database, AgentQuery(q=q))
        assert len(found) == total <= 5
    except WireException as refusal:
        code = refusal.code
    assert code in (0, 1407, 1408, 1409, 1411, 1412)


@given(text=st.text(max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_is_only_a_value(database: BlockingDatabase, text: str) -> None:
    if "\0" in text:
        with pytest.raises(DatabaseError):
            ids(database, filters={"name": text})
        return
    assert ids(database, filters={"name": text}) in ([], [1], [2], [3], [10], [0, 1, 2, 3, 10], [0])
    assert set(ids(database, search=text)) <= {0, 1, 2, 3, 10}


# ---- through the execution of requests ---------------------------------------------------------------------------------------


def called(root: Path, module: str, qualname: str, **arguments: Any) -> Any:
    name = qualname.rpartition(".")[2]
    request = ApiRequest(f=WireCallable(name, module, qualname), f_kwargs=arguments)
    return run(encode_request(request), Settings(root=str(root)), serves_store=True)


def test_ids_without_a_key_are_failed_items(root: Path) -> None:
    answer = called(root, "wazuh.agent", "get_agents", agent_list=["001", "010", "777"], select=["id"])
    assert isinstance(answer, WireResult)
    items = Items.of_wire(answer)
    assert items.affected == [{"id": "001"}]
    assert [(error.code, failed) for error, failed in items.failed] == [(1701, ["010", "777"])]


def test_overview_splits_values_at_commas(root: Path) -> None:
    answer = called(
        root,
        "wazuh.core.agent",
        "Agent.get_agents_overview",
        filters={"status": "disconnected,pending", "node_name": "all"},
        limit=None,
        select=["id", "name"],
    )
    assert answer.fields["result"] == {
        "items": [{"id": "002", "name": "Web-2"}, {"id": "010", "name": "db%_\\?"}],
        "totalItems": 2,
    }


def test_summaries_count_every_agent_but_the_master(root: Path) -> None:
    answer = called(root, "wazuh.agent", "get_agents_summary_status")
    assert answer.fields["result"]["data"] == {
        "connection": {"active": 1, "disconnected": 1, "never_connected": 1, "pending": 1, "total": 4},
        "configuration": {"synced": 1, "not_synced": 3, "total": 4},
    }
    assert called(root, "wazuh.agent", "get_agents_summary_os").fields["affected_items"] == ["centos", "ubuntu"]


def test_group_that_does_not_exist_is_1710(root: Path) -> None:
    answer = called(root, "wazuh.agent", "get_agents_in_group", group_list=["it's"])
    assert isinstance(answer, WireException)
    assert answer.code == 1710


def test_without_a_database_the_answer_says_so(tmp_path: Path) -> None:
    answer = called(tmp_path, "wazuh.agent", "get_agents")
    assert isinstance(answer, WireException)
    assert (answer.code, answer.wire_class) == (2005, "WazuhInternalError")

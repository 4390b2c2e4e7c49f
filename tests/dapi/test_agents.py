"""Functions about agents (dapi.md 5.3, 7.3), over a real store."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.wire.results import dump_json
from tests.contracts.helpers import add_agent, add_groups, compact, put
from tests.dapi.agent_node import AgentNode, agent_node, codes

OVERVIEW = ("Agent.get_agents_overview", "wazuh.core.agent")
COLUMNS = ["id", "ip", "name", "status", "node_name", "version"]


@pytest.fixture(scope="module")
def node() -> Iterator[AgentNode]:
    """Agents 1 to 4 have keys, 5 has only a row; no test changes them."""
    with agent_node() as made:
        for number, status in enumerate(["active", "disconnected", "never_connected", "active", "pending"], 1):
            add_agent(made.db, number, internal_key="of the database")
            put(made.db, number, connection_status=status, node_name=f"worker{number % 3}", group=None)
        add_groups(made.db, "web", "db")
        (made.root / "etc/shared/web").mkdir()
        (made.root / "etc/shared/db").mkdir()
        for group, ids in (("web", (1, 2)), ("db", (2,))):
            for number in ids:
                item = compact({"mode": "append", "data": [{"id": number, "groups": [group]}]})
                made.db.command(f"global set-agent-groups {item}")
        for number, platform in ((1, "ubuntu"), (2, "windows"), (3, "ubuntu"), (0, "manager")):
            put(made.db, number, os_platform=platform)
        put(made.db, 1, version="Wazuh v4.14.1", group_config_status="synced")
        (made.root / "etc/shared/web/merged.mg").write_text("of web")
        (made.root / "etc/shared/db/merged.mg").write_text("of db")
        both = made.root / "var/multigroups" / hashlib.sha256(b"web,db").hexdigest()[:8]
        both.mkdir(parents=True)
        (both / "merged.mg").write_text("of web and db")
        put(made.db, 1, merged_sum=hashlib.md5(b"of web").hexdigest())
        put(made.db, 2, merged_sum=hashlib.md5(b"of web and db").hexdigest(), group_config_status="not synced")
        put(made.db, 3, group="db", merged_sum="0" * 32, group_config_status="synced")
        put(made.db, 4, group="../../etc", merged_sum="0" * 32)
        put(made.db, 2, version="Wazuh v4.9.0")
        put(made.db, 0, version="Wazuh v4.9.0")
        made.register([1, 2, 3, 4])
        yield made


def ids(answer: Any) -> list[str]:
    return [agent["id"] for agent in answer]


def test_agents_without_a_key_are_failed_items(node: AgentNode) -> None:
    found = node.items("get_agents", agent_list=["001", "000", "005", "1", "x", "009"])
    assert ids(found.affected) == ["000", "001"]
    assert codes(found) == {"005": 1701, "1": 1701, "x": 1701, "009": 1701}
    assert node.items("get_agents", agent_list=[]).affected == []
    assert node.items("get_agents", agent_list=["005"]).rendered()["error"] == 1


def test_agents_are_filtered_and_cut_as_stock_asks(node: AgentNode) -> None:
    found = node.items(
        "get_agents",
        offset=1,
        limit=1,
        sort={"fields": ["id"], "order": "desc"},
        search={"value": "worker2", "negation": True},
        select=["name"],
        filters={"status": ["active", "disconnected"]},
        q="id!=000",
        distinct=False,
    )
    assert (found.affected, found.total_affected) == ([{"id": "001", "name": "agent1"}], 2)
    assert dump_json(node.items("get_agents").wire())


def test_agents_of_a_group(node: AgentNode) -> None:
    assert ids(node.items("get_agents_in_group", group_list=["web"]).affected) == ["001", "002"]
    assert ids(node.items("get_agents_in_group", group_list=["web"], filters={"status": "active"}).affected) == ["001"]
    assert ids(node.items("get_agents_in_group", group_list=["web"], status=["active"]).affected) == ["001"]
    # As a filter `null` would mean agents that are in no group.
    empty = node.root / "etc/shared/null"
    empty.mkdir()
    assert node.items("get_agents_in_group", group_list=["null"]).affected == []
    empty.rmdir()
    found = node.items("get_agents_in_group", group_list=["default"], limit=None, select=["id"])
    assert (found.affected, found.total_affected) == ([], 0)
    for name in ("nowhere", "..", ".", "all", "web/", "../shared/web"):
        assert node.code("get_agents_in_group", group_list=[name]) == 1710


def test_overview_is_a_plain_object(node: AgentNode) -> None:
    everything = {"status": "all", "node_name": "all"}
    # The store takes the address of client.keys when it likes.
    found = node.answer(*OVERVIEW, filters=everything, limit=None, select=[one for one in COLUMNS if one != "ip"])
    assert found["totalItems"] == 6
    assert found["items"][1] == {
        "id": "001",
        "name": "agent1",
        "status": "active",
        "version": "Wazuh v4.14.1",
        "node_name": "worker1",
    }
    assert ids(node.answer(*OVERVIEW, filters=everything, limit=None, select=["name"])["items"])[0] == "000"


def test_overview_counts_and_lists_what_is_asked_for(node: AgentNode) -> None:
    assert node.answer(*OVERVIEW, limit=1, select=["id"], count=True, get_data=False) == {"totalItems": 6}
    assert node.answer(*OVERVIEW, limit=1, select=["id"], count=False, get_data=True) == {"items": [{"id": "000"}]}


@pytest.mark.parametrize("status", ["active,pending", ["active", "pending"]])
@pytest.mark.parametrize("nodes", ["worker1,worker2", ["worker1", "worker2"]])
def test_overview_takes_several_states_and_nodes(node: AgentNode, status: Any, nodes: Any) -> None:
    found = node.answer(*OVERVIEW, filters={"status": status, "node_name": nodes}, limit=None, select=COLUMNS)
    assert ids(found["items"]) == ["001", "004", "005"]


def test_states_are_counted_without_the_manager(node: AgentNode) -> None:
    assert node.answer("get_agents_summary_status")["data"] == {
        "connection": {"active": 2, "disconnected": 1, "never_connected": 1, "pending": 1, "total": 5},
        "configuration": {"synced": 2, "not_synced": 3, "total": 5},
    }
    some = node.answer("get_agents_summary_status", agent_list=["001", "002", "000"])["data"]["connection"]
    assert some == {"active": 1, "disconnected": 1, "never_connected": 0, "pending": 0, "total": 2}


def test_platforms(node: AgentNode) -> None:
    assert node.items("get_agents_summary_os").affected == ["ubuntu", "windows"]
    found = node.items("get_agents_summary_os", agent_list=["001", "077"])
    assert (found.affected, codes(found)) == (["ubuntu"], {"077": 1701})


def test_summary_counts_states_platforms_and_groups(node: AgentNode) -> None:
    data = node.answer("get_agents_summary")["data"]
    assert data == {
        "status": {"active": 2, "disconnected": 1, "never_connected": 1, "pending": 1},
        "os": {"ubuntu": 2, "windows": 1},
        "groups": {"web": 2, "db": 1},
    }
    assert list(data["groups"]) == ["web", "db"]
    some = node.answer("get_agents_summary", agent_list=["001"])["data"]
    none = dict.fromkeys(data["status"], 0)
    assert some == {"status": none | {"active": 1}, "os": {"ubuntu": 1}, "groups": {"web": 1}}
    assert node.answer("get_agents_summary", agent_list=[])["data"] == {"status": none, "os": {}, "groups": {}}


def test_outdated_agents_have_another_version(node: AgentNode) -> None:
    assert ids(node.items("get_outdated_agents", select=["version"]).affected) == ["002"]


def test_combinations_of_fields_are_counted(node: AgentNode) -> None:
    found = node.items("get_distinct_agents", fields=["os.platform"], q="id!=000", limit=1, offset=1)
    assert (found.affected, found.total_affected) == ([{"os": {"platform": "ubuntu"}, "count": 2}], 5)
    found = node.items("get_distinct_agents", agent_list=["001", "099"])
    assert ([row["id"] for row in found.affected], codes(found)) == (["001"], {"099": 1701})


def test_keys_and_states_of_agents_that_are_registered(node: AgentNode) -> None:
    found = node.items("get_agents_keys", agent_list=["002", "005", "000"])
    line = f"002 agent2 any {'k' * 64}"
    assert [(item["id"], base64.b64decode(item["key"]).decode()) for item in found.affected] == [("002", line)]
    assert codes(found) == {"005": 1701, "000": 1703}
    assert ids(node.items("get_agents_keys").affected) == ["001", "002", "003", "004"]
    assert codes(node.items("get_agents_keys", agent_list=["x", "2"])) == {"x": 1701, "2": 1701}


def test_agent_is_in_sync_when_it_has_the_merged_file_of_its_groups(node: AgentNode) -> None:
    """The state of its configuration (group_config_status) does not count."""
    found = node.items("get_agents_sync_group", agent_list=["001", "002", "003", "044"])
    assert {item["id"]: item["synced"] for item in found.affected} == {"001": True, "002": True, "003": False}
    assert codes(found) == {"044": 1701}
    everybody = node.items("get_agents_sync_group").affected
    assert {item["id"]: item["synced"] for item in everybody} == {"001": True, "002": True, "003": False, "004": False}
    merged = node.root / "etc/shared/web/merged.mg"
    try:
        merged.write_text("changed")
        assert node.items("get_agents_sync_group", agent_list=["001"]).affected == [{"id": "001", "synced": False}]
        merged.unlink()
        assert node.items("get_agents_sync_group", agent_list=["001"]).affected == [{"id": "001", "synced": False}]
    finally:
        merged.write_text("of web")


def test_arguments_of_a_wrong_kind_are_refused(node: AgentNode) -> None:
    for given in ({"agent_list": "001"}, {"limit": "5"}, {"filters": []}, {"select": "id"}, {"rbac": {}}):
        assert node.code("get_agents", **given) == 1000
    assert node.code("get_agents_in_group", group_list=["web", "db"]) == 1000
    assert node.code("get_agents_in_group") == 1000


@pytest.mark.slow
def test_summary_has_all_groups_and_platforms() -> None:
    numbers = range(1, 13)
    with agent_node() as made:
        add_groups(made.db, *(f"group{number}" for number in numbers))
        for number in numbers:
            add_agent(made.db, number)
            put(made.db, number, os_platform=f"platform{number}", connection_status="active")
            (made.root / f"etc/shared/group{number}").mkdir()
            item = compact({"mode": "override", "data": [{"id": number, "groups": [f"group{number}"]}]})
            made.db.command(f"global set-agent-groups {item}")
        data = made.answer("get_agents_summary")["data"]
    assert data["groups"] == {f"group{number}": 1 for number in numbers}
    assert data["os"] == {f"platform{number}": 1 for number in numbers}
    assert data["status"] == {"active": 12, "disconnected": 0, "never_connected": 0, "pending": 0}

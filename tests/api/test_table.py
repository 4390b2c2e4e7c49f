"""The table of endpoints: what each asks of the cluster is what the cluster's functions take (dapi.md 5)."""

import datetime
from typing import Any, get_args

import msgspec
import pytest

from clusterd.api.endpoint import Endpoint
from clusterd.api.table import ENDPOINTS
from clusterd.dapi.functions.groups import Algorithm
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol import policy
from clusterd.dapi.protocol.registry import arguments_of
from clusterd.dapi.protocol.request import DISTRIBUTED, LOCAL_ANY, LOCAL_MASTER
from clusterd.wire.results import WireCallable
from tests.api.harness import Door, FakeNode, plain

LIST = "offset=2&limit=3&sort=-name&search=-web&select=name,id&q=name=web&distinct=true"
OBJECTS = {
    "offset": 2,
    "limit": 3,
    "sort": {"fields": ["name"], "order": "desc"},
    "search": {"value": "web", "negation": True},
    "select": ["name", "id"],
    "q": "name=web",
    "distinct": True,
}
WORDS = {
    "offset": 2,
    "limit": 3,
    "sort_by": ["name"],
    "sort_ascending": False,
    "search_text": "web",
    "complementary_search": True,
    "select": ["name", "id"],
    "q": "name=web",
    "distinct": True,
}
BARE = {"offset": 0, "limit": 500, "distinct": False}
XML = {"headers": {"Content-Type": "application/octet-stream"}, "content": "<group/>"}
CASES: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("GET /cluster/nodes", "wazuh.cluster", "get_nodes_info", LOCAL_MASTER, BARE | {"filter_type": "all"}),
    (
        f"GET /cluster/nodes?type=WORKER&nodes_list=a,b&{LIST}",
        "wazuh.cluster",
        "get_nodes_info",
        LOCAL_MASTER,
        OBJECTS | {"filter_type": "worker", "filter_node": ["a", "b"]},
    ),
    ("GET /cluster/healthcheck", "wazuh.cluster", "get_health_nodes", LOCAL_MASTER, {}),
    (
        "GET /cluster/healthcheck?nodes_list=a",
        "wazuh.cluster",
        "get_health_nodes",
        LOCAL_MASTER,
        {"filter_node": ["a"]},
    ),
    ("GET /cluster/status", "wazuh.cluster", "get_status_json", LOCAL_MASTER, {}),
    ("GET /cluster/local/info", "wazuh.cluster", "get_node_wrapper", LOCAL_ANY, {}),
    ("GET /cluster/local/config", "wazuh.cluster", "read_config_wrapper", LOCAL_ANY, {}),
    ("GET /cluster/w1/info", "wazuh.manager", "get_basic_info", DISTRIBUTED, {"node_id": "w1"}),
    ("GET /cluster/w1/status", "wazuh.manager", "get_status", DISTRIBUTED, {"node_id": "w1"}),
    (
        "GET /cluster/w1/logs?level=ERROR&tag=wazuh-db",
        "wazuh.manager",
        "ossec_log",
        DISTRIBUTED,
        BARE
        | {"node_id": "w1", "sort_by": ["timestamp"], "sort_ascending": False, "level": "error", "tag": "wazuh-db"},
    ),
    ("GET /cluster/w1/logs/summary", "wazuh.manager", "ossec_log_summary", DISTRIBUTED, {"node_id": "w1"}),
    (
        "GET /cluster/w1/stats",
        "wazuh.stats",
        "totals",
        DISTRIBUTED,
        {"node_id": "w1", "date": datetime.datetime(2025, 11, 23)},
    ),
    (
        "GET /cluster/w1/stats?date=2024-02-29",
        "wazuh.stats",
        "totals",
        DISTRIBUTED,
        {"node_id": "w1", "date": datetime.datetime(2024, 2, 29)},
    ),
    ("GET /cluster/w1/stats/hourly", "wazuh.stats", "hourly", DISTRIBUTED, {"node_id": "w1"}),
    ("GET /cluster/w1/stats/weekly", "wazuh.stats", "weekly", DISTRIBUTED, {"node_id": "w1"}),
    ("GET /manager/info", "wazuh.manager", "get_basic_info", LOCAL_ANY, {}),
    ("GET /manager/status", "wazuh.manager", "get_status", LOCAL_ANY, {}),
    (f"GET /manager/logs?{LIST}", "wazuh.manager", "ossec_log", LOCAL_ANY, WORDS),
    ("GET /manager/logs/summary", "wazuh.manager", "ossec_log_summary", LOCAL_ANY, {}),
    ("GET /agents", "wazuh.agent", "get_agents", LOCAL_MASTER, BARE | {"filters": {}}),
    (
        f"GET /agents?agents_list=001,002&status=Active,pending&os.name=Ubuntu&older_than=1d12h&registerIP=any&{LIST}",
        "wazuh.agent",
        "get_agents",
        LOCAL_MASTER,
        OBJECTS
        | {
            "agent_list": ["001", "002"],
            "filters": {
                "status": ["active", "pending"],
                "os.name": "Ubuntu",
                "older_than": "1d12h",
                "registerIP": "any",
            },
        },
    ),
    ("GET /agents/no_group", "wazuh.agent", "get_agents", LOCAL_MASTER, BARE | {"q": "id!=000;group=null"}),
    (
        "GET /agents/no_group?q=name=a,name=b",
        "wazuh.agent",
        "get_agents",
        LOCAL_MASTER,
        BARE | {"q": "id!=000;group=null;(name=a,name=b)"},
    ),
    (f"GET /agents/outdated?{LIST}", "wazuh.agent", "get_outdated_agents", LOCAL_MASTER, OBJECTS),
    (
        "GET /agents/stats/distinct?fields=os.name,version&sort=-count&search=web&q=id>0&limit=3",
        "wazuh.agent",
        "get_distinct_agents",
        LOCAL_MASTER,
        {
            "fields": ["os.name", "version"],
            "sort": {"fields": ["count"], "order": "desc"},
            "search": {"value": "web", "negation": False},
            "q": "id>0",
            "offset": 0,
            "limit": 3,
        },
    ),
    ("GET /agents/summary?agents_list=001", "wazuh.agent", "get_agents_summary", LOCAL_MASTER, {"agent_list": ["001"]}),
    ("GET /agents/001/group/is_sync", "wazuh.agent", "get_agents_sync_group", LOCAL_MASTER, {"agent_list": ["001"]}),
    ("GET /agents/001/key", "wazuh.agent", "get_agents_keys", LOCAL_MASTER, {"agent_list": ["001"]}),
    ("POST /agents/insert/quick?agent_name=web-01", "wazuh.agent", "add_agent", LOCAL_MASTER, {"name": "web-01"}),
    (
        "DELETE /agents?agents_list=001,002&status=disconnected&purge=true&os.name=Ubuntu&q=id>0",
        "wazuh.agent",
        "delete_agents",
        LOCAL_MASTER,
        {
            "agent_list": ["001", "002"],
            "purge": True,
            "filters": {"status": ["disconnected"], "older_than": "7d", "os.name": "Ubuntu"},
            "q": "id>0",
        },
    ),
    (
        "DELETE /agents?agents_list=all&status=all&older_than=0s",
        "wazuh.agent",
        "delete_agents",
        LOCAL_MASTER,
        {"purge": False, "filters": {"status": ["all"], "older_than": "0s"}},
    ),
    (
        "DELETE /agents/001/group?groups_list=web,db",
        "wazuh.agent",
        "remove_agent_from_groups",
        LOCAL_MASTER,
        {"agent_list": ["001"], "group_list": ["web", "db"]},
    ),
    ("DELETE /agents/001/group", "wazuh.agent", "remove_agent_from_groups", LOCAL_MASTER, {"agent_list": ["001"]}),
    (
        "GET /rules?rule_ids=5710,5711&status=ENABLED&filename=a.xml&relative_dirname=ruleset/rules&group=sshd"
        f"&level=2-4&pci_dss=10.2.4&gpg13=7.1&gdpr=IV&hipaa=164&nist-800-53=AU.14&tsc=CC6.1&mitre=T1110&{LIST}",
        "wazuh.rule",
        "get_rules",
        LOCAL_ANY,
        WORDS
        | {
            "rule_ids": ["5710", "5711"],
            "status": "enabled",
            "filename": ["a.xml"],
            "relative_dirname": "ruleset/rules",
            "group": "sshd",
            "level": "2-4",
            "pci_dss": "10.2.4",
            "gpg13": "7.1",
            "gdpr": "IV",
            "hipaa": "164",
            "nist_800_53": "AU.14",
            "tsc": "CC6.1",
            "mitre": "T1110",
        },
    ),
    (
        "GET /rules/groups?search=-ssh",
        "wazuh.rule",
        "get_groups",
        LOCAL_ANY,
        {"offset": 0, "limit": 500, "search_text": "ssh", "complementary_search": True},
    ),
    (
        "GET /rules/requirement/NIST-800-53",
        "wazuh.rule",
        "get_requirement",
        LOCAL_ANY,
        {"requirement": "nist-800-53", "offset": 0, "limit": 500},
    ),
    (
        "GET /decoders?decoder_names=sshd,sudo&filename=a.xml",
        "wazuh.decoder",
        "get_decoders",
        LOCAL_ANY,
        BARE | {"names": ["sshd", "sudo"], "filename": ["a.xml"]},
    ),
    (f"GET /decoders/parents?{LIST}", "wazuh.decoder", "get_decoders", LOCAL_ANY, WORDS | {"parents": True}),
    (
        f"GET /sca/020/checks/cis_ubuntu22-04?result=failed&registry=HKLM&{LIST}",
        "wazuh.sca",
        "get_sca_checks",
        DISTRIBUTED,
        OBJECTS
        | {
            "agent_list": ["020"],
            "policy_id": "cis_ubuntu22-04",
            "filters": {"result": "failed", "registry": "HKLM"},
        },
    ),
    (
        "GET /manager/stats",
        "wazuh.stats",
        "totals",
        LOCAL_ANY,
        {"date": datetime.datetime(2025, 11, 23)},
    ),
    ("GET /manager/stats/hourly", "wazuh.stats", "hourly", LOCAL_ANY, {}),
    ("GET /manager/stats/weekly", "wazuh.stats", "weekly", LOCAL_ANY, {}),
    ("GET /agents/summary/status", "wazuh.agent", "get_agents_summary_status", LOCAL_MASTER, {}),
    ("GET /agents/summary/os", "wazuh.agent", "get_agents_summary_os", LOCAL_MASTER, {}),
    (
        f"GET /groups?groups_list=a,b&hash=SHA256&{LIST}",
        "wazuh.agent",
        "get_agent_groups",
        LOCAL_MASTER,
        WORDS | {"group_list": ["a", "b"], "hash_algorithm": "sha256"},
    ),
    (
        "GET /groups",
        "wazuh.agent",
        "get_agent_groups",
        LOCAL_MASTER,
        BARE | {"sort_by": ["name"], "sort_ascending": True, "hash_algorithm": "md5"},
    ),
    (
        f"GET /groups/web/agents?status=active&{LIST}",
        "wazuh.agent",
        "get_agents_in_group",
        LOCAL_MASTER,
        OBJECTS | {"group_list": ["web"], "filters": {"status": ["active"]}},
    ),
    ("DELETE /groups?groups_list=a,b", "wazuh.agent", "delete_groups", LOCAL_MASTER, {"group_list": ["a", "b"]}),
    ("DELETE /groups?groups_list=all", "wazuh.agent", "delete_groups", LOCAL_MASTER, {}),
    (
        "PUT /agents/group?group_id=web&agents_list=001&force_single_group=true",
        "wazuh.agent",
        "assign_agents_to_group",
        LOCAL_MASTER,
        {"group_list": ["web"], "agent_list": ["001"], "replace": True},
    ),
    ("PUT /agents/group?group_id=web", "wazuh.agent", "assign_agents_to_group", LOCAL_MASTER, {"group_list": ["web"]}),
    (
        "PUT /agents/001/group/web",
        "wazuh.agent",
        "assign_agents_to_group",
        LOCAL_MASTER,
        {"agent_list": ["001"], "group_list": ["web"]},
    ),
    (
        "DELETE /agents/group?group_id=web&agents_list=001,002",
        "wazuh.agent",
        "remove_agents_from_group",
        LOCAL_MASTER,
        {"group_list": ["web"], "agent_list": ["001", "002"]},
    ),
    (
        "DELETE /agents/group?group_id=web&agents_list=all",
        "wazuh.agent",
        "remove_agents_from_group",
        LOCAL_MASTER,
        {"group_list": ["web"]},
    ),
    (
        "DELETE /agents/001/group/web",
        "wazuh.agent",
        "remove_agent_from_group",
        LOCAL_MASTER,
        {"agent_list": ["001"], "group_list": ["web"]},
    ),
    (
        "GET /groups/web/files",
        "wazuh.agent",
        "get_group_files",
        LOCAL_MASTER,
        BARE | {"group_list": ["web"], "hash_algorithm": "md5", "sort_by": ["filename"], "sort_ascending": True},
    ),
    (
        "GET /groups/web/files/agent.conf?raw=true&type=conf",
        "wazuh.agent",
        "get_file_conf",
        LOCAL_MASTER,
        {"group_list": ["web"], "filename": "agent.conf", "raw": True, "type_conf": "conf"},
    ),
    (
        f"GET /rules/files?status=enabled&filename=a.xml,b.xml&relative_dirname=etc/rules&{LIST}",
        "wazuh.rule",
        "get_rules_files",
        LOCAL_ANY,
        WORDS | {"status": "enabled", "filename": ["a.xml", "b.xml"], "relative_dirname": "etc/rules"},
    ),
    (
        "GET /decoders/files",
        "wazuh.decoder",
        "get_decoders_files",
        LOCAL_ANY,
        BARE | {"sort_by": ["filename"], "sort_ascending": True},
    ),
    (
        "GET /rules/files/a.xml?raw=true",
        "wazuh.rule",
        "get_rule_file",
        LOCAL_MASTER,
        {"filename": "a.xml", "raw": True},
    ),
    (
        "GET /decoders/files/a.xml?relative_dirname=ruleset/decoders",
        "wazuh.decoder",
        "get_decoder_file",
        LOCAL_MASTER,
        {"filename": "a.xml", "relative_dirname": "ruleset/decoders"},
    ),
    (
        "PUT /rules/files/a.xml?overwrite=true&relative_dirname=etc/rules/more",
        "wazuh.rule",
        "upload_rule_file",
        LOCAL_MASTER,
        {"filename": "a.xml", "content": "<group/>", "overwrite": True, "relative_dirname": "etc/rules/more"},
    ),
    (
        "PUT /decoders/files/a.xml",
        "wazuh.decoder",
        "upload_decoder_file",
        LOCAL_MASTER,
        {"filename": "a.xml", "content": "<group/>", "overwrite": False},
    ),
    ("DELETE /rules/files/a.xml", "wazuh.rule", "delete_rule_file", LOCAL_MASTER, {"filename": "a.xml"}),
    ("DELETE /decoders/files/a.xml", "wazuh.decoder", "delete_decoder_file", LOCAL_MASTER, {"filename": "a.xml"}),
    ("GET /lists?filename=a,b", "wazuh.cdb_list", "get_lists", LOCAL_MASTER, BARE | {"filename": ["a", "b"]}),
    (f"GET /lists/files?{LIST}", "wazuh.cdb_list", "get_path_lists", LOCAL_MASTER, WORDS),
    ("GET /lists/files/a", "wazuh.cdb_list", "get_list_file", LOCAL_MASTER, {"filename": ["a"]}),
    (
        "PUT /lists/files/a",
        "wazuh.cdb_list",
        "upload_list_file",
        LOCAL_MASTER,
        {"filename": "a", "content": "<group/>", "overwrite": False},
    ),
    ("DELETE /lists/files/a", "wazuh.cdb_list", "delete_list_file", LOCAL_MASTER, {"filename": "a"}),
    (
        f"GET /sca/020?name=cis&{LIST}",
        "wazuh.sca",
        "get_sca_list",
        DISTRIBUTED,
        OBJECTS | {"agent_list": ["020"], "filters": {"name": "cis"}},
    ),
]
BY_FUNCTION = {(endpoint.function.module, endpoint.function.qualname): endpoint for endpoint in ENDPOINTS}


def policy_row(module: str, name: str) -> policy.Row:
    found = policy.find(WireCallable(name, module, name))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def door() -> Door:
    return Door()


@pytest.mark.parametrize(("line", "module", "name", "request_type", "arguments"), CASES, ids=[c[0] for c in CASES])
def test_a_call_becomes_the_request_that_the_function_takes(
    door: Door, line: str, module: str, name: str, request_type: str, arguments: dict[str, Any]
) -> None:
    method, path = line.split(" ", 1)
    door.node.asked.clear()
    answer = door.ask(method, path, **(XML if method == "PUT" and "/files/" in path else {}))
    assert answer.status_code == 200, answer.text
    (request,) = door.node.asked
    assert (request.f.module, request.f.qualname, request.f.name) == (module, name, name)
    assert request.request_type == request_type
    assert request.f_kwargs == arguments
    assert request.current_user == "admin"
    assert request.api_timeout == 10
    function = FUNCTIONS.find(WireCallable(name, module, name))
    if function is not None:
        given = {key: value for key, value in request.f_kwargs.items() if key not in ("node_id", "node_list")}
        assert isinstance(arguments_of(function, given), function.arguments)
        assert request.request_type in function.types
    assert request.is_async == policy_row(module, name).is_coroutine
    is_about_nodes = "node_id" in arguments or name in ("get_nodes_info", "get_health_nodes")
    assert request.nodes == (door.node.names if is_about_nodes else ())


def test_every_endpoint_has_a_case() -> None:
    def is_of(endpoint: Endpoint, line: str) -> bool:
        method, path = line.split("?")[0].split(" ")
        wanted, found = endpoint.path.split("/"), path.split("/")
        return (
            method == endpoint.method
            and len(wanted) == len(found)
            and all(one == other or one.startswith("{") for one, other in zip(wanted, found, strict=True))
        )

    special = {
        ("GET", "/cluster/ruleset/synchronization"),
        ("POST", "/groups"),
        ("POST", "/agents"),
        ("POST", "/agents/insert"),
    }
    lines = [case[0] for case in CASES]
    missing = {
        (endpoint.method, endpoint.path) for endpoint in ENDPOINTS if not any(is_of(endpoint, line) for line in lines)
    }
    assert missing == special


def test_making_a_group_takes_its_name_from_the_body(door: Door) -> None:
    door.node.asked.clear()
    answer = door.ask("POST", "/groups", json={"group_id": "web"})
    assert answer.status_code == 200
    assert door.node.asked[0].f.name == "create_group"
    assert door.node.asked[0].f_kwargs == {"group_id": "web"}


AGE = {"enabled": True, "value": "1h"}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/agents", {"name": "web-01"}, {"name": "web-01", "ip": "any"}),
        (
            "/agents",
            {"name": "web-01", "ip": "10.0.0.0/24", "force": {}},
            {
                "name": "web-01",
                "ip": "10.0.0.0/24",
                "force": {"enabled": True, "disconnected_time": AGE, "after_registration_time": "1h"},
            },
        ),
        (
            "/agents/insert",
            {
                "name": "w",
                "id": "001",
                "key": "k" * 64,
                "force": {"disconnected_time": {"value": "2d"}, "enabled": False},
            },
            {
                "name": "w",
                "ip": "any",
                "agent_id": "001",
                "key": "k" * 64,
                "force": {
                    "enabled": False,
                    "disconnected_time": {"enabled": True, "value": "2d"},
                    "after_registration_time": "1h",
                },
            },
        ),
    ],
)
def test_adding_an_agent_takes_all_from_the_body(door: Door, path: str, body: Any, expected: dict[str, Any]) -> None:
    door.node.asked.clear()
    answer = door.ask("POST", path, json=body)
    assert answer.status_code == 200, answer.text
    (request,) = door.node.asked
    assert (request.f.module, request.f.name, request.request_type) == ("wazuh.agent", "add_agent", LOCAL_MASTER)
    assert request.f_kwargs == expected
    function = FUNCTIONS.find(request.f)
    assert function is not None
    arguments_of(function, request.f_kwargs)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/agents", {}),
        ("/agents", {"name": "a b"}),
        ("/agents", {"name": "a\n"}),
        ("/agents", {"name": "a", "ip": None}),
        ("/agents", {"name": "a", "id": "001"}),
        ("/agents", {"name": "a", "force": {"disconnected_time": {"value": "soon"}}}),
        ("/agents", {"name": "a", "force": {"key_mismatch": True}}),
        ("/agents", ["a"]),
        ("/agents/insert", {"name": "a", "id": "001"}),
        ("/agents/insert", {"name": "a", "id": "1", "key": "k" * 64}),
        ("/agents/insert", {"name": "a", "id": "001", "key": "short"}),
        ("/agents/insert", {"name": "a", "agent_id": "001", "key": "k" * 64}),
    ],
)
def test_a_body_that_is_no_agent_is_refused_without_its_values(door: Door, path: str, body: Any) -> None:
    door.node.asked.clear()
    answer = door.ask("POST", path, json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, 1018)
    assert door.node.asked == []
    assert "soon" not in answer.text
    assert "short" not in answer.text.replace("shorter", "")


def test_ruleset_equality_asks_the_master_first_and_then_all_nodes() -> None:
    hashes = {"etc/rules/local_rules.xml": "7cad"}
    door = Door(FakeNode(lambda request: plain(hashes)))
    assert door.get("/cluster/ruleset/synchronization").status_code == 200
    first, second = door.node.asked
    assert (first.f.module, first.f.name, first.f_kwargs) == (
        "wazuh.core.cluster.control",
        "get_node_ruleset_integrity",
        {},
    )
    assert second.f.name == "get_ruleset_sync_status"
    assert second.f_kwargs == {"master_md5": hashes, "node_list": "*"}
    assert second.broadcasting
    assert second.nodes == door.node.names


def test_ruleset_equality_of_some_nodes_is_no_broadcast() -> None:
    door = Door(FakeNode(lambda request: plain({})))
    assert door.get("/cluster/ruleset/synchronization?nodes_list=worker1").status_code == 200
    assert door.node.asked[1].f_kwargs["node_list"] == ["worker1"]
    assert not door.node.asked[1].broadcasting


def test_digests_offered_are_those_that_the_function_knows() -> None:
    parameters = {parameter.name: parameter for parameter in BY_FUNCTION["wazuh.agent", "get_agent_groups"].parameters}
    assert set(parameters["hash"].choices) == set(get_args(Algorithm))


def test_names_of_endpoints_are_unique() -> None:
    names = [endpoint.name for endpoint in ENDPOINTS]
    assert len(names) == len(set(names))


def test_a_call_does_not_change_the_table(door: Door) -> None:
    before = msgspec.json.encode([dict(endpoint.constants) for endpoint in ENDPOINTS])
    door.get("/agents?name=web")
    assert msgspec.json.encode([dict(endpoint.constants) for endpoint in ENDPOINTS]) == before

"""The examples of the page and the document: there is one for each endpoint, and it has the form of the function's real
answer."""

import json
import socket
from collections.abc import Iterator
from datetime import datetime
from html import unescape
from typing import Any

import pytest

from clusterd.api.examples import BODIES, EXAMPLES, answer_of, request_of, schema_of
from clusterd.api.openapi import document
from clusterd.api.table import ENDPOINTS
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, arguments_of
from clusterd.dapi.protocol.request import ApiRequest
from tests.api.harness import Door
from tests.contracts.helpers import add_agents, put
from tests.dapi.agent_node import AgentNode, agent_node
from tests.dapi.ruleset_node import DECODER, RULE

BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}
KEY = "0123456789abcdef" * 4
RULES = '<group name="a,"><rule id="1" level="2"><match>x</match><description>d</description></rule></group>'
TOTALS = "10-5710-5-3\n10--3--1200--4--0\n"
LOG = "2025/11/23 10:15:02 wazuh-remoted: WARNING: Queue is full.\n"
# Endpoint to the arguments of its function.
ASKED: dict[str, dict[str, Any]] = {
    "get_cluster_status": {},
    "get_cluster_local_info": {},
    "get_cluster_local_config": {},
    "get_manager_info": {},
    "get_manager_status": {},
    "get_manager_logs": {},
    "get_manager_logs_summary": {},
    "get_manager_stats": {"date": datetime(2025, 11, 23)},
    "get_manager_stats_hourly": {},
    "get_manager_stats_weekly": {},
    "get_agents": {"agent_list": ["001"]},
    "get_agents_outdated": {},
    "get_agents_stats_distinct": {"fields": ["os.platform"]},
    "get_agents_summary": {},
    "get_agents_summary_status": {},
    "get_agents_summary_os": {},
    "get_agents_agent_id_group_is_sync": {"agent_list": ["001"]},
    "get_agents_agent_id_key": {"agent_list": ["001"]},
    "post_agents": {"name": "new", "ip": "any"},
    "delete_agents": {"agent_list": ["002"]},
    "put_agents_group": {"group_list": ["web"], "agent_list": ["001"]},
    "get_groups": {},
    "get_groups_group_id_agents": {"group_list": ["web"]},
    "get_groups_group_id_files": {"group_list": ["web"]},
    "get_groups_group_id_files_file_name": {"group_list": ["web"], "filename": "agent.conf"},
    "delete_agents_agent_id_group": {"agent_list": ["001"], "group_list": ["web"]},
    "post_groups": {"group_id": "new"},
    "delete_groups": {"group_list": ["new"]},
    "get_rules": {},
    "get_rules_groups": {},
    "get_rules_files": {},
    "put_rules_files_filename": {"filename": "b.xml", "content": RULE},
    "get_decoders": {},
    "get_decoders_parents": {"parents": True},
    "get_decoders_files": {},
    "get_lists": {},
    "get_lists_files": {},
    "get_sca_agent_id": {"agent_list": ["001"]},
    "get_sca_agent_id_checks_policy_id": {"agent_list": ["001"], "policy_id": "cis"},
}


@pytest.fixture(scope="module")
def node() -> Iterator[AgentNode]:
    with agent_node() as made:
        files = {
            "etc/rules/a.xml": RULES,
            "etc/decoders/a.xml": DECODER,
            "etc/lists/a": "k:v\n",
            "etc/shared/ar.conf": "restart0",
            "etc/shared/web/agent.conf": "<agent_config os='x'><localfile><location>a</location></localfile>"
            "</agent_config>",
            "etc/shared/web/merged.mg": "m",
            "logs/ossec.log": LOG,
            "stats/totals/2025/Nov/ossec-totals-23.log": TOTALS,
        }
        for name, content in files.items():
            path = made.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        add_agents(made.db, 1, 2)
        made.register([1, 2])
        system = {f"os_{name}": name for name in ("name", "version", "platform", "codename", "uname", "arch", "build")}
        put(
            made.db, 1, **system, os_major="22", os_minor="04", version="Wazuh v4.12.0", node_name="w", manager_host="m"
        )
        put(made.db, 1, last_keepalive=1, disconnection_time=1, merged_sum="0", config_sum="0", ip="10.0.0.1")
        for row in (
            "sca_policy values ('cis', 'cis.yml', 'cis', 'd', 'r', 'h')",
            "sca_scan_info values (1, 1, 2, 'cis', 1, 2, 3, 6, 50, 'h')",
            "sca_check values (1, 7, 'cis', 't', 'd', 'r', 'r', 'f', 'p', 'd', 'r', 'c', 'r', 'failed', 'r', 'all')",
            "sca_check_compliance values (7, 'cis', '1')",
            "sca_check_rules values (7, 'file', 'f')",
        ):
            made.db.command(f"agent 001 sql insert into {row}")
        yield made


def test_every_endpoint_has_an_example_and_a_schema_made_from_it() -> None:
    assert set(EXAMPLES) == set(BY_NAME)
    assert set(BODIES) == {one.name for one in ENDPOINTS if one.body is not None and one.body.model is not None}
    for endpoint in ENDPOINTS:
        assert "{" not in request_of(endpoint)
        json.dumps(answer_of(endpoint))
    paths = document(ENDPOINTS)["paths"]
    content = paths["/agents"]["get"]["responses"]["200"]["content"]["application/json"]
    items = content["schema"]["allOf"][1]["properties"]["data"]["properties"]["affected_items"]["items"]
    assert items["properties"]["os"]["properties"]["name"] == {"type": "string"}
    assert items["properties"]["group"] == {"type": "array", "items": {"type": "string"}}
    assert content["example"]["data"]["affected_items"][0]["id"] == "001"
    body = paths["/agents/insert"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/KnownAgent"}


def test_schema_says_what_an_example_shows() -> None:
    assert schema_of({"a": None, "b": True, "c": [1], "details": {"x": 1}}) == {
        "type": "object",
        "properties": {
            "a": {},
            "b": {"type": "boolean"},
            "c": {"type": "array", "items": {"type": "integer"}},
            "details": {"type": "object"},
        },
    }


def test_the_functions_answer_as_the_examples(node: AgentNode) -> None:
    """The endpoints run in the order of the table, because some change what others show."""
    assert {name: found for name in ASKED if (found := differences(answered(node, name), EXAMPLES[name]))} == {}


def answered(node: AgentNode, name: str) -> Any:
    """Returns what the endpoint's function answers: an item, an object, or a message."""
    asked = BY_NAME[name].function
    function = FUNCTIONS.find(asked.name)
    assert function is not None
    call = Call(node.settings, ApiRequest(asked.name), node.database)
    answer = function.work(call, arguments_of(function, ASKED[name]))
    if isinstance(answer, Items):
        assert answer.affected, (name, answer.rendered())
        return answer.affected[0]
    found = answer["data" if BY_NAME[name].answer == "object" else "message"]
    # Replaces names of systems and groups, which are those of the test's agents.
    return found | {"os": EXAMPLES[name]["os"], "groups": {}} if name == "get_agents_summary" else found


def differences(found: Any, example: Any, where: str = "") -> list[str]:
    """Yields members that the example lacks, and values of another type. Members named after daemons count as one."""
    if isinstance(found, datetime):
        found = found.isoformat()
    if found is None or example is None:
        return []
    if type(found) is not type(example):
        return [f"{where}: {found!r} is not like {example!r}"]
    if isinstance(found, list):
        return [text for one in found[:3] for text in differences(one, example[0], where)]
    if not isinstance(found, dict) or where == ".details":
        return []
    if all(name.startswith("wazuh-") for name in example):
        example = dict.fromkeys(found, next(iter(example.values())))
    unknown = [f"{where}.{name} is not in the example" for name in found if name not in example]
    known = [differences(value, example[name], f"{where}.{name}") for name, value in found.items() if name in example]
    return unknown + [text for texts in known for text in texts]


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def door() -> Door:
    return Door(port=55123)


def page(door: Door, host: str) -> str:
    return str(unescape(door.send("GET", "/docs", headers={"Host": host}).text))


@pytest.mark.parametrize("host", ["siem.example.org:55000", "10.0.0.11:8443", "[::1]:55000", "localhost"])
def test_examples_have_the_address_by_which_the_page_was_reached(door: Door, host: str) -> None:
    text = page(door, host)
    assert f'"https://{host}/cluster/nodes?pretty=true"' in text
    assert f'"https://{host}/agents?agents_list=001,002&status=disconnected"' in text
    assert "@ADDRESS@" not in text
    assert "HOST" not in text


@pytest.mark.parametrize("host", ['a"><script>alert(1)</script>', "a b", "x" * 300, "a:b:c"])
def test_an_invalid_address_is_not_repeated(door: Door, host: str) -> None:
    text = door.send("GET", "/docs", headers={"Host": host}).text
    assert f"https://{socket.gethostname()}:55123/cluster/nodes" in text
    assert "<script" not in text
    assert host not in text


def test_the_page_shows_a_request_an_answer_and_its_fields_for_every_endpoint(door: Door) -> None:
    text = page(door, "node:55000")
    for endpoint in ENDPOINTS:
        assert f'"https://node:55000{request_of(endpoint)}"' in text
        assert json.dumps(answer_of(endpoint), indent=2, ensure_ascii=False) in text
    for field in ("os.platform", "nist_800_53", "status.last_sync_integrity.total_files.missing", "compliance.key"):
        assert f"<code>{field}</code></td><td>" in text
    assert json.dumps(BODIES["post_agents_insert"]) in text
    for row in (
        "<code>id</code></td><td>text (required)</td><td>The agent's id.</td>",
        "<code>ip</code></td><td>text (default any)</td>",
        "<code>force.disconnected_time.value</code></td><td>text (default 1h)</td>",
        "<code>force.enabled</code></td><td>true, false (default true)</td>",
    ):
        assert row in text
    assert "-X DELETE" in text

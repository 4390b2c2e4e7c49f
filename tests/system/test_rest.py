"""The REST API of real nodes over HTTPS: any node can be asked, and the node that knows answers."""

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck

from clusterd.api.openapi import document
from clusterd.api.table import ENDPOINTS
from tests.conftest import KEY, rigs
from tests.sizes import examples
from tests.system.dapi_client import request, result
from tests.system.rest import ATTEMPTS, FIRST, MASTER, NAMES, OVERRIDES, PASSWORD, SECOND, USER, Caller, turn_on
from tools.rig.nodes import Rig
from tools.rig.peer import StockWorker, wait_until
from tools.rig.ports import HOST
from tools.rig.wdb_client import WdbClient, authd

pytestmark = pytest.mark.slow
RULES = b'<group name="local,"><rule id="100001" level="3"><description>Seen</description></rule></group>\n'
LOG = """\
2026/11/23 10:00:00 wazuh-analysisd: INFO: Started (pid: 7).
2026/11/23 10:00:01 wazuh-modulesd:syscollector: WARNING: Something is odd.
2026/11/23 10:00:02 wazuh-remoted[812]: ERROR: (1210): Queue not available.
"""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A master and two workers with their APIs, for the tests that break nothing."""
    with rigs() as make:
        made = make(2, overrides=OVERRIDES)
        turn_on(made)
        for node in made.nodes:
            (node.root / "logs/ossec.log").write_text(LOG)
        (made.master.root / "etc/client.keys").write_text("")
        made.start()
        made.wait_equal(60)
        yield made


@pytest.fixture(scope="module")
def callers(rig: Rig) -> Iterator[list[Caller]]:
    """Clients of the master and of each worker."""
    made = [Caller(node) for node in rig.nodes]
    yield made
    for caller in made:
        caller.__exit__()


@pytest.mark.parametrize(
    "path",
    [
        "/cluster/nodes",
        "/cluster/nodes?sort=-name&limit=2",
        "/cluster/nodes?q=type=worker;name~3",
        "/cluster/nodes?search=manager_2",
        "/cluster/nodes?select=name&distinct=true",
        "/cluster/status",
        f"/cluster/{SECOND}/info",
        f"/cluster/{FIRST}/logs/summary",
        f"/cluster/{MASTER}/stats/weekly",
        "/cluster/ruleset/synchronization",
        "/agents",
        "/agents/summary/status",
        "/groups",
        "/groups/default/files?sort=-filename",
        "/rules/files?limit=5&offset=3",
        "/lists?select=filename",
    ],
)
def test_the_same_question_has_the_same_answer_on_every_node(callers: list[Caller], path: str) -> None:
    first, *others = (caller.get(path) for caller in callers)
    assert first["error"] == 0
    for other in others:
        assert other == first


def test_questions_about_this_node_are_answered_by_this_node(callers: list[Caller]) -> None:
    for caller in callers:
        (found,) = caller.items("/cluster/local/info")
        assert found["node"] == caller.node.name
        (config,) = caller.items("/cluster/local/config")
        assert (config["node_name"], config["key"]) == (caller.node.name, "*****")
        assert KEY not in caller.ask("GET", "/cluster/local/config").text


def test_lines_of_the_log_of_any_node_are_filtered_by_that_node(callers: list[Caller]) -> None:
    caller = callers[1]
    path = f"/cluster/{SECOND}/logs"
    assert [line["level"] for line in caller.items(path)] == ["error", "warning", "info"]
    assert [line["tag"] for line in caller.items(f"{path}?level=WARNING")] == ["wazuh-modulesd:syscollector"]
    assert [line["level"] for line in caller.items(f"{path}?tag=wazuh-analysisd&select=level")] == ["info"]
    assert [line["tag"] for line in caller.items(f"{path}?search=queue")] == ["wazuh-remoted"]


def test_nodes_that_are_away_are_failed_items_beside_the_others(callers: list[Caller]) -> None:
    for caller in callers:
        for path, shown in (
            ("/cluster/nodes", lambda item: item["name"]),
            ("/cluster/healthcheck", lambda item: item["info"]["name"]),
            ("/cluster/ruleset/synchronization", lambda item: item["name"]),
        ):
            answer = caller.get(f"{path}?nodes_list={SECOND},nowhere")
            assert [shown(item) for item in answer["data"]["affected_items"]] == [SECOND]
            assert caller.failed(f"{path}?nodes_list={SECOND},nowhere") == {1730: ["nowhere"]}
            assert answer["error"] == 2


def test_an_uploaded_rule_file_reaches_every_node_and_is_deleted_everywhere(rig: Rig, callers: list[Caller]) -> None:
    caller, path = callers[1], "/rules/files/from_rest.xml"
    answer = caller.upload(path, RULES)
    assert answer.json()["data"]["affected_items"] == ["etc/rules/from_rest.xml"]
    files = [node.root / "etc/rules/from_rest.xml" for node in rig.nodes]
    wait_until(lambda: all(file.exists() for file in files), 60, "every node has it")
    for one in callers:
        assert one.ask("GET", f"{path}?raw=true").content == RULES
    assert caller.upload(path, RULES).json()["data"]["failed_items"][0]["error"]["code"] == 1905
    assert (
        caller.upload(f"{path}?overwrite=true", b"<group>").json()["data"]["failed_items"][0]["error"]["code"] == 1113
    )
    assert files[0].read_bytes() == RULES
    assert caller.ask("DELETE", path).json()["error"] == 0
    wait_until(lambda: not any(file.exists() for file in files), 60, "no node has it")


@pytest.mark.parametrize(
    "path",
    [
        "/rules/files/..%2f..%2fossec.xml",
        "/rules/files/%2e%2e.xml",
        "/rules/files/a.xml?relative_dirname=etc/rules/../..",
        "/rules/files/a.xml?relative_dirname=/etc",
        "/rules/files/a.xml?relative_dirname=etc/shared",
        "/rules/files/a.xml?relative_dirname=ruleset/rules",
        "/lists/files/..%2fclient.keys",
        "/lists/files/a%00b",
        "/decoders/files/a.xml%0a",
    ],
)
def test_nothing_is_written_elsewhere(rig: Rig, callers: list[Caller], path: str) -> None:
    before = {file for file in rig.master.root.glob("**/*") if file.is_file() and "etc" in file.parts}
    answer = callers[1].upload(path, RULES)
    refused = answer.status_code in (400, 404) or answer.json()["data"]["total_affected_items"] == 0
    assert refused, answer.text
    after = {file for file in rig.master.root.glob("**/*") if file.is_file() and "etc" in file.parts}
    assert after == before


def test_a_group_lives_and_dies_and_its_agents_follow(rig: Rig, callers: list[Caller]) -> None:
    first, second = callers[1], callers[2]
    assert authd(rig.master.root, {"function": "add", "arguments": {"name": "one", "ip": "any"}})["error"] == 0
    assert first.ask("POST", "/groups", json={"group_id": "from_rest"}).json()["error"] == 0
    assert first.ask("POST", "/groups", json={"group_id": "from_rest"}).json()["error"] == 1711
    agents = [item["id"] for item in first.items("/agents?name=one&select=id")]
    assert second.ask("PUT", f"/agents/{agents[0]}/group/from_rest").json()["error"] == 0
    assert [item["id"] for item in first.items("/groups/from_rest/agents?select=id")] == agents
    assert [item["count"] for item in first.items("/groups?groups_list=from_rest")] == [1]
    assert second.ask("PUT", "/agents/group?group_id=nowhere&agents_list=001").status_code == 404
    assert first.ask("DELETE", f"/agents/{agents[0]}/group/from_rest").json()["error"] == 0
    assert first.ask("DELETE", "/groups?groups_list=from_rest,default").json()["error"] == 2
    assert first.failed("/groups?groups_list=from_rest") == {1710: ["from_rest"]}


def test_an_assessment_is_answered_by_the_node_that_the_agent_reports_to(rig: Rig, callers: list[Caller]) -> None:
    solver = rig.workers[1]
    added = authd(solver.root, {"function": "add", "arguments": {"name": "assessed", "ip": "any"}})
    number = int(added["data"]["id"])
    with WdbClient(solver.root) as database, WdbClient(rig.master.root) as master:
        known = f"select id from agent where id = {number}"
        wait_until(lambda: bool(database.rows(known)), 60, "the worker knows the agent")
        database.command(
            f'global update-agent-data {{"id":{number},"name":"assessed","version":"Wazuh v4.14.1",'
            '"sync_status":"syncreq","connection_status":"active","group_config_status":"synced",'
            f'"node_name":"{solver.name}"}}'
        )
        for statement in (
            "insert into sca_policy (name, file, id, description, hash_file)"
            " values ('CIS', 'cis.yml', 'cis', 'a policy', 'h')",
            "insert into sca_scan_info values (1, 1700000000, 1700000060, 'cis', 3, 1, 0, 4, 75, 'x')",
        ):
            database.command(f"agent {number:03d} sql {statement}")
        reports = f"select node_name from agent where id = {number}"
        wait_until(lambda: master.rows(reports) == [{"node_name": solver.name}], 60, "the master knows")
    for caller in callers:
        (policy,) = caller.items(f"/sca/{number:03d}")
        assert (policy["policy_id"], policy["pass"], policy["fail"], policy["score"]) == ("cis", 3, 1, 75)
        assert policy["start_scan"] == "2023-11-14T22:13:20+00:00"
    log = (rig.workers[0].root / "logs/cluster.log").read_text()
    assert "Receiving request: get_sca_list from master" not in log


def test_guessing_is_stopped_and_others_are_let_in(rig: Rig) -> None:
    with (
        Caller(rig.workers[0], user="guessed", password="wrong password", address="127.0.0.2") as guesser,
        Caller(rig.workers[0], address="127.0.0.3") as operator,
    ):
        for _ in range(ATTEMPTS):
            assert guesser.login().status_code == 401
        refused = guesser.login()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert operator.login().status_code == 200
    log = (rig.workers[0].root / "logs/cluster.log").read_text()
    assert "wrong password" not in log
    assert PASSWORD not in log


def test_tokens_are_good_on_their_own_node_only(callers: list[Caller]) -> None:
    token = callers[1].token
    answer = callers[2].ask("GET", "/", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_the_api_of_a_stock_worker_logs_its_users_in_at_our_master(rig: Rig, tmp_path: Path) -> None:
    """The requests that it sends over the link between the nodes, in order (dapi.md 5.8)."""
    with StockWorker((HOST, rig.master.port), KEY, "stock", tmp_path, cluster="rig") as worker:
        worker.join()

        def ask(module: str, name: str, **arguments: Any) -> Any:
            worker.forwarded.clear()
            worker.ask("dapi", f"4711 {request(module, name, arguments)}")
            wait_until(lambda: bool(worker.forwarded), 60, "the master has answered")
            client, string = worker.forwarded[0].split(" ")
            assert client == "4711"
            return result(json.loads(worker.connection.take_string(string)))["result"]

        assert ask("api.authentication", "check_user_master", user=USER, password=PASSWORD) == {"result": True}
        assert ask("api.authentication", "check_user_master", user=USER, password="wrong one") == {"result": False}
        roles = ask("wazuh.rbac.preprocessor", "get_permissions", user_id=USER)["roles"]
        conf = ask("api.authentication", "get_security_conf")
        token = {"username": USER, "roles": roles, "token_nbf_time": int(time.time()), "run_as": False}
        checked = ask("api.authentication", "check_token", origin_node_type="worker", **token)
        assert checked["valid"] is True
        # The next requests of its API carry these.
        permissions = checked["policies"] | {"rbac_mode": conf["rbac_mode"]}
        wanted = request("wazuh.cluster", "get_nodes_info", rbac_permissions=permissions, nodes=NAMES)
        worker.forwarded.clear()
        worker.ask("dapi", f"4712 {wanted}")
        wait_until(lambda: bool(worker.forwarded), 60, "the master has answered")
        answer = json.loads(worker.connection.take_string(worker.forwarded[0].split(" ")[1]))
        assert {item["name"] for item in result(answer)["affected_items"]} >= set(NAMES)
    assert PASSWORD not in (rig.master.root / "logs/cluster.log").read_text()


BOUNDED = hypothesis.settings(
    max_examples=examples(4), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
"""This does not test whether well-formed requests succeed: names of fields, agents and files mean something to a node.
tests/api/schema_cases.py tests what is true without a node."""
AGENTS_CHANGE = [f"post_agents{name}" for name in ("", "_insert", "_insert_quick")] + ["delete_agents"]
"""Other tests of this rig have agents; tests/dapi/test_registrations.py asks for these."""
DOCUMENT = document(ENDPOINTS)
ASKED = [
    (path, method)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation["operationId"] not in ("login", *AGENTS_CHANGE)
]


@functools.cache
def schema() -> Any:
    """Schemathesis is loaded when it is needed: every process of a run collects this file, one runs its tests."""
    import schemathesis

    right = {"generation": {"mode": "positive"}, "phases": {"coverage": {"enabled": False}}}
    return schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config.from_dict(right))


@pytest.mark.parametrize(("path", "method"), ASKED)
def test_a_real_node_answers_as_the_document_says(callers: list[Caller], path: str, method: str) -> None:
    """Its examples, and what it allows."""
    from schemathesis.checks import CHECKS

    operation = schema()[path][method]
    caller = callers[1]
    checks = [CHECKS.get_one(name) for name in CHECKED]

    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url=f"https://{HOST}:{caller.port}")
        options = {key: sent[key] for key in ("params", "json") if sent.get(key) is not None}
        options["headers"] = {"Content-Type": case.media_type} if case.media_type else {}
        if sent.get("data") is not None:
            options["content"] = sent["data"]
        case.validate_response(caller.ask(sent["method"], sent["url"], **options), checks=checks)

    for example in operation.get_strategies_from_examples():
        hypothesis.settings(BOUNDED, max_examples=1)(hypothesis.given(example)(ask))()
    BOUNDED(hypothesis.given(operation.as_strategy())(ask))()

"""The distributed API between real nodes, driven by a client written from dapi.md alone (sections 1.11, 3, 8)."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, MakeRig, rigs
from tools.rig.faults import signal_process
from tools.rig.nodes import HOST, Rig, RigNode
from tools.rig.peer import LocalClient, StockMaster, StockWorker, wait_until
from tools.rig.wdb_client import WdbClient, authd

pytestmark = pytest.mark.slow
NAMES = ["rig_manager_1", "rig_manager_2", "rig_manager_3"]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A master and two workers for the tests that break nothing."""
    with rigs() as make:
        made = make(2)
        made.start()
        made.wait_equal(60)
        yield made


def named(module: str, qualname: str) -> dict[str, Any]:
    name = qualname.rpartition(".")[2]
    return {"__callable__": {"__name__": name, "__module__": module, "__qualname__": qualname, "__type__": "function"}}


def request(module: str, qualname: str, arguments: dict[str, Any] | None = None, **fields: Any) -> str:
    return json.dumps({"f": named(module, qualname), "f_kwargs": arguments or {}} | fields)


def client_of(node: RigNode) -> LocalClient:
    return LocalClient(node.root / "queue/cluster/c-internal.sock")


def ask(node: RigNode, *what: Any, command: str = "dapi", prefix: str = "", **fields: Any) -> Any:
    with client_of(node) as client:
        first = client.ask(command, prefix + request(*what, **fields))
        assert first.payload == (
            b"Added request to API requests queue" if command == "dapi" else b"Request forwarded to worker node"
        )
        return json.loads(client.answer_of("dapi_res"))


def later(client: LocalClient, *commands: str) -> list[Any]:
    """What the node has told this client by requests of its own."""
    return [one for one in list(client.link.record) if one.is_request and not one.sent and one.command in commands]


def log_of(node: RigNode) -> list[str]:
    return (node.root / "logs/cluster.log").read_text().splitlines()


def result(answer: Any) -> Any:
    return answer["__wazuh_result__"]["__object__"]


def failure(answer: Any) -> Any:
    return answer["__wazuh_exception__"]["__object__"]


def failed_items(answer: Any) -> dict[int, list[str]]:
    found = result(answer)
    pairs = zip(found["failed_items_keys"], found["failed_items_values"], strict=True)
    return {error["__object__"]["code"]: ids for error, ids in pairs}


SYNC_STATUS = ("wazuh.cluster", "get_ruleset_sync_status")


def sync_status(node: RigNode, nodes: Any, **fields: Any) -> Any:
    wanted = {"node_list": nodes, "master_md5": {}}
    return ask(node, *SYNC_STATUS, wanted, request_type="distributed_master", nodes=NAMES, **fields)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_the_same_question_has_the_same_answer_on_every_node(rig: Rig) -> None:
    answers = [ask(node, "wazuh.cluster", "get_nodes_info") for node in rig.nodes]
    assert [item["name"] for item in result(answers[0])["affected_items"]] == NAMES
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]
    assert [line for line in log_of(rig.master) if "Receiving request: get_nodes_info from rig_manager_2 (" in line]


def test_question_about_this_node_is_answered_by_this_node(rig: Rig) -> None:
    for node, kind in zip(rig.nodes, ("master", "worker", "worker"), strict=True):
        answer = ask(node, "wazuh.cluster", "get_node_wrapper", request_type="local_any")
        assert result(answer)["affected_items"] == [{"node": node.name, "cluster": "rig", "type": kind}]


def test_question_to_one_node_is_answered_by_that_node(rig: Rig) -> None:
    for asked in rig.nodes:
        for name in NAMES:
            assert [item["name"] for item in result(sync_status(asked, [name]))["affected_items"]] == [name]


def test_broadcast_is_answered_by_all_in_the_order_of_their_names(rig: Rig) -> None:
    for node in rig.nodes:
        answer = sync_status(node, "*", broadcasting=True)
        assert [item["name"] for item in result(answer)["affected_items"]] == NAMES
        assert failed_items(answer) == {}


def test_nodes_that_do_not_exist_are_failed_items(rig: Rig) -> None:
    answer = sync_status(rig.workers[0], ["rig_manager_3", "nowhere"])
    assert [item["name"] for item in result(answer)["affected_items"]] == ["rig_manager_3"]
    assert failed_items(answer) == {1730: ["nowhere"]}


def test_direct_forwarding_reaches_the_worker_that_is_named(rig: Rig) -> None:
    fields = {"request_type": "distributed_master", "from_cluster": True, "nodes": NAMES}
    wanted = (*SYNC_STATUS, {"master_md5": {}})
    answer = ask(rig.master, *wanted, command="dapi_fwd", prefix="rig_manager_3 ", **fields)
    assert [item["name"] for item in result(answer)["affected_items"]] == ["rig_manager_3"]
    with client_of(rig.master) as client:
        for nobody in ("rig_manager_9", "rig_manager_1", "fw_all_nodes"):
            answer = client.ask("dapi_fwd", f"{nobody} {request(*wanted, **fields)}")
            assert answer.command == b"err"
            assert failure(json.loads(answer.payload))["code"] == 3022
    with client_of(rig.workers[0]) as client:
        assert client.ask("dapi_fwd", "rig_manager_1 {}").payload == b"unknown command 'b'dapi_fwd''"


def test_many_questions_over_one_connection_are_all_answered(rig: Rig) -> None:
    with client_of(rig.workers[0]) as client:
        for _ in range(40):
            assert client.ask("dapi", request("wazuh.cluster", "get_status_json")).command == b"ok"
        wait_until(lambda: len(later(client, "dapi_res")) == 40, 60, "every answer has come")


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("os", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("clusterd.dapi.protocol.registry", "Registry"),
        ("wazuh.cluster", "os"),
        ("wazuh.syscheck", "nothing"),
        ("wazuh.agent", "get_full_overview"),
    ],
)
def test_functions_that_are_not_registered_are_refused_and_not_run(rig: Rig, module: str, qualname: str) -> None:
    for node in rig.nodes[:2]:
        answer = failure(ask(node, module, qualname, {"command": "touch /tmp/never"}))
        assert answer["code"] == 3009
        assert answer["extra_message"] == f"function not available: {module}.{qualname}"
        assert answer["ids"] == [NAMES[0]]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "{",
        "[]",
        json.dumps({"f": "os.system"}),
        json.dumps({"f": {"__callable__": {"__name__": 1}}}),
        json.dumps({"f": named("wazuh.cluster", "get_nodes_info"), "request_type": "everywhere"}),
        '{"f": ' + "[" * 50_000,
    ],
)
def test_what_is_no_request_is_an_exception_at_once(rig: Rig, bad: str) -> None:
    for node in rig.nodes[:2]:
        with client_of(node) as client:
            assert client.ask("dapi", bad).command == b"ok"
            assert failure(json.loads(client.answer_of("dapi_err")))["code"] == 1000


def test_arguments_that_do_not_fit_are_1000(rig: Rig) -> None:
    for wanted in ({"filter_node": 1}, {"lc": {}}, {"filter_node": {"__unhandled_exc__": {"__class__": "x"}}}):
        assert failure(ask(rig.master, "wazuh.cluster", "get_nodes_info", wanted))["code"] == 1000
    hidden = {"filter_node": named("os", "system")}
    assert failure(ask(rig.master, "wazuh.cluster", "get_nodes_info", hidden))["code"] == 1000


def test_kind_of_request_that_a_function_has_not_is_4000(rig: Rig) -> None:
    answer = ask(rig.master, "wazuh.cluster", "get_nodes_info", request_type="local_any")
    assert failure(answer)["code"] == 4000


def test_permissions_narrow_what_nodes_are_shown(rig: Rig) -> None:
    permissions = {"rbac_mode": "white", "cluster:read": {"node:id:rig_manager_2": "allow"}}
    fields = {"rbac_permissions": permissions, "nodes": NAMES}
    answer = ask(rig.workers[0], "wazuh.cluster", "get_nodes_info", **fields)
    assert [item["name"] for item in result(answer)["affected_items"]] == ["rig_manager_2"]
    answer = ask(rig.workers[0], "wazuh.cluster", "get_nodes_info", {"filter_node": ["rig_manager_1"]}, **fields)
    assert failure(answer)["code"] == 4000
    answer = sync_status(rig.master, NAMES[1:], rbac_permissions=permissions)
    assert [item["name"] for item in result(answer)["affected_items"]] == ["rig_manager_2"]
    assert failed_items(answer) == {4000: ["rig_manager_3"]}


def test_ten_thousand_requests_at_once_are_answered_or_refused_and_harm_nobody(rig: Rig, tmp_path: Path) -> None:
    before = rig.processes("rig_manager_1")
    with (
        StockWorker((HOST, rig.master.port), KEY, "flood", tmp_path, cluster="rig") as worker,
        client_of(rig.master) as client,
    ):
        worker.join()
        good = request("wazuh.cluster", "get_nodes_info")
        began = time.monotonic()
        for number in range(5000):
            worker.connection.link.tell("dapi", f"{number} {good}")
            worker.connection.link.tell("dapi", f"bad{number} [")
        client.ask("dapi", good)
        assert [item["name"] for item in result(json.loads(client.answer_of("dapi_res")))["affected_items"]][
            :3
        ] == NAMES
        assert time.monotonic() - began < 60
        assert client.ask("echo-c", b"keepalive").payload == b"keepalive"
    assert len([line for line in log_of(rig.master) if "Error in distributed API" in line]) < 100
    assert rig.processes("rig_manager_1") == before


# ---- things that break -----------------------------------------------------------------------------------------------


def test_worker_that_goes_while_it_works_fails_at_once(rig: Rig, tmp_path: Path) -> None:
    """It had said that the request is queued: only the link tells that no answer will come."""
    begun, go_on = threading.Event(), threading.Event()

    def api(request: dict[str, Any]) -> object:
        begun.set()
        go_on.wait(30)
        return {}

    with (
        StockWorker((HOST, rig.master.port), KEY, "leaver", tmp_path, cluster="rig", api=api) as worker,
        client_of(rig.master) as client,
    ):
        worker.join()
        client.ask("dapi_fwd", f"leaver {request('wazuh.cluster', 'get_nodes_info', from_cluster=True)}")
        assert begun.wait(10)
        worker.connection.link.close()
        answer = json.loads(client.answer_of("dapi_err"))
        go_on.set()
    assert failure(answer)["code"] == 3022


def test_killed_worker_is_a_failed_item_and_not_a_hang(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    rig.start()
    rig.wait_equal(60)
    held = rig.processes("rig_manager_3")
    assert held["sync"] is not None
    assert held["supervisor"] is not None
    signal_process(held["sync"], signal.SIGSTOP)
    with client_of(rig.workers[0]) as client:
        wanted = {"node_list": "*", "master_md5": {}}
        fields = {"request_type": "distributed_master", "nodes": NAMES, "broadcasting": True}
        client.ask("dapi", request(*SYNC_STATUS, wanted, **fields))
        wait_until(
            lambda: [line for line in log_of(rig.workers[0]) if "get_ruleset_sync_status from master" in line],
            10,
            "the nodes were asked",
        )
        signal_process(held["supervisor"], signal.SIGKILL)
        answer = json.loads(client.answer_of("dapi_res"))
    assert [item["name"] for item in result(answer)["affected_items"]] == NAMES[:2]
    assert failed_items(answer) == {3022: ["rig_manager_3"]}


@pytest.mark.parametrize("node", [0, 1])
def test_sync_process_that_dies_leaves_no_asker_in_silence(make_rig: MakeRig, node: int) -> None:
    """On the asker's own node and on the master."""
    rig = make_rig(2)
    rig.start()
    rig.wait_equal(60)
    held = rig.processes("rig_manager_3")["sync"]
    assert held is not None
    signal_process(held, signal.SIGSTOP)
    try:
        with client_of(rig.nodes[1]) as client:
            wanted = {"node_list": ["rig_manager_3"], "master_md5": {}}
            fields = {"request_type": "distributed_master", "nodes": NAMES}
            client.ask("dapi", request(*SYNC_STATUS, wanted, **fields))
            wait_until(
                lambda: [line for line in log_of(rig.master) if "get_ruleset_sync_status from rig_manager_2" in line],
                10,
                "the master has the request",
            )
            sync = rig.processes(rig.nodes[node].name)["sync"]
            assert sync is not None
            signal_process(sync, signal.SIGKILL)
            wait_until(
                lambda: bool(later(client, "dapi_res", "dapi_err", "err")), 15, "the client hears that it was lost"
            )
    finally:
        signal_process(held, signal.SIGCONT)


def test_our_worker_answers_a_stock_master(make_rig: MakeRig) -> None:
    """The bytes of S4 (dapi.md 1.11): a request id of the master's, the answer as a long string under that id."""
    rig = make_rig(1)
    with StockMaster(rig.master.root, KEY, name="rig_manager_1", cluster="rig", port=rig.master.port) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        name = "6bb5e5b8-98ab-4d4a-b9ca-2ae7ea3d5b42"
        wanted = request(*SYNC_STATUS, {"master_md5": {}}, request_type="distributed_master", from_cluster=True)
        assert session.link.ask("dapi", f"{name} {wanted}").payload == b"Added request to API requests queue"
        wait_until(lambda: bool(session.api_results), 60, "the worker has answered")
        ((found, answer),) = session.api_results
        assert found == name
        assert result(json.loads(answer))["affected_items"][0]["name"] == "rig_manager_2"
        assert session.link.ask("dapi", f"{name} []").command == b"ok"
        wait_until(lambda: len(session.api_results) == 2, 60, "the worker has refused")
        assert failure(json.loads(session.api_results[1][1]))["code"] == 1000


def test_program_of_our_worker_asks_a_stock_master(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    asked: list[dict[str, Any]] = []

    def api(request: dict[str, Any]) -> object:
        asked.append(request)
        return {
            "__wazuh_result__": {"__class__": "WazuhResult", "__object__": {"str_priority": None, "result": {"n": 1}}}
        }

    with StockMaster(
        rig.master.root, KEY, name="rig_manager_1", cluster="rig", port=rig.master.port, api=api
    ) as master:
        rig.start("rig_manager_2")
        master.session("rig_manager_2")
        with client_of(rig.workers[0]) as client:
            wait_until(lambda: client.ask("dapi", request("wazuh.agent", "get_agents")).command == b"ok", 60, "linked")
            assert result(json.loads(client.answer_of("dapi_res")))["result"] == {"n": 1}
    assert asked[0]["f"] == named("wazuh.agent", "get_agents")


def test_assessment_is_answered_by_the_node_that_the_agent_reports_to(make_rig: MakeRig) -> None:
    """S4 of dapi.md 1.11 with real databases: asked on worker 1 (and everywhere), answered by worker 2."""
    rig = make_rig(2)
    (rig.master.root / "etc/client.keys").write_text("")
    rig.start()
    rig.wait_equal(60)
    solver = rig.workers[1]
    assert authd(solver.root, {"function": "add", "arguments": {"name": "web", "ip": "any"}})["error"] == 0
    with WdbClient(solver.root) as database, WdbClient(rig.master.root) as master:
        wait_until(lambda: bool(database.rows("select id from agent where id = 1")), 60, "the worker knows the agent")
        database.command(
            'global update-agent-data {"id":1,"name":"web","version":"Wazuh v4.14.1","sync_status":"syncreq",'
            f'"connection_status":"active","group_config_status":"synced","node_name":"{solver.name}"}}'
        )
        for statement in (
            "insert into sca_policy (name, file, id, description, hash_file)"
            " values ('CIS', 'cis.yml', 'cis', 'a policy', 'h')",
            "insert into sca_scan_info values (1, 1700000000, 1700000060, 'cis', 3, 1, 0, 4, 75, 'x')",
        ):
            database.command(f"agent 001 sql {statement}")
        reports = "select node_name from agent where id = 1"
        wait_until(
            lambda: master.rows(reports) == [{"node_name": solver.name}], 20, "the master knows where it reports"
        )
    wanted = ("wazuh.sca", "get_sca_list", {"agent_list": ["001"]})
    fields = {"request_type": "distributed_master"}
    answers = [ask(node, *wanted, **fields) for node in rig.nodes]
    for answer in answers:
        (policy,) = result(answer)["affected_items"]
        assert (policy["policy_id"], policy["pass"], policy["fail"], policy["score"]) == ("cis", 3, 1, 75)
    assert len([line for line in log_of(solver) if "Receiving request: get_sca_list from master" in line]) == 3
    assert not [line for line in log_of(rig.workers[0]) if "get_sca_list" in line]
    rig.stop(solver.name)
    answer = ask(rig.workers[0], *wanted, **fields)
    assert (failure(answer)["code"], failure(answer)["ids"]) == (3022, [solver.name])


# ---- who may, and who did --------------------------------------------------------------------------------------------

RULE = {"filename": "planted.xml", "content": "<group name='x'></group>"}
UPLOAD = ("wazuh.rule", "upload_rule_file", RULE)
FORGED = "me\n2026/01/01 00:00:00 INFO: [Master] [API audit] all is well"


def audit_of(node: RigNode) -> list[str]:
    return [line for line in log_of(node) if "[API audit]" in line]


def test_changes_are_in_the_audit_with_who_what_and_result(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    rig.start()
    rig.wait_equal(60)
    worker = rig.workers[0]
    done = ask(worker, *UPLOAD, current_user=FORGED)
    assert result(done)["affected_items"] == ["etc/rules/planted.xml"]
    again = ask(rig.master, *UPLOAD, current_user="ann", rbac_permissions={"rbac_mode": "white"})
    assert failure(again)["code"] == 4000
    assert result(ask(rig.master, *UPLOAD))["affected_items"] == []
    ask(worker, "wazuh.cluster", "get_nodes_info")
    lines = audit_of(rig.master)
    assert len(lines) == 3
    by_worker, refused, twice = lines
    about = 'upload_rule_file (filename "planted.xml")'
    shown = FORGED[:64].encode("unicode_escape").decode()
    assert f"INFO: [Master] [API audit] {about}, user '{shown[:20]}" in by_worker
    assert by_worker.endswith(f" asked by worker {worker.name}: 1 done.")
    program = f"a local program (user id {os.getuid()}, pid {os.getpid()})"
    assert refused.endswith(f"{about}, user 'ann', asked by {program}: refused with 4000.")
    assert twice.endswith(f"{about} asked by {program}: 0 done, 1 not (1905).")
    (own,) = audit_of(worker)
    assert f"[Worker {worker.name}] [API audit] {about}, user '" in own
    assert own.endswith(f" asked by {program}, given to another node: 1 done.")

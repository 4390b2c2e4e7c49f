"""The distributed API between real nodes, driven by a client written from dapi.md alone (sections 1.11, 3, 8)."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY
from tests.system.dapi_client import (
    NAMES,
    SYNC_STATUS,
    ask,
    client_of,
    failed_items,
    failure,
    later,
    log_of,
    named,
    request,
    result,
    three_nodes,
)
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import StockWorker, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A master and two workers for the tests that break nothing."""
    with three_nodes() as made:
        yield made


def sync_status(node: RigNode, nodes: Any, **fields: Any) -> Any:
    wanted = {"node_list": nodes, "master_md5": {}}
    return ask(node, *SYNC_STATUS, wanted, request_type="distributed_master", nodes=NAMES, **fields)


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


def test_ten_thousand_requests_at_once_are_answered_or_refused_and_affect_no_other(rig: Rig, tmp_path: Path) -> None:
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


def test_request_to_a_worker_that_disconnects_meanwhile_fails_at_once(rig: Rig, tmp_path: Path) -> None:
    """The node had said that the request is queued: only the end of the link shows that no answer will come."""
    begun, go_on = threading.Event(), threading.Event()

    def api(request: dict[str, Any]) -> object:
        begun.set()
        go_on.wait(120)
        return {}

    with (
        StockWorker((HOST, rig.master.port), KEY, "leaver", tmp_path, cluster="rig", api=api) as worker,
        client_of(rig.master) as client,
    ):
        worker.join()
        client.ask("dapi_fwd", f"leaver {request('wazuh.cluster', 'get_nodes_info', from_cluster=True)}")
        assert begun.wait(60)
        worker.connection.link.close()
        answer = json.loads(client.answer_of("dapi_err"))
        go_on.set()
    assert failure(answer)["code"] == 3022

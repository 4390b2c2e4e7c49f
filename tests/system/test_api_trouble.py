"""The distributed API when nodes and processes die, beside stock nodes, and its audit."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import KEY, MakeRig, rigs
from tests.system.dapi_client import (
    NAMES,
    SYNC_STATUS,
    ask,
    audit_of,
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
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig
from tools.rig.peer import StockMaster, wait_until
from tools.rig.wdb_client import WdbClient, authd

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A master and two workers. A test that breaks something waits until all is whole again."""
    with three_nodes() as made:
        yield made


def test_killed_worker_is_a_failed_item_and_not_a_hang(rig: Rig) -> None:
    before = len(log_of(rig.workers[0]))
    held = rig.processes("rig_manager_3")
    assert held["sync"] is not None
    assert held["supervisor"] is not None
    signal_process(held["sync"], signal.SIGSTOP)
    with client_of(rig.workers[0]) as client:
        wanted = {"node_list": "*", "master_md5": {}}
        fields = {"request_type": "distributed_master", "nodes": NAMES, "broadcasting": True}
        client.ask("dapi", request(*SYNC_STATUS, wanted, **fields))
        wait_until(
            lambda: any("get_ruleset_sync_status from master" in line for line in log_of(rig.workers[0])[before:]),
            60,
            "the nodes were asked",
        )
        signal_process(held["supervisor"], signal.SIGKILL)
        answer = json.loads(client.answer_of("dapi_res"))
    assert [item["name"] for item in result(answer)["affected_items"]] == NAMES[:2]
    assert failed_items(answer) == {3022: ["rig_manager_3"]}
    rig.start("rig_manager_3")
    wait_until(rig.are_connected, 60, "all are connected again")


@pytest.mark.parametrize("node", [0, 1])
def test_sync_process_that_dies_leaves_no_asker_in_silence(rig: Rig, node: int) -> None:
    """The sync process dies on the asker's own node, or on the master."""
    before = len(log_of(rig.master))
    held = rig.processes("rig_manager_3")["sync"]
    assert held is not None
    signal_process(held, signal.SIGSTOP)
    try:
        with client_of(rig.nodes[1]) as client:
            wanted = {"node_list": ["rig_manager_3"], "master_md5": {}}
            fields = {"request_type": "distributed_master", "nodes": NAMES}
            client.ask("dapi", request(*SYNC_STATUS, wanted, **fields))
            wait_until(
                lambda: any("sync_status from rig_manager_2" in line for line in log_of(rig.master)[before:]),
                60,
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
    wait_until(rig.are_connected, 60, "all are connected again")


@pytest.fixture(scope="module")
def lone_worker() -> Iterator[Rig]:
    """A worker, for tests that play its master."""
    with rigs() as make:
        made = make(1)
        made.start("rig_manager_2")
        yield made


def test_our_worker_answers_a_stock_master(lone_worker: Rig) -> None:
    """The bytes of S4 (dapi.md 1.11): a request id of the master's, the answer as a long string under that id."""
    node = lone_worker.master
    with StockMaster(node.root, KEY, name=node.name, cluster="rig", port=node.port) as master:
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


def test_program_of_our_worker_asks_a_stock_master(lone_worker: Rig) -> None:
    node = lone_worker.master
    asked: list[dict[str, Any]] = []

    def api(request: dict[str, Any]) -> object:
        asked.append(request)
        return {
            "__wazuh_result__": {"__class__": "WazuhResult", "__object__": {"str_priority": None, "result": {"n": 1}}}
        }

    with StockMaster(node.root, KEY, name=node.name, cluster="rig", port=node.port, api=api) as master:
        master.session("rig_manager_2")
        with client_of(lone_worker.workers[0]) as client:
            wait_until(lambda: client.ask("dapi", request("wazuh.agent", "get_agents")).command == b"ok", 60, "linked")
            assert result(json.loads(client.answer_of("dapi_res")))["result"] == {"n": 1}
    assert asked[0]["f"] == named("wazuh.agent", "get_agents")


def test_assessment_is_answered_by_the_node_that_the_agent_reports_to(make_rig: MakeRig) -> None:
    """S4 of dapi.md 1.11 with real databases: the question comes to worker 1 (and to every node), worker 2 answers."""
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


RULE = {"filename": "planted.xml", "content": "<group name='x'></group>"}
UPLOAD = ("wazuh.rule", "upload_rule_file", RULE)
FORGED = "me\n2026/01/01 00:00:00 INFO: [Master] [API audit] all is well"


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

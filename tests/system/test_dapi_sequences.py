"""The sequences S1 to S7 of dapi.md 1.11, message by message, by a client written from that document alone.

S8 (`send_file`) is in test_local_socket.py, S9 (`sendsync`) in test_sendsync.py, S4 with a stock master in
test_api_trouble.py."""

import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, rigs
from tests.system.dapi_client import ask, client_of, failure, log_of, named, request, result
from tools.rig.nodes import Rig
from tools.rig.peer import LocalClient, StockWorker, wait_until
from tools.rig.peer_frames import build_frames
from tools.rig.ports import HOST
from tools.rig.wdb_client import WdbClient, authd

pytestmark = pytest.mark.slow
MASTER, WORKER = NAMES = ["rig_manager_1", "rig_manager_2"]
S2_ARGUMENTS = {
    "filter_node": None, "offset": 0, "limit": 500, "sort": None, "search": None, "select": None, "filter_type": "all",
    "distinct": False,
}  # fmt: skip
KEYS = [
    "f", "f_kwargs", "request_type", "wait_for_complete", "from_cluster", "is_async", "local_client_arg",
    "basic_services", "rbac_permissions", "current_user", "broadcasting", "nodes", "api_timeout",
]  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """None of its processes may end, whatever this module sends."""
    with rigs() as make:
        made = make(1)
        (made.master.root / "etc/client.keys").write_text("")
        made.start()
        made.wait_equal(60)
        before = [made.processes(name) for name in NAMES]
        yield made
        assert [made.processes(name) for name in NAMES] == before


def heard(client: LocalClient) -> list[tuple[str, bytes]]:
    """Requests of the daemon to this client, in their order."""
    return [(one.command, one.payload) for one in list(client.link.record) if one.is_request and not one.sent]


def later(client: LocalClient, command: str) -> bytes:
    """Returns the payload of a request of the daemon."""
    return client.link.wait_for(lambda one: one.is_request and not one.sent and one.command == command).payload


def test_s1_get_health_on_the_master(rig: Rig) -> None:
    with client_of(rig.master) as client:
        reply = client.ask("get_health", json.dumps([WORKER]))
        found = json.loads(reply.payload)
        assert reply.command == b"ok"
        assert (found["n_connected_nodes"], list(found["nodes"])) == (1, [WORKER])
        assert list(found["nodes"][WORKER]) == ["info", "status"]
        assert list(json.loads(client.ask("get_health", "null").payload)["nodes"]) == [WORKER, MASTER]
        assert heard(client) == []


def test_s2_get_nodes_on_a_worker(rig: Rig) -> None:
    with client_of(rig.workers[0]) as client:
        assert client.ask("get_nodes", json.dumps(S2_ARGUMENTS)).payload == b"Sent request to master node"
        found = json.loads(later(client, "control_res"))
        assert [item["name"] for item in found["items"]] == NAMES
        assert found["totalItems"] == 2
        assert [list(item) for item in found["items"]] == [["name", "type", "version", "ip"]] * 2
    with client_of(rig.workers[0]) as client:
        client.ask("get_nodes", json.dumps(S2_ARGUMENTS | {"filter_node": "nowhere"}))
        error = json.loads(later(client, "control_res"))["__wazuh_exception__"]
        assert (error["__class__"], error["__object__"]["code"]) == ("WazuhResourceNotFound", 1730)


def test_s3_dapi_on_the_master(rig: Rig) -> None:
    """The bytes that `cluster_control -a` of a stock node sends."""
    sent = (
        '{"f": {"__callable__": {"__name__": "get_agents_overview", "__module__": "wazuh.core.agent",'
        ' "__qualname__": "Agent.get_agents_overview", "__type__": "function"}},'
        ' "f_kwargs": {"filters": {"status": "all", "node_name": "all"}, "limit": null,'
        ' "select": ["id","ip","name","status","node_name","version"]},'
        ' "from_cluster": false, "wait_for_complete": false}'
    )
    with client_of(rig.master) as client:
        assert client.ask("dapi", sent).payload == b"Added request to API requests queue"
        name = later(client, "dapi_res")
        (first, size), *chunks, last = heard(client)
        assert first == "new_str"
        assert {command for command, _ in chunks} == {"str_upd"}
        assert last == ("dapi_res", name)
        assert all(payload.split(b" ", 1)[0] == name for _, payload in chunks)
        text = b"".join(payload.split(b" ", 1)[1] for _, payload in chunks)
        assert len(text) == int(size)
    assert text.isascii()
    assert text.startswith(
        b'{"__wazuh_result__": {"__class__": "WazuhResult", "__object__": {"str_priority": null,'
        b' "result": {"items": [{"id": "000"'
    )
    assert json.loads(text)["__wazuh_result__"]["__object__"]["result"]["totalItems"] >= 1


def test_s4_dapi_of_a_worker_solved_on_a_stock_worker(rig: Rig, tmp_path: Path) -> None:
    """The other half of S4: what a stock worker gets, and what becomes of its answer."""
    asked: list[dict[str, Any]] = []
    policy = {"policy_id": "cis", "pass": 3}
    content = {
        "affected_items": [policy], "sort_fields": None, "sort_casting": ["str"], "sort_ascending": [True],
        "total_affected_items": 1, "total_failed_items": 0, "dikt": {}, "all_msg": "All", "some_msg": "Some",
        "none_msg": "None", "failed_items_keys": [], "failed_items_values": [],
    }  # fmt: skip

    def api(request: dict[str, Any]) -> object:
        asked.append(request)
        return {"__wazuh_result__": {"__class__": "AffectedItemsWazuhResult", "__object__": content}}

    added = authd(rig.master.root, {"function": "add", "arguments": {"name": "s4", "ip": "any"}})
    agent = added["data"]["id"]
    with (
        StockWorker((HOST, rig.master.port), KEY, "stock2", tmp_path, cluster="rig", api=api) as solver,
        WdbClient(rig.master.root) as database,
    ):
        solver.join()
        known = f"select id from agent where id = {int(agent)}"
        wait_until(lambda: bool(database.rows(known)), 60, "the master knows the agent")
        database.command(
            "global update-agent-data "
            f'{{"id":{int(agent)},"name":"s4","version":"Wazuh v4.14.1","sync_status":"synced",'
            '"connection_status":"active","group_config_status":"synced","node_name":"stock2"}'
        )
        arguments = {"agent_list": [agent], "offset": 0, "limit": 500, "distinct": False, "filters": {}}
        answer = ask(
            rig.workers[0], "wazuh.sca", "get_sca_list", arguments, request_type="distributed_master", api_timeout=10
        )
        command = next(one for one in solver.record if one.command == "dapi" and not one.sent).payload
    assert result(answer)["affected_items"] == [policy]
    (got,) = asked
    assert list(got) == KEYS
    assert got["f"] == named("wazuh.sca", "get_sca_list")
    assert got["from_cluster"] is True
    assert got["f_kwargs"] == arguments
    name = command.split(b" ", 1)[0].decode()
    assert len(name) >= 12, "an id that another node could guess"


def test_s5_and_s6_the_asker_spreads_a_question_and_merges(rig: Rig) -> None:
    with client_of(rig.master) as lister:
        listed = json.loads(lister.ask("get_nodes", json.dumps(S2_ARGUMENTS | {"filter_node": NAMES})).payload)
        assert listed["totalItems"] == 2
    wanted = request(
        "wazuh.cluster", "get_ruleset_sync_status", {"master_md5": {}},
        request_type="distributed_master", from_cluster=True, broadcasting=True, nodes=NAMES,
    )  # fmt: skip
    with client_of(rig.master) as client:
        assert client.ask("dapi_fwd", f"{WORKER} {wanted}").payload == b"Request forwarded to worker node"
        found = json.loads(client.answer_of("dapi_res"))
        assert [item["name"] for item in result(found)["affected_items"]] == [WORKER]
        refused = client.ask("dapi_fwd", f"gone {wanted}")
        assert refused.command == b"err"
        error = json.loads(refused.payload)["__wazuh_exception__"]
        assert (error["__class__"], error["__object__"]["code"]) == ("WazuhClusterError", 3022)


def test_s7_failure_before_execution(rig: Rig) -> None:
    """An unreadable request gets a `dapi_err` with a JSON exception; an unknown function gets a normal answer (8.2)."""
    for node in rig.nodes:
        with client_of(node) as client:
            assert client.ask("dapi", '{"f": {"__callable__": ').payload == b"Added request to API requests queue"
            assert failure(json.loads(later(client, "dapi_err")))["code"] == 1000
        assert failure(ask(node, "wazuh.nosuch", "x"))["extra_message"] == "function not available: wazuh.nosuch.x"


# ---- replies at once (dapi.md 1.3): a text, or the code of a JSON exception ------------------------------------------

SENT, UNKNOWN = "Sent request to master node", "unknown command 'b'{}''"
QUEUED = "Added request to API requests queue"


@pytest.mark.parametrize(
    ("command", "payload", "on_master", "on_worker"),
    [
        ("echo", "abc", "abc", "abc"),
        ("get_nodes", '{"invented": 1}', 1000, SENT),
        ("get_nodes", "{", 1000, SENT),
        ("get_nodes", '{"filter_type": "x"}', 1728, SENT),
        ("get_nodes", '{"select": ["x"]}', 1724, SENT),
        ("get_nodes", '{"sort": {"fields": ["x"], "order": "asc"}}', 1403, SENT),
        ("get_nodes", '{"limit": 0}', 1406, SENT),
        ("get_nodes", '{"limit": 100001}', 1405, SENT),
        ("get_nodes", '{"filter_node": "nowhere"}', 1730, SENT),
        ("get_health", "5", 1000, SENT),
        ("send_file", "one-word", 1000, 1000),
        ("send_file", f"/etc/passwd {WORKER}", 4000, 4000),
        ("send_file", f"../../../etc/passwd {WORKER}", 4000, 4000),
        ("send_file", f"queue/cluster/../../etc/client.keys {WORKER}", 4000, 4000),
        ("dapi", "nothing", QUEUED, QUEUED),
        ("dapi_fwd", "one-word", 1000, UNKNOWN),
        ("dapi_fwd", "nowhere {}", 3022, UNKNOWN),
        ("dapi_fwd", f"{MASTER} {{}}", 3022, UNKNOWN),
        ("sendasync", "{", UNKNOWN, 1000),
        ("sendrreload", "", UNKNOWN, '{"success": true}'),
        ("hello", "4711 rig worker 4.14.1", UNKNOWN, UNKNOWN),
        ("invented", "", UNKNOWN, UNKNOWN),
        ("new_file", "/../../tmp/planted", UNKNOWN, UNKNOWN),
        ("new_str", "99999999999", UNKNOWN, UNKNOWN),
        ("dapi_res", "1", UNKNOWN, UNKNOWN),
        ("syn_i_w_m", "", UNKNOWN, UNKNOWN),
    ],
)
def test_commands_are_answered_at_once_as_documented(
    rig: Rig, command: str, payload: str, on_master: int | str, on_worker: int | str
) -> None:
    for node, expected in zip(rig.nodes, (on_master, on_worker), strict=True):
        with client_of(node) as client:
            reply = client.ask(command, payload)
            text = reply.payload.decode()
            if isinstance(expected, int):
                assert reply.command == b"err"
                assert failure(json.loads(text))["code"] == expected
            else:
                assert text == expected.format(command) if expected == UNKNOWN else text == expected


def test_the_key_is_in_no_answer(rig: Rig) -> None:
    for node in rig.nodes:
        with client_of(node) as client:
            config = json.loads(client.ask("get_config").payload)
        assert list(config) == [
            "name",
            "node_name",
            "node_type",
            "key",
            "port",
            "bind_addr",
            "nodes",
            "hidden",
            "disabled",
        ]
        assert config["key"] == "*****"
        answer = ask(node, "wazuh.cluster", "read_config_wrapper", request_type="local_any")
        assert KEY not in json.dumps(answer)


def test_get_hash_is_blake2b_of_rules_decoders_and_lists(rig: Rig) -> None:
    expected = {}
    for directory in ("etc/rules", "etc/decoders", "etc/lists"):
        for file in (rig.master.root / directory).rglob("*"):
            if file.is_file() and not file.name.endswith(("~", ".tmp", ".lock", ".swp")):
                expected[str(file.relative_to(rig.master.root))] = hashlib.blake2b(file.read_bytes()).hexdigest()
    for node in rig.nodes:
        with client_of(node) as client:
            assert json.loads(client.ask("get_hash").payload) == expected


# ---- the attack list that other files do not have (dapi.md 8) --------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        {"rbac_permissions": []},
        {"rbac_permissions": {"rbac_mode": ["black"]}},
        {"rbac_permissions": {"rbac_mode": "white", "cluster:read": {"node:id:*": {"__callable__": {}}}}},
        {"rbac_permissions": {"rbac_mode": "white", "cluster:read": [["node:id:*", "allow"]]}},
        {"rbac_permissions": {"rbac_mode": "white", "cluster:read": {"node:id:*&" * 1000: "allow"}}},
        {"nodes": "rig_manager_1"},
        {"nodes": [["rig_manager_1"]]},
        {"nodes": [f"n{number}" for number in range(20_000)]},
        {"basic_services": ["../../../bin/sh", "wazuh-db\n"]},
        {"local_client_arg": "filter_node"},
        {"api_timeout": -1},
        {"api_timeout": "long"},
        {"current_user": {"__unhandled_exc__": {"__class__": "SystemExit", "__args__": [0]}}},
        {"invented": 1},
    ],
    ids=lambda forged: json.dumps(forged)[:60],
)
def test_forged_fields_of_a_worker_are_answered_and_give_nothing_away(rig: Rig, tmp_path: Path, forged: Any) -> None:
    with StockWorker((HOST, rig.master.port), KEY, "forger", tmp_path, cluster="rig") as worker:
        worker.join()
        worker.ask("dapi", f"7 {request('wazuh.cluster', 'get_nodes_info', **forged)}")

        def answers() -> list[bytes]:
            return [one.payload for one in worker.record if not one.sent and one.command in ("dapi_res", "dapi_err")]

        wait_until(lambda: bool(answers()), 60, "the forger has an answer")
        (answer,) = answers()
        assert answer.startswith(b"7 ")
        if "rbac_permissions" in forged and worker.forwarded:
            told = json.loads(worker.connection.take_string(answer.split(b" ")[1].decode()))
            assert "__wazuh_exception__" in told or result(told)["affected_items"] == []


@pytest.mark.parametrize(
    "node_list", [["*"], ["rig_manager_2\nrig"], ["a*b"], ["x" * 5000], [1], {"a": 1}, 7], ids=repr
)
def test_forged_node_lists_are_failed_items_or_errors(rig: Rig, node_list: Any) -> None:
    wanted = {"node_list": node_list, "master_md5": {}}
    answer = ask(
        rig.workers[0],
        "wazuh.cluster",
        "get_ruleset_sync_status",
        wanted,
        request_type="distributed_master",
        nodes=NAMES,
    )
    if "__wazuh_result__" in answer:
        assert result(answer)["affected_items"] == []
        assert result(answer)["total_failed_items"] == 1
    else:
        assert failure(answer)["code"] in (1000, 1730)


@pytest.mark.parametrize(
    "deep",
    [
        '{"f_kwargs": ' + '{"a": ' * 5000 + "1" + "}" * 5000 + ', "f": %s}',
        '{"f_kwargs": {"q": ' + "[" * 5000 + "]" * 5000 + '}, "f": %s}',
        '{"f_kwargs": {"q": ' + '{"__wazuh_exception__": ' * 200 + "1" + "}" * 200 + '}, "f": %s}',
        '{"f_kwargs": {"q": 1e999999, "limit": ' + "9" * 10_000 + '}, "f": %s}',
        '{"f_kwargs": {"q": "' + "x" * 4_000_000 + '"}, "f": %s}',
    ],
    ids=["objects", "lists", "exceptions", "numbers", "text"],
)
def test_deep_and_huge_json_is_answered_with_an_error(rig: Rig, deep: str) -> None:
    for node in rig.nodes:
        with client_of(node) as client:
            text = deep % json.dumps(named("wazuh.cluster", "get_nodes_info"))
            assert client.ask("dapi", text).command == b"ok"
            wait_until(lambda c=client: any(n in ("dapi_res", "dapi_err") for n, _ in heard(c)), 60, "an answer")  # type: ignore[misc]
        assert result(ask(node, "wazuh.cluster", "get_status_json"))["result"]["data"]["running"] == "yes"


def test_clients_that_hang_up_or_never_read_affect_no_other_client(rig: Rig) -> None:
    """Each client asks a hundred times for an answer of some size; half of them leave at once, half stay and read
    nothing."""
    wanted = request("wazuh.rule", "get_rules_files", request_type="local_any").encode()
    silent: list[socket.socket] = []
    for number in range(20):
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(1)
        link.connect(str(rig.workers[0].root / "queue/cluster/c-internal.sock"))
        with contextlib.suppress(OSError):
            for counter in range(100):
                link.sendall(b"".join(build_frames(b"dapi", counter + 1, wanted, None)))
        if number % 2:
            silent.append(link)
        else:
            link.close()
    try:
        for _ in range(5):
            assert result(ask(rig.workers[0], "wazuh.cluster", "get_nodes_info"))["affected_items"]
    finally:
        for link in silent:
            link.close()
    assert len([line for line in log_of(rig.workers[0]) if "ERROR" in line]) < 50

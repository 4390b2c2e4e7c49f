"""What is left of the local socket's commands: send_file and sendrreload (dapi.md 1.9, 1.10), and questions while sync dies."""

import json
import os
import signal
from typing import Any

import pytest

from tests.conftest import KEY, MakeRig
from tests.fakes.daemon import FakeDaemon
from tools.rig.faults import signal_process
from tools.rig.nodes import HOST, Node, Rig
from tools.rig.peer import LocalClient, StockMaster, StockWorker, wait_until

pytestmark = pytest.mark.slow
ANALYSIS = "queue/sockets/analysis"


def client_of(node: Node) -> LocalClient:
    return LocalClient(node.root / "queue/cluster/c-internal.sock")


def code_of(answer: bytes) -> int:
    found: int = json.loads(answer)["__wazuh_exception__"]["__object__"]["code"]
    return found


def started(make_rig: MakeRig, workers: int = 1) -> Rig:
    rig = make_rig(workers)
    rig.start()
    rig.wait_equal(60)
    return rig


def sent(client: LocalClient) -> bytes:
    """The result of a send_file."""
    return client.take_string(client.answer_of("send_f_res").decode())


def test_file_reaches_the_node_that_is_named(make_rig: MakeRig, tmp_path: Any) -> None:
    rig = started(make_rig, 0)
    directory = rig.master.root / "queue/cluster/stock"
    directory.mkdir(exist_ok=True)
    path = directory / "x.bin"
    path.write_bytes(os.urandom(6_000_000))
    with (
        StockWorker((HOST, rig.master.port), KEY, "stock", tmp_path, cluster="rig") as worker,
        client_of(rig.master) as client,
    ):
        worker.join()
        assert client.ask("send_file", f"{path} stock").payload == b"Forwarding file to master node"
        assert sent(client) == b"6000000"
        assert (tmp_path / "queue/cluster/stock/x.bin").read_bytes() == path.read_bytes()


def test_worker_sends_to_its_master_and_hears_a_refusal(make_rig: MakeRig) -> None:
    """A master of ours takes files of the integrity sync only (dapi.md 8, number 6)."""
    rig = started(make_rig)
    worker = rig.workers[0]
    path = worker.root / "queue/cluster/rig_manager_2/x.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with client_of(worker) as client:
        assert client.ask("send_file", f"{path} None").command == b"ok"
        assert code_of(sent(client)) == 1000
    assert not (rig.master.root / "queue/cluster/rig_manager_2/x.txt").exists()


def test_files_that_are_not_to_be_sent_are_refused(make_rig: MakeRig) -> None:
    rig = started(make_rig)
    root = rig.master.root
    (root / "queue/cluster/link").symlink_to(root / "etc/client.keys")
    (root / "queue/cluster/file").write_bytes(b"x")
    with client_of(rig.master) as client:
        for path, code in (
            (f"{root}/etc/client.keys", 4000),
            (f"{root}/queue/cluster/../../etc/client.keys", 4000),
            (f"{root}/queue/cluster/link", 4000),
            (f"{root}/queue/cluster/.clusterd/state/x", 4000),
            (f"{root}/queue/cluster/nothing", 3034),
            (f"{root}/queue/cluster/c-internal.sock", 3034),
        ):
            answer = client.ask("send_file", f"{path} rig_manager_2")
            assert (answer.command, code_of(answer.payload)) == (b"err", code), path
        assert code_of(client.ask("send_file", f"{root}/queue/cluster/file nobody").payload) == 3022
        assert code_of(client.ask("send_file", "one").payload) == 1000


MAIN = "[Worker rig_manager_2] [Main] Ruleset"
RELOADS = [
    (
        b'{"error":0,"message":"ok","data":[]}',
        f"INFO: {MAIN} reload triggered by cluster integrity check: reload message sent successfully.",
    ),
    (
        b'{"error":0,"message":"ok","data":["one","two"]}',
        f"WARNING: {MAIN} reloaded with warnings after cluster integrity check: one, two",
    ),
    (
        b'{"error":1,"message":"due","data":["bad rule"]}',
        f"ERROR: {MAIN} reload failed after cluster integrity check: bad rule",
    ),
    (b"nonsense", f"ERROR: {MAIN} reload failed after cluster integrity check: JSON is malformed"),
]


def test_reload_is_sent_once_after_the_next_round(make_rig: MakeRig) -> None:
    rig = started(make_rig)
    worker = rig.workers[0]
    (worker.root / ANALYSIS).parent.mkdir(parents=True, exist_ok=True)
    log = worker.root / "logs/cluster.log"
    answers = [answer for answer, _ in RELOADS]
    with (
        FakeDaemon(worker.root / ANALYSIS, lambda request: answers[len(analysis.requests) - 1]) as analysis,
        client_of(worker) as client,
    ):
        for number, (_, line) in enumerate(RELOADS, 1):
            assert client.ask("sendrreload").payload == b'{"success": true}'
            wait_until(lambda line=line: line in log.read_text(), 20, line)  # type: ignore[misc]
            assert len(analysis.requests) == number
        assert {json.dumps(json.loads(one)) for one in analysis.requests} == {
            '{"version": 1, "origin": {"module": "cluster"}, "command": "reload-ruleset"}'
        }
        rounds = log.read_text().count("Finished in")
        wait_until(lambda: log.read_text().count("Finished in") > rounds + 2, 60, "further rounds")
        assert len(analysis.requests) == len(RELOADS)


def test_question_that_the_master_has_is_answered_when_a_sync_process_dies(make_rig: MakeRig) -> None:
    rig = started(make_rig)
    held = rig.processes("rig_manager_1")["sync"]
    own = rig.processes("rig_manager_2")["sync"]
    assert held is not None
    assert own is not None
    signal_process(held, signal.SIGSTOP)
    try:
        with client_of(rig.workers[0]) as client:
            assert client.ask("get_nodes", "{}").payload == b"Sent request to master node"
            signal_process(own, signal.SIGKILL)
            assert client.answer_of("err", 15)
    finally:
        signal_process(held, signal.SIGCONT)


def test_worker_without_a_master_refuses_what_needs_one(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    with StockMaster(rig.master.root, KEY, name="rig_manager_1", cluster="rig", port=rig.master.port) as master:
        rig.start("rig_manager_2")
        master.session("rig_manager_2")
    worker = rig.workers[0]
    wait_until(lambda: not rig.status("rig_manager_2")["rig_manager_2"]["peers"], 60, "the link is gone")
    with client_of(worker) as client:
        for command, payload in (
            ("get_nodes", "{}"),
            ("get_health", "null"),
            ("dapi", "{}"),
            ("send_file", f"{worker.root}/queue/cluster/x None"),
            ("sendrreload", ""),
        ):
            answer = client.ask(command, payload)
            assert (answer.command, code_of(answer.payload)) == (b"err", 3023), command

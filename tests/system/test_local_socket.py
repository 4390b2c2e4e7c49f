"""send_file between nodes (dapi.md 1.9), and questions while sync dies. Decisions:
tests/sync/test_local_commands.py."""

import os
import signal
from typing import Any

import pytest

from tests.conftest import KEY, MakeRig
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import LocalClient, StockWorker
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow


def client_of(node: RigNode) -> LocalClient:
    return LocalClient(node.root / "queue/cluster/c-internal.sock")


def started(make_rig: MakeRig, workers: int = 1) -> Rig:
    rig = make_rig(workers)
    rig.start()
    rig.wait_equal(60)
    return rig


def sent(client: LocalClient) -> bytes:
    """Returns the result of a send_file."""
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

"""A machine on which many processes compute: work that waits for a core is slow, and no process is taken for stuck.

CLUSTERD_STRESS_BUSY (25 processes for each core; 15 beside requests), CLUSTERD_STRESS_FILES (20000),
CLUSTERD_STRESS_MINUTES (2)."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clusterd.users import add_user, make_user
from tests.conftest import MakeRig
from tests.fakes.framework import FakeFramework
from tests.system.dapi_client import ask, client_of, request, result
from tools.rig import workload
from tools.rig.nodes import RigNode

BUSY = int(os.environ.get("CLUSTERD_STRESS_BUSY", "25"))
BUSY_BESIDE_REQUESTS = min(15, BUSY)
CLIENTS, ROUNDS = 4, 10
FILES = int(os.environ.get("CLUSTERD_STRESS_FILES", "20000"))
MINUTES = float(os.environ.get("CLUSTERD_STRESS_MINUTES", "2"))
SHORT_S = 3
"""`stuck_after`: a tenth of its default, on a machine that is much busier than one should be."""
PATIENCE_S = 900

pytestmark = [pytest.mark.stress, pytest.mark.timeout(MINUTES * 60 + 3 * PATIENCE_S)]


@contextlib.contextmanager
def everybody_computes(each: int = BUSY) -> Iterator[None]:
    """`each`: processes for each core. They have sessions of their own: where the kernel shares the CPU between
    sessions, each gets the share of a node's process."""
    line = [sys.executable, "-c", "while True: pass"]
    count = each * len(os.sched_getaffinity(0))
    busy = [subprocess.Popen(line, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_nothing_is_stuck_that_waits_for_a_core(make_rig: MakeRig) -> None:
    rig = make_rig(1, files=FILES, size=2_000, overrides={"clusterd": {"stuck_after": SHORT_S}})
    add_user(str(rig.master.root), make_user("admin", "correct horse battery", time.time()))
    with everybody_computes():
        rig.start()
        rig.wait_equal(PATIENCE_S, pause_s=5)
        before = {node.name: rig.processes(node.name) for node in rig.nodes}
        until, number = time.monotonic() + MINUTES * 60, 0
        while time.monotonic() < until:
            number += 1
            workload.change(rig.master.root, seed=number, edit=20, add=5, delete=5)
            right = {"user": "admin", "password": "correct horse battery"}
            answer = ask(rig.master, "api.authentication", "check_user_master", right, request_type="local_master")
            assert "__wazuh_result__" in answer, answer
            assert answer["__wazuh_result__"]["__object__"]["result"] == {"result": True}
            rig.wait_equal(PATIENCE_S, pause_s=5)
        assert {node.name: rig.processes(node.name) for node in rig.nodes} == before
    for node in rig.nodes:
        log = (node.root / "logs/cluster.log").read_text()
        assert "no sign of life" not in log
        assert "the process that ran it died" not in log
        assert [process["incarnation"] for process in rig.status()[node.name]["processes"]] == [1] * 8


@pytest.mark.parametrize("answers", ["ours", "the framework"])
def test_no_login_and_no_request_is_lost_beside_thirty_busy_processes(make_rig: MakeRig, answers: str) -> None:
    rig = make_rig(1)
    if answers == "the framework":
        FakeFramework(rig.master.root)
    add_user(str(rig.master.root), make_user("ann", "pw-of-ann", time.time()))
    rig.start()
    rig.wait_equal(60)
    mine = {"basic_services": ["wazuh-clusterd"], "request_type": "local_master"}
    if answers == "the framework":
        created = {"username": "ann", "password": "pw-of-ann"}
        result(ask(rig.master, "wazuh.security", "create_user", created, current_user="root", **mine))
    before = {node.name: rig.processes(node.name) for node in rig.nodes}
    right = {"user": "ann", "password": "pw-of-ann"}

    def one(number: int) -> None:
        node = rig.nodes[number % 2]
        for _ in range(ROUNDS):
            login = patiently(node, "api.authentication", "check_user_master", right, **mine)
            assert result(login)["result"] == {"result": True}
            for module, name, kind in (
                ("wazuh.cluster", "get_nodes_info", "local_master"),
                ("wazuh.agent", "get_agents", "local_master"),
                ("wazuh.rule", "get_rules_files", "local_any"),
            ):
                answer = patiently(node, module, name, **mine | {"request_type": kind})
                assert "affected_items" in result(answer), name

    with everybody_computes(BUSY_BESIDE_REQUESTS), ThreadPoolExecutor(CLIENTS) as programs:
        list(programs.map(one, range(CLIENTS)))
    assert {node.name: rig.processes(node.name) for node in rig.nodes} == before
    for node in rig.nodes:
        log = (node.root / "logs/cluster.log").read_text()
        assert "no sign of life" not in log
        assert "the process that ran it died" not in log


def patiently(node: RigNode, *what: Any, **fields: Any) -> Any:
    """Returns the answer, whenever it comes; the node's own limits hold as for every request."""
    with client_of(node) as client:
        client.ask("dapi", request(*what, **fields), timeout_s=PATIENCE_S)
        return json.loads(client.answer_of("dapi_res", PATIENCE_S))

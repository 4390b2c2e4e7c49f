"""A machine on which everybody computes: whatever waits for a core is slow, and nothing is taken for stuck.

CLUSTERD_STRESS_BUSY (25 processes for each core), CLUSTERD_STRESS_FILES (20000), CLUSTERD_STRESS_MINUTES (2)."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from clusterd.users import add_user, make_user
from tests.conftest import MakeRig
from tests.system.test_api import ask
from tools.rig import workload

BUSY = int(os.environ.get("CLUSTERD_STRESS_BUSY", "25"))
FILES = int(os.environ.get("CLUSTERD_STRESS_FILES", "20000"))
MINUTES = float(os.environ.get("CLUSTERD_STRESS_MINUTES", "2"))
SHORT_S = 3
"""`stuck_after`: a tenth of what it is by default, with a machine that is much busier than one should be."""
PATIENCE_S = 900

pytestmark = [pytest.mark.stress, pytest.mark.timeout(MINUTES * 60 + 3 * PATIENCE_S)]


@contextlib.contextmanager
def everybody_computes() -> Iterator[None]:
    """In sessions of their own: where the kernel shares the CPU between sessions, each has the share of a process of
    ours."""
    line = [sys.executable, "-c", "while True: pass"]
    count = BUSY * len(os.sched_getaffinity(0))
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

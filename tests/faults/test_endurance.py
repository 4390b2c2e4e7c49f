"""Memory stays flat while the files change for half an hour."""

import os
import time

import pytest

from tests.conftest import MakeRig
from tools.rig import workload
from tools.rig.nodes import Rig
from tools.rig.peer import wait_until

MINUTES = float(os.environ.get("CLUSTERD_STRESS_MINUTES", "30"))
LIMIT_BYTES = 150_000_000
GROWTH_BYTES = 10_000_000

pytestmark = [pytest.mark.stress, pytest.mark.timeout(MINUTES * 60 + 600)]


def uss_of(rig: Rig) -> dict[str, int]:
    """The sum of USS of each node's processes, in bytes."""
    return {node: sum(process["uss_bytes"] for process in facts["processes"]) for node, facts in rig.status().items()}


def test_memory_stays_flat_while_files_change(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    rig = make_rig(2, files=20_000, size=10_450, scale=0.3)
    rig.start()
    rig.wait_equal(120, pause_s=1)
    began, round_number = time.monotonic(), 0
    samples: list[dict[str, int]] = []
    while (passed := time.monotonic() - began) < MINUTES * 60:
        round_number += 1
        workload.change(rig.master.root, seed=round_number, edit=20, add=5, delete=5)
        if round_number % 5 == 0:
            workload.tamper(rig.workers[round_number % 2].root, seed=round_number)
        if round_number % 10 == 0:
            rig.wait_equal(60, pause_s=1)
            samples.append(uss_of(rig))
            with capsys.disabled():
                shown = ", ".join(f"{node[-1]}: {uss / 1e6:.1f}" for node, uss in samples[-1].items())
                print(f"\n{passed / 60:5.1f} min, {round_number} rounds, MB of nodes {shown}", end="", flush=True)
        until = time.monotonic() + 2
        wait_until(lambda at=until: time.monotonic() >= at, 3, "the next round")
    rig.wait_equal(60, pause_s=1)
    assert max(sample["rig_manager_1"] for sample in samples) < LIMIT_BYTES
    third = len(samples) // 3
    assert third
    for node in samples[0]:
        # A sample may fall into a scan, where the pool needs more for a moment: the highest of each period are compared.
        early, late = (max(sample[node] for sample in part) for part in (samples[third : 2 * third], samples[-third:]))
        assert late < early + GROWTH_BYTES, node

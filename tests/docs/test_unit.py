"""The systemd unit: its exposure as systemd judges it, and its capabilities, which are those that the daemon uses."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clusterd.supervisor.plan import ELECTION_STOP_S, LEAVE_S

UNIT = Path(__file__).parents[2] / "contrib/clusterd.service"
MOST_EXPOSURE = 3.0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_unit_exposes_little() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSURE


def test_a_node_that_cannot_start_is_not_started_again_and_again() -> None:
    """Bad configuration, no node there, a node that runs already, wrong usage: the codes of clusterd/exits.py."""
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert set(line.split()) == {"2", "4", "5", "64"}


def test_a_stop_is_not_cut_short() -> None:
    """`on_demote` that is killed leaves the address of the master on two machines."""
    (limit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    others_s = 33.0  # the stages of plan() one after the other
    assert int(limit_s) >= LEAVE_S + others_s + ELECTION_STOP_S + 10.0


def test_a_root_that_is_not_there_is_told_by_clusterd() -> None:
    """systemd itself fails with 226/NAMESPACE, every five seconds, and says nothing of a node."""
    (paths,) = re.findall(r"^ReadWritePaths=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert all(path.startswith("-") for path in paths.split())

"""What the processes of a running node may do, and what other users may see of them."""

import os
import pwd
import resource
from pathlib import Path

import psutil
import pytest

from tests.conftest import MakeRig

pytestmark = pytest.mark.slow


def has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.mark.skipif(os.geteuid() != 0 or has_user("wazuh"), reason="needs root, and no user wazuh")
def test_a_node_that_is_root_by_accident_shows_it(make_rig: MakeRig) -> None:
    rig = make_rig(0, overrides={"clusterd": {"owner": ""}})
    rig.start()
    (facts,) = rig.status(rig.master.name).values()
    assert facts["problems"]["rights"].startswith("the node runs as root")
    log = (rig.master.root / "logs/cluster.log").read_text()
    assert log.count("the node runs as root") == 1


def test_no_process_of_a_node_leaves_a_core(make_rig: MakeRig) -> None:
    rig = make_rig(0)
    rig.start()
    pids = [pid for pid in rig.processes(rig.master.name).values() if pid is not None]
    assert len(pids) >= 5
    for pid in pids:
        assert psutil.Process(pid).rlimit(resource.RLIMIT_CORE) == (0, 0)
        assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()

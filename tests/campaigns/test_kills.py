"""Processes killed at random moments while files change without a pause and several syncs overlap: no reader ever sees a part of a
file, and afterwards all is equal and nothing is left."""

import contextlib
import signal
import time

import pytest

from tests.campaigns.frame import MINUTES, Campaign, Edits, Readers, must_be_well, running
from tests.conftest import MakeRig
from tools.rig.faults import signal_process, tell_link
from tools.rig.nodes import Rig, RigError
from tools.rig.peer import wait_until

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

WORKERS = 3
SLOW_BYTES = 400_000


def kill_one(rig: Rig, campaign: Campaign) -> None:
    """A child of any node; one time in ten the supervisor, and the node is started again."""
    rng = campaign.rng
    node = rng.choice(rig.nodes)
    try:
        alive = {name: pid for name, pid in rig.processes(node.name).items() if pid}
    except RigError:
        return  # it is coming up
    name = "supervisor" if rng.random() < 0.1 else rng.choice(sorted(alive.keys() - {"supervisor"}) or ["supervisor"])
    with contextlib.suppress(ProcessLookupError):
        signal_process(alive[name], signal.SIGKILL)
        campaign.counts["kills"] += 1
    if name == "supervisor":
        campaign.counts["kills of a supervisor"] += 1
        wait_until(lambda: started(rig, node.name), 90, f"{node.name} starts again")


def started(rig: Rig, name: str) -> bool:
    with contextlib.suppress(RigError):
        rig.start(name)
        return True
    return False


def test_kills_while_syncs_overlap(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    with running("kills", capsys) as campaign:
        rig = make_rig(WORKERS, links=True, files=300)
        edits, readers = Edits(campaign, rig.master.root), Readers(campaign, rig.workers)
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        slow = rig.workers[-1]
        assert slow.link_control
        with readers:
            with edits:
                tell_link(slow.link_control, "slow", SLOW_BYTES)  # its syncs overlap those of the others
                while campaign.goes_on:
                    kill_one(rig, campaign)
                    time.sleep(campaign.rng.uniform(0, 1.5))
                tell_link(slow.link_control, "mend")
            must_be_well(rig, campaign)
        assert not readers.torn
        assert campaign.counts["reads"] > 100

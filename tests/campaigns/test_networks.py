"""Links are cut, go silent in one direction or both, lose an address, become slow and recover, in any order, while
files change: no reader ever sees a part of a file, and once the links work again all nodes are equal."""

import contextlib
import time

import pytest

from tests.campaigns.frame import MINUTES, Edits, Readers, must_be_well, running
from tests.conftest import MakeRig
from tools.rig.faults import LinkCommand, tell_link

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

FAULTS: tuple[LinkCommand, ...] = ("cut", "silence", "silence-up", "silence-down", "strand", "slow")
SOON = {"intervals": {"worker": {"keep_alive": 3, "connection_retry": 1}}}


def test_networks_while_files_change(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    with running("networks", capsys) as campaign:
        rng = campaign.rng
        rig = make_rig(3, links=True, files=300, overrides=SOON)
        edits, readers = Edits(campaign, rig.master.root), Readers(campaign, rig.workers)
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        controls = [node.link_control for node in rig.workers if node.link_control]
        with readers:
            with edits:
                while campaign.goes_on:
                    control = rng.choice(controls)
                    fault = rng.choice(FAULTS)
                    with contextlib.suppress(TimeoutError):
                        tell_link(control, fault, rng.randrange(5_000, 200_000) if fault == "slow" else None)
                        campaign.counts[fault] += 1
                    time.sleep(rng.uniform(0, 4))
                    if rng.random() < 0.7:
                        tell_link(control, "mend")
                for control in controls:
                    tell_link(control, "mend")
            must_be_well(rig, campaign)
        assert not readers.torn

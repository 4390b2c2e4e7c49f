"""A network that stalls, in one direction or both, or leads elsewhere from one moment on: soon after it is mended all is equal."""

import random
import time

import pytest

from tests.conftest import MakeRig
from tools.rig.faults import LinkCommand, tell_link
from tools.rig.nodes import Rig
from tools.rig.peer import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STALL_S = 50
HEALED_S = 50
"""It takes 20; before there was a pulse it took two minutes."""


def tell(rig: Rig, command: LinkCommand, bytes_per_s: int | None = None) -> int:
    node = rig.workers[0]
    assert node.link_control is not None
    return tell_link(node.link_control, command, bytes_per_s)


@pytest.mark.parametrize("command", ["silence", "silence-up", "silence-down"])
def test_a_stall_while_a_package_is_under_way_costs_no_more_than_the_stall(
    make_rig: MakeRig, command: LinkCommand
) -> None:
    rig = make_rig(1, links=True, scale=1.0)
    rig.start()
    rig.wait_equal(60)
    tell(rig, "slow", 3_000_000)
    carried = tell(rig, "carried")
    for number in range(12):  # more than the system buffers
        (rig.master.root / f"etc/rules/large_{number}.xml").write_bytes(random.randbytes(2_500_000))
    wait_until(lambda: tell(rig, "carried") > carried + 2_000_000, 60, "a package is under way")
    tell(rig, command)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > STALL_S, STALL_S + 5, "it lasts")
    tell(rig, "mend")
    rig.wait_equal(HEALED_S)


def test_an_address_that_leads_nowhere_from_one_moment_on_is_soon_dialled_anew(make_rig: MakeRig) -> None:
    """Nobody hears that the old connection is gone, on either side: no reset, no end."""
    rig = make_rig(1, links=True, scale=1.0)
    rig.start()
    rig.wait_equal(60)
    tell(rig, "strand")
    (rig.master.root / "etc/rules/new.xml").write_text("<group/>")
    rig.wait_equal(HEALED_S)

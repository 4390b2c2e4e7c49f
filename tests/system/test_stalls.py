"""A network that stalls, in one direction or both, or whose address suddenly leads nowhere: soon after it is mended all
nodes are equal."""

import random
import time

import pytest

from tests.conftest import MakeRig
from tools.rig.faults import LinkCommand, tell_link
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow

HEALED_S = 50
"""It takes 20 s; before there was a pulse it took two minutes."""
COMMANDS: tuple[LinkCommand, ...] = ("silence", "silence-up", "silence-down")


def tell(node: RigNode, command: LinkCommand, bytes_per_s: int | None = None) -> int:
    assert node.link_control is not None
    return tell_link(node.link_control, command, bytes_per_s)


def started(make_rig: MakeRig, workers: int) -> Rig:
    rig = make_rig(workers, links=True, scale=1.0)
    rig.start()
    rig.wait_equal(60)
    return rig


@pytest.mark.parametrize("stall_s", [15, pytest.param(50, marks=pytest.mark.stress)])
def test_a_stall_while_a_package_is_under_way_costs_no_more_than_the_stall(make_rig: MakeRig, stall_s: int) -> None:
    """15 s: longer than a peer may be silent. 50 s: also longer than the time-out of what is sent meanwhile."""
    rig = started(make_rig, len(COMMANDS))
    carried = {}
    for node in rig.workers:
        tell(node, "slow", 3_000_000)
        carried[node.name] = tell(node, "carried")
    for number in range(6):  # more than the system buffers
        (rig.master.root / f"etc/rules/large_{number}.xml").write_bytes(random.randbytes(2_500_000))
    for node in rig.workers:
        wait_until(
            lambda node=node: tell(node, "carried") > carried[node.name] + 2_000_000,  # type: ignore[misc]
            60,
            "a package is under way",
        )
    for node, command in zip(rig.workers, COMMANDS, strict=True):
        tell(node, command)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > stall_s, stall_s + 60, "it lasts")
    for node in rig.workers:
        tell(node, "mend")
    rig.wait_equal(HEALED_S)


def test_a_connection_whose_address_disappears_is_soon_made_again(make_rig: MakeRig) -> None:
    """Neither side learns that the old connection is gone: no reset, no end."""
    rig = started(make_rig, 1)
    tell(rig.workers[0], "strand")
    (rig.master.root / "etc/rules/new.xml").write_text("<group/>")
    rig.wait_equal(HEALED_S)

"""A node holds few descriptors: after a fork it closes those that it does not need, and shares those that it can."""

import contextlib
import os
from collections import Counter

import pytest

from tests.conftest import MakeRig
from tools.rig.nodes import Rig
from tools.rig.peer import PeerError, wait_until

pytestmark = pytest.mark.slow

MOST = 119
"""A master with four workers and two cores has 117, and one for the monitoring port; each further worker costs one.
Public thresholds for a master with ten workers are 111 to 129."""


def held(rig: Rig, name: str) -> dict[str, list[str]]:
    """Returns the open files of each process of a node."""
    found = {}
    for process, pid in rig.processes(name).items():
        links = []
        for fd in os.listdir(f"/proc/{pid}/fd") if pid else ():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}").replace(str(rig.directory), ""))
        found[process] = sorted(links)
    return found


def test_master_with_four_workers_holds_few_descriptors(make_rig: MakeRig) -> None:
    rig = make_rig(4, scale=0.3)
    rig.start()
    rig.wait_equal(60)
    for node in rig.nodes:
        found: dict[str, list[str]] = {}

        def few(name: str = node.name, found: dict[str, list[str]] = found) -> bool:
            found.update(held(rig, name))  # the same look is judged and printed: jobs open files and close them again
            return sum(map(len, found.values())) <= MOST

        with contextlib.suppress(PeerError):
            wait_until(few, 60, "few descriptors")
        counts = "\n".join(f"{process}: {Counter(links)}" for process, links in found.items())
        assert sum(map(len, found.values())) <= MOST, counts
    for process, links in held(rig, "master").items():
        assert not [link for link in links if "memfd" in link or "pidfd" in link or "/board" in link], process
        assert len([link for link in links if "clusterd-crash.log" in link]) <= 1, process

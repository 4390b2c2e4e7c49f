"""Processes are killed at random moments while files change without a pause and several syncs overlap: no reader ever
sees a part of a file; afterwards all nodes are equal and nothing is left.

Each node has a killer of its own, which kills one to three children at once, waits until they are back, and repeats.
"""

import contextlib
import random
import signal
import threading
import time

import psutil
import pytest

from clusterd.pidfile import running_pid
from tests.campaigns.frame import MINUTES, Campaign, Edits, Readers, must_be_well, running
from tests.conftest import MakeRig
from tools.rig.faults import signal_process, tell_link
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.peer import wait_until

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

WORKERS = 3
SLOW_BYTES = 400_000
SUPERVISORS = 0.03
"""Share of the turns that kill the supervisor. The node then has to be started again, which takes as long as many other
kills."""
BACK_S = 90.0
NAME = "clusterd-"
"""A child's name begins with it, as the kernel shows it."""


class Killer(threading.Thread):
    """Kills children of one node, and now and then its supervisor, until `stop` is set."""

    def __init__(self, rig: Rig, node: RigNode, campaign: Campaign, stop: threading.Event) -> None:
        super().__init__(name=f"killer of {node.name}")
        self._rig = rig
        self._node = node
        self._campaign = campaign
        self._rng = random.Random(f"kills-{campaign.seed}-{node.name}")
        self._stopped = stop
        self._all = len(self._children())
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                if self._rng.random() < SUPERVISORS:
                    self._kill_supervisor()
                else:
                    self._kill_children()
                self._stopped.wait(self._rng.uniform(0, 1))
        except BaseException as failure:
            self.failure = failure

    def _children(self) -> dict[int, str]:
        """Returns pid to name of the living children."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(running_pid(str(self._node.root))).children():
                with contextlib.suppress(psutil.Error):
                    if child.status() != psutil.STATUS_ZOMBIE and child.name().startswith(NAME):
                        found[child.pid] = child.name().removeprefix(NAME)
        return found

    def _kill_children(self) -> None:
        children = self._children()
        for pid in self._rng.sample(sorted(children), min(len(children), self._rng.choice((1, 1, 2, 3)))):
            with contextlib.suppress(ProcessLookupError):
                signal_process(pid, signal.SIGKILL)
                self._campaign.counts["kills"] += 1
                self._campaign.counts[f"kills of {children[pid].partition('-')[0]}"] += 1
        wait_until(lambda: len(self._children()) >= self._all, BACK_S, f"all children of {self._node.name} are back")

    def _kill_supervisor(self) -> None:
        pid = running_pid(str(self._node.root))
        if pid is None:
            return
        signal_process(pid, signal.SIGKILL)
        self._campaign.counts["kills"] += 1
        self._campaign.counts["kills of supervisor"] += 1
        wait_until(self._is_up, BACK_S, f"{self._node.name} starts again")

    def _is_up(self) -> bool:
        with contextlib.suppress(RigError):
            self._rig.start(self._node.name)
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
        stop = threading.Event()
        killers = [Killer(rig, node, campaign, stop) for node in rig.nodes]
        with readers:
            with edits:
                tell_link(slow.link_control, "slow", SLOW_BYTES)  # its syncs overlap those of the others
                for killer in killers:
                    killer.start()
                while campaign.goes_on and not any(killer.failure for killer in killers):
                    time.sleep(0.2)
                stop.set()
                for killer in killers:
                    killer.join()
                tell_link(slow.link_control, "mend")
            assert not [killer.failure for killer in killers if killer.failure]
            must_be_well(rig, campaign)
        assert not readers.torn
        assert campaign.counts["reads"] > 100
        assert campaign.counts["contents that arrived"] > campaign.counts["kills"] / 10, "syncs go on between the kills"

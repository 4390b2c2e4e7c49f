"""Strangers and broken nodes attack the master's port without a pause while a legitimate worker is served: its echo is
answered, its files stay equal, the log has few lines about the attacks, and memory and descriptors are released."""

import contextlib
import random
import re
import threading
import time

import psutil
import pytest

from tests.campaigns.attacks import ATTACKS, answers_nothing, prepare
from tests.campaigns.frame import MINUTES, Campaign, Edits, must_be_well, running
from tests.conftest import KEY, MakeRig
from tools.rig.nodes import Rig
from tools.rig.peer import PeerError, ScriptedLink, dial, wait_until
from tools.rig.ports import HOST
from tools.rig.wdb_client import WdbClient

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

ECHO_S = 20.0
"""A worker gives up an echo after this long."""


def attack_on(rig: Rig, campaign: Campaign, number: int, stop: threading.Event, done: set[str]) -> None:
    rng = random.Random(f"attacks-{campaign.seed}-{number}")
    while not stop.is_set():
        names = sorted(ATTACKS)
        rng.shuffle(names)  # each of them as often as the others
        for name in names:
            if stop.is_set():
                break
            with contextlib.suppress(PeerError, OSError):
                ATTACKS[name](rig, rng)
            campaign.counts["attacks"] += 1
            done.add(name)


def held(rig: Rig) -> int:
    return sum(psutil.Process(pid).num_fds() for pid in rig.processes("master").values() if pid)


def test_attacks_beside_a_legitimate_worker(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    with running("attacks", capsys) as campaign:
        rig = make_rig(1, files=200)
        prepare(rig)
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        descriptors = held(rig)
        pids = rig.processes("master")
        stop, done = threading.Event(), set[str]()
        threads = [threading.Thread(target=attack_on, args=(rig, campaign, n, stop, done)) for n in range(4)]
        worst = 0.0
        for thread in threads:
            thread.start()
        try:
            with Edits(campaign, rig.master.root, pause_s=0.5):
                link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answers_nothing, "honest")
                link.start()
                assert link.ask("hello", "honest rig worker 4.14.1").command == b"ok"
                while campaign.goes_on:
                    began = time.monotonic()
                    assert link.ask("echo-c", "keepalive", ECHO_S).command == b"ok-m"
                    worst = max(worst, time.monotonic() - began)
                    campaign.counts["echoes"] += 1
                    time.sleep(0.1)
                link.close()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        campaign.say(f"slowest echo {worst * 1000:.0f} ms")
        assert rig.processes("master") == pids, "no process was lost"
        wait_until(lambda: held(rig) <= descriptors + 5, 60, "descriptors come back")
        log = (rig.master.root / "logs/cluster.log").read_text(errors="replace")
        assert "Unexpected failure" not in log
        assert len(log) < 5_000_000
        assert not re.search(r"^2026/11/29 00:00:00 ERROR: \[Cluster\] \[Main\] forged", log, re.MULTILINE), (
            "a text of others begins no line"
        )
        assert "\x1b" not in log
        assert not (rig.master.root / "etc/x").exists()
        with WdbClient(rig.master.root) as client:
            assert client.rows("select id from agent where id = 0"), "the table is there"
        campaign.counts["kinds of attacks"] = len(done)
        must_be_well(rig, campaign)

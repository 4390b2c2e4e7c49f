"""Strangers and broken nodes at the master's port, all the time, while a legitimate worker is served: its echo is answered, its
files stay equal, the log has few lines of them, and memory and descriptors come back."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.campaigns.frame import MINUTES, Campaign, Edits, must_be_well, running
from tests.conftest import KEY, MakeRig
from tools.rig.nodes import HOST, Rig
from tools.rig.peer import (
    Link,
    Message,
    PeerError,
    RawPeer,
    dial,
    divided_without_end,
    garbage,
    half_header,
    huge_length,
    wait_until,
)

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

Attack = Callable[[Rig, random.Random], None]
ECHO_S = 20.0
"""A worker gives up an echo after this long."""


def answers_nothing(message: Message) -> tuple[bytes, bytes] | None:
    return None


def raw(content: Callable[[random.Random], bytes]) -> Attack:
    def attack(rig: Rig, rng: random.Random) -> None:
        with RawPeer((HOST, rig.master.port)) as peer:
            peer.send(content(rng))
            time.sleep(rng.uniform(0, 1))

    return attack


def idle(rig: Rig, rng: random.Random) -> None:
    peers = [RawPeer((HOST, rig.master.port)) for _ in range(30)]
    time.sleep(rng.uniform(0, 2))
    for peer in peers:
        peer.close()


def wrong_key(rig: Rig, rng: random.Random) -> None:
    link = Link(dial((HOST, rig.master.port)), "f" * 32, answers_nothing, "x")
    link.start()
    try:
        link.tell("hello", "x rig worker 4.14.1")
        time.sleep(rng.uniform(0, 1))
    finally:
        link.close()


def node(
    *asked: tuple[str, bytes], answers: Callable[[Message], tuple[bytes, bytes] | None] = answers_nothing
) -> Attack:
    """One that has the key and is broken or means harm."""

    def attack(rig: Rig, rng: random.Random) -> None:
        name = f"evil{rng.randrange(10**6)}"
        link = Link(dial((HOST, rig.master.port)), KEY, answers, name)
        link.start()
        try:
            link.ask("hello", f"{name} rig worker 4.14.1")
            for command, payload in asked:
                link.tell(command, payload)
            time.sleep(rng.uniform(0, 2))
        finally:
            link.close()

    return attack


DEEP = b"[" * 100_000
ATTACKS: dict[str, Attack] = {
    "length of 4 GiB": raw(lambda rng: huge_length()),
    "garbage": raw(lambda rng: garbage(100_000, rng.randrange(10**6))),
    "half a header": raw(lambda rng: half_header()),
    "divided without end": raw(lambda rng: b"".join(divided_without_end(20, 1_000_000))),
    "idle connections": idle,
    "wrong key": wrong_key,
    "paths that climb": node(("new_file", b"/queue/cluster/../../etc/x"), ("new_file", b"/etc/passwd")),
    "file without end": node(
        ("new_file", b"/queue/cluster/evil/x"), *[("file_upd", b"/queue/cluster/evil/x " + b"x" * 90_000)] * 20
    ),
    "string without end": node(("new_str", b"999999999999"), ("new_str", b"-1"), ("new_str", b"x")),
    "deep JSON": node(("dapi", b"id " + DEEP), ("get_nodes", DEEP), ("syn_i_w_m_r", b"None " + DEEP), ("caps", DEEP)),
    "unknown commands": node(*[(f"nothing{n}", b"x" * 1000) for n in range(200)]),
    "flood of requests": node(*[("echo", b"x" * 5000)] * 500),
    "checks without a package": node(*[("syn_i_w_m", b"")] * 20),
    "digests that cannot be": node(*[("syn_digest", b"\xff" * 500)] * 50, ("syn_buckets", b"\xff" * 100_000)),
    "functions that are none": node(
        *[("dapi", b"id " + json.dumps({"f": {"__callable__": {"__name__": "system", "__module__": "os"}}}).encode())]
        * 20
    ),
    "names of others": node(
        ("hello", b"rig_manager_1 rig worker 4.14.1"), ("hello", b"rig_manager_2 rig worker 4.14.1")
    ),
}


def attack_on(rig: Rig, campaign: Campaign, number: int, stop: threading.Event) -> None:
    rng = random.Random(f"attacks-{campaign.seed}-{number}")
    while not stop.is_set():
        name = rng.choice(sorted(ATTACKS))
        with contextlib.suppress(PeerError, OSError):
            ATTACKS[name](rig, rng)
        campaign.counts["attacks"] += 1


def held(rig: Rig) -> int:
    return sum(psutil.Process(pid).num_fds() for pid in rig.processes("master").values() if pid)


def test_attacks_beside_a_legitimate_worker(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    with running("attacks", capsys) as campaign:
        rig = make_rig(1, files=200)
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        descriptors = held(rig)
        pids = rig.processes("master")
        stop = threading.Event()
        threads = [threading.Thread(target=attack_on, args=(rig, campaign, n, stop)) for n in range(4)]
        worst = 0.0
        for thread in threads:
            thread.start()
        try:
            with Edits(campaign, rig.master.root, pause_s=0.5):
                link = Link(dial((HOST, rig.master.port)), KEY, answers_nothing, "honest")
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
        assert not (rig.master.root / "etc/x").exists()
        must_be_well(rig, campaign)

"""Masters are lost in every way while 20 clients register, delete and assign agents through all nodes: two nodes never
lead, nothing that was answered is lost, no id is given twice, every file is old or new, and at the end all nodes hold
the same (docs/ha.md; the checker: history.py).

`make campaign failover MINUTES=35` prints a line for each round, the times at the end, and writes the history beside.

CLUSTERD_CAMPAIGN_MINUTES   no round begins after it
CLUSTERD_FAILOVER_ROUNDS    of the long form, 200 at most
CLUSTERD_FAILOVER_KINDS     words: what comes again and again in another order, each as often as its word is there
"""

import os
import random
import resource
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from tests.campaigns.failover import CALM_S, GROUP, Clients, Faults, LeaderEdits, Observer, committed_by, held_by
from tests.campaigns.figures import counts, first_answer, told
from tests.campaigns.frame import SEED, Campaign, Readers, left_behind, running
from tests.campaigns.history import History, Round, wrong
from tests.conftest import MakeRig
from tools.rig import candidates
from tools.rig.nodes import Rig

ROUNDS = int(os.environ.get("CLUSTERD_FAILOVER_ROUNDS", "200"))
LEASE_S = 6
CLIENTS = 20
TWICE = "kill kill stop switchover switchover freeze busy cut_etcd cut_peers cut_all etcd_member"
KINDS = os.environ.get("CLUSTERD_FAILOVER_KINDS", TWICE).split()
SHORT = (("cut_peers", 7), ("etcd_member", 6), ("busy", 2), ("freeze", 2), ("cut_etcd", 1), ("cut_all", 1), ("kill", 1))
"""In `make test`, 20 rounds; most are of those that cost little. A switchover and a stop, with clients that ask all the
time, are in tests/system/test_election.py."""
SHORT_LEASE_S = 5


def make(make_rig: MakeRig, workers: int, lease_s: int = LEASE_S) -> Rig:
    """Three candidates, plain workers, three members of etcd, not started."""
    rig = make_rig(2 + workers)
    (rig.master.root / "etc/client.keys").write_text("")
    group = rig.master.root / "etc/shared" / GROUP
    group.mkdir(parents=True, exist_ok=True)
    group.chmod(0o770)
    (group / "agent.conf").write_text("<agent_config></agent_config>\n")
    candidates.add_candidates(rig, 3, 3, lease_s=lease_s, synchronous_timeout=5)
    return rig


def play(
    rig: Rig,
    campaign: Campaign,
    kinds: Iterable[str],
    clients: int,
    pause_s: float,
    edit_s: float,
    history: History,
    file: Path,
    longest_s: float,
) -> None:
    """Makes these faults one after the other; waits after each until the cluster has recovered."""
    rig.start()
    with Observer(rig, history) as observer:
        faults = Faults(rig, observer, history, campaign.rng, longest_s)
        faults.until(faults.is_calm, "three candidates, one of which leads")
        edits, readers = LeaderEdits(campaign, rig, observer, edit_s), Readers(campaign, rig.nodes, 0.1)
        with readers, edits, Clients(rig, history, clients, campaign.seed, pause_s) as running_clients:
            for kind in kinds:
                play_round(rig, campaign, kind, faults, observer, running_clients, history)
                if not len(history.rounds) % 20:
                    file.write_bytes(msgspec.json.encode(history))
        assert not running_clients.failures
        assert not readers.torn
        end(rig, faults, history)


def play_round(
    rig: Rig, campaign: Campaign, kind: str, faults: Faults, observer: Observer, clients: Clients, history: History
) -> None:
    leader = faults.leader()
    faults.make(kind, rig.node(leader[0]))
    began = faults.began
    found: list[float] = []

    def is_answered() -> bool:
        took = first_answer(history, began, faults.since)
        found.extend([] if took is None else [took])
        return bool(clients.failures or found)

    faults.until(is_answered, f"a registration after {kind}")
    assert not clients.failures
    faults.until(faults.is_calm, f"three candidates after {kind} of {leader[0]}")
    campaign.counts[kind] += 1
    one = Round(kind, leader[0], began, time.monotonic(), found[0], faults.order_s)
    history.rounds.append(one)
    order = f"order {one.order_s:.1f} s, " if one.order_s else ""
    campaign.say(
        f"{len(history.rounds)} {kind} of {leader}: {order}answered after {one.answered_s:.1f} s,"
        f" calm after {one.calm - began:.1f} s"
    )


def shuffled(campaign: Campaign) -> Iterator[str]:
    """The kinds again and again, each time in another order, until the minutes are over."""
    while True:
        for kind in campaign.rng.sample(KINDS, len(KINDS)):
            if not campaign.goes_on:
                return
            yield kind


def end(rig: Rig, faults: Faults, history: History) -> None:
    """Waits until nothing changes any more, and returns what every node holds."""
    rig.wait_equal(CALM_S)

    def is_settled() -> bool:
        history.held, history.committed = held_by(rig), committed_by(rig)
        return not wrong(history)

    try:
        faults.until(is_settled, "all nodes hold the same")
    except AssertionError as failure:
        raise AssertionError("\n".join([*wrong(history)[:50], *failure.args])) from None
    faults.until(lambda: not left_behind(rig), "no temporary file is left")


def judge(history: History, campaign: Campaign) -> None:
    found = wrong(history)
    campaign.counts["registrations whose node and term are known"] = len(history.committed)
    assert not found, "\n".join(found[:50])


def run(
    rig: Rig,
    campaign: Campaign,
    kinds: Iterable[str],
    clients: int,
    file: Path,
    *,
    edit_s: float = 0.3,
    longest_s: float = LEASE_S,
) -> History:
    """Also tells the figures when something fails. `edit_s`: seconds between two edits of files; `longest_s`: see
    Faults."""
    history = History()
    campaign.say(f"history: {file}")
    try:
        play(rig, campaign, kinds, clients, 1.0, edit_s, history, file, longest_s)
        judge(history, campaign)
    finally:
        file.write_bytes(msgspec.json.encode(history))
        campaign.counts.update(counts(history))
        campaign.counts["looks at the boards"] = history.looks
        campaign.counts["MiB of memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        for line in told(history):
            campaign.say(line)
    return history


@pytest.mark.slow
def test_twenty_losses(make_rig: MakeRig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with running("failover", capsys) as campaign:
        kinds = [kind for kind, times in SHORT for _ in range(times)]
        random.Random(SEED).shuffle(kinds)
        rig = make(make_rig, 1, SHORT_LEASE_S)
        history = run(rig, campaign, kinds, 3, tmp_path / "history.json", edit_s=3.0, longest_s=2.0)
        assert len(history.rounds) == 20


@pytest.mark.stress
@pytest.mark.timeout(ROUNDS * 120 + 600)
def test_two_hundred_losses(make_rig: MakeRig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with running("failover", capsys) as campaign:
        kinds = islice(shuffled(campaign), ROUNDS)
        history = run(make(make_rig, 2), campaign, kinds, CLIENTS, tmp_path / "history.json")
        done = counts(history)
        assert min(done[f"{what} done"] for what in ("register", "delete", "assign")) > 10

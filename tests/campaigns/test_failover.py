"""Masters are lost in every way while 20 clients register, delete and assign agents through all nodes: two nodes never
lead, nothing that was answered is lost, no id is given twice, every file is old or new, and at the end all nodes hold
the same (docs/ha.md; the checker: history.py).

CLUSTERD_FAILOVER_ROUNDS of the long form, 200
"""

import os
import random
import time
from pathlib import Path

import msgspec
import pytest

from tests.campaigns.failover import CALM_S, GROUP, Clients, Faults, LeaderEdits, Observer, committed_by, held_by
from tests.campaigns.frame import SEED, Campaign, Readers, left_behind, running
from tests.campaigns.history import History, counts, first_answer, share, wrong
from tests.conftest import MakeRig
from tools.rig import candidates
from tools.rig.nodes import Rig

ROUNDS = int(os.environ.get("CLUSTERD_FAILOVER_ROUNDS", "200"))
LEASE_S = 6
CLIENTS = 20
KINDS = ("kill", "freeze", "cut_etcd", "cut_peers", "cut_all", "etcd_member", "switchover")
SHORT = ("kill", "freeze", "cut_etcd", "etcd_member", "switchover")


def make(make_rig: MakeRig, workers: int) -> Rig:
    """Three candidates, plain workers, three members of etcd, not started."""
    rig = make_rig(2 + workers)
    (rig.master.root / "etc/client.keys").write_text("")
    group = rig.master.root / "etc/shared" / GROUP
    group.mkdir(parents=True, exist_ok=True)
    group.chmod(0o770)
    (group / "agent.conf").write_text("<agent_config></agent_config>\n")
    candidates.add_candidates(rig, 3, 3, lease_s=LEASE_S, synchronous_timeout=5)
    return rig


def play(rig: Rig, campaign: Campaign, kinds: list[str], clients: int, pause_s: float) -> History:
    """Makes these faults one after the other; waits after each until the cluster has recovered."""
    history = History()
    rig.start()
    with Observer(rig, history) as observer:
        faults = Faults(rig, observer, history, campaign.rng, LEASE_S)
        faults.until(faults.is_calm, "three candidates, one of which leads")
        edits, readers = LeaderEdits(campaign, rig, observer), Readers(campaign, rig.nodes)
        with readers, edits, Clients(rig, history, clients, campaign.seed, pause_s) as running_clients:
            for kind in kinds:
                leader = observer.leader
                assert leader is not None
                began = time.monotonic()
                getattr(faults, kind)(rig.node(leader[0]))
                faults.until(
                    lambda at=began: bool(running_clients.failures) or first_answer(history, at) is not None,
                    f"a registration after {kind}",
                )
                assert not running_clients.failures
                took = first_answer(history, began)
                faults.until(faults.is_calm, f"three candidates after {kind} of {leader[0]}")
                assert took is not None
                campaign.counts[kind] += 1
                times.setdefault(kind, []).append(took)
                campaign.say(
                    f"{kind} of {leader}: answered after {took:.1f} s, calm after {time.monotonic() - began:.1f} s"
                )
        assert not running_clients.failures
        assert not readers.torn
        end(rig, faults, history)
    return history


times: dict[str, list[float]] = {}


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


def judge(history: History, campaign: Campaign, tmp_path: Path) -> None:
    found = wrong(history)
    (tmp_path / "history.json").write_bytes(msgspec.json.encode(history))
    campaign.counts.update(counts(history))
    campaign.counts["registrations whose node and term are known"] = len(history.committed)
    for kind, taken in times.items():
        figures = ", ".join(f"p{round(part * 100)} {share(taken, part):.1f} s" for part in (0.5, 0.99))
        campaign.say(
            f"{kind}: {len(taken)} times, to the next registration answered {figures}, most {max(taken):.1f} s"
        )
    assert not found, "\n".join([f"history: {tmp_path}/history.json", *found[:50]])


@pytest.mark.slow
def test_each_kind_of_loss_once(make_rig: MakeRig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with running("failover", capsys) as campaign:
        rig = make(make_rig, 1)
        kinds = list(SHORT)
        random.Random(SEED).shuffle(kinds)
        judge(play(rig, campaign, kinds, 6, 1.0), campaign, tmp_path)


@pytest.mark.stress
@pytest.mark.timeout(ROUNDS * 120 + 600)
def test_two_hundred_losses(make_rig: MakeRig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with running("failover", capsys) as campaign:
        rig = make(make_rig, 2)
        kinds = [campaign.rng.choice(KINDS) for _ in range(ROUNDS)]
        history = play(rig, campaign, kinds, CLIENTS, 1.0)
        judge(history, campaign, tmp_path)
        done = counts(history)
        assert min(done[f"{what} done"] for what in ("register", "delete", "assign")) > 10

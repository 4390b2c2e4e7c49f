"""Bad luck of a cluster with an election that another test does not have with real nodes: other clusters in its etcd, a
clock that is an hour off, an etcd that needs a second for each answer. A candidate without room on its disk:
tests/system/disk_stories.py."""

import secrets
import time

import pytest

from tests.campaigns.hooked import hooked
from tests.conftest import MakeRig, rigs
from tests.system.test_election import election, ids, is_settled, leader, registered
from tests.system.test_ha_promises import LEASE_S, PATIENCE_S, Site
from tests.system.test_ha_promises import built as built  # fixtures
from tests.system.test_ha_promises import site as site
from tools.rig import candidates, switchboard
from tools.rig.cluster_json import amend
from tools.rig.etcd import CLIENT_PORT
from tools.rig.guard import guarded
from tools.rig.peer import wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow
HOUR_S = 3600.0
SLOW_S = 180.0


def test_other_clusters_in_the_same_etcd_change_nothing(site: Site) -> None:
    old = site.leader()
    term = election(site.rig, old)["term"]
    with rigs() as make:
        theirs = make(0, key=secrets.token_hex(16))
        node = theirs.master
        endpoints = [f"http://{site.etcd.host(name)}:{CLIENT_PORT}" for name in site.etcd.names]
        ha = {"enabled": True, "lease": LEASE_S, "advertise": f"{HOST}:{node.port}", "etcd": {"endpoints": endpoints}}
        amend(node.root, {"clusterd": {"ha": ha}})
        theirs.start()
        wrong = "is that of a cluster with another key or name"
        wait_until(lambda: wrong in (election(theirs, node).get("problem") or ""), PATIENCE_S, "it takes no part")

        def nothing_changes() -> bool:
            return election(site.rig, old).get("term") == term and election(theirs, node).get("role") != "leader"

        site.hold(1.5 * LEASE_S, nothing_changes, "our leader leads, and theirs does not")
        assert theirs.stop() == []
        amend(node.root, {"clusterd": {"ha": {"prefix": "/clusterd/theirs"}}})
        theirs.start()
        wait_until(lambda: election(theirs, node).get("role") == "leader", PATIENCE_S, "it leads its own cluster")
        assert registered(site.plain, "ours") in ids(old)
        assert registered(node, "theirs") in ids(node)
    assert election(site.rig, old)["term"] == term


def test_clock_of_one_node_may_be_an_hour_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    old, rig, plain = site.leader(), site.rig, site.plain
    wrong = site.others(old)[0]
    with guarded("hook-") as place, hooked(monkeypatch, place) as page:
        page.shift_clock(HOUR_S)
        assert rig.stop(wrong.name) == []
        rig.start(wrong.name)
        wait_until(site.is_well, PATIENCE_S, "a cluster that is well")
        assert site.order(old, "switchover", "--to", wrong.name)["ok"]
        wait_until(site.is_well, PATIENCE_S, "a cluster that is well")
        term = election(rig, wrong)["term"]
        known = {registered(plain, "ahead")}
        page.shift_clock(-HOUR_S)  # while it leads
        site.hold(1.5 * LEASE_S, lambda: election(rig, wrong).get("term") == term, "it goes on")
        known.add(registered(plain, "behind"))
        candidates.kill(wrong)
        new = site.leader(wrong)
        wait_until(lambda: known <= ids(new), PATIENCE_S, "it has what was answered")
        assert registered(plain, "after") not in known


@pytest.mark.stress
def test_leader_leads_on_and_is_followed_while_each_answer_of_etcd_needs_a_second(make_rig: MakeRig) -> None:
    """Two minutes: the lease must be long enough for such an etcd."""
    rig = make_rig(2)
    (rig.master.root / "etc/client.keys").write_text("")
    candidates.add_candidates(rig, 3, 3)
    rig.start()
    wait_until(lambda: is_settled(rig), SLOW_S, "a leader, and candidates that follow")
    old = leader(rig)
    assert old is not None
    term = election(rig, old)["term"]
    for node in rig.candidates:
        switchboard.tell(rig.switchboard, "slow", node.name, "etcd")
    known = {registered(rig.nodes[1], "slow")}
    end = time.monotonic() + 2 * candidates.LEASE_S

    def leads_on() -> bool:
        assert election(rig, old).get("term") == term
        return time.monotonic() > end

    wait_until(leads_on, SLOW_S, "two leases of it")
    candidates.kill(old)
    wait_until(lambda: leader(rig, old) is not None, SLOW_S, "another leader")
    new = leader(rig, old)
    assert new is not None
    assert known <= ids(new)
    assert registered(new, "taken-over") not in known

"""Which node takes over when none leads."""

import asyncio
from typing import Any

import msgspec
import pytest

from clusterd.election import rules
from clusterd.election.keys import CandidateKey, Config, EtcdView, LastKey
from clusterd.election.shown import shown
from tests.election.stories import at_most_one, last, pass_time, set_followers, three, told
from tests.fakes.etcd import EtcdStore, HandClock, Voter, candidate, master

# ---- who takes over --------------------------------------------------------------------------------------------------


@told
async def test_only_the_candidate_that_confirmed_takes_over(clock: HandClock, store: EtcdStore) -> None:
    _one, two, other = await three(store)
    other.node.set(position=500)  # further, but not by what was answered
    clock.now += 16
    await pass_time(10, other)
    assert not other.leads
    assert "two has what was answered last" in other.elector.session.waits_for
    await pass_time(3, two, other)
    assert two.leads


@told
async def test_without_a_confirming_candidate_the_furthest_leads_and_of_equals_the_greater_priority(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)).ok
    assert last(store).confirming is None
    other.node.set(position=11)
    await pass_time(3, one, two, other)
    clock.now += 13
    for _ in range(16):
        # The leader is gone. The other two run on, the one with the lower position first.
        clock.now += 0.5
        await two.step()
        await other.step()
        at_most_one(two, other)
    assert other.leads


@told
async def test_lower_ranked_candidate_waits_one_lease_for_each_better_one_that_does_not_take_the_lead(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)
    other.node.set(position=50)
    await pass_time(3, one, two, other)
    await one.elector.stop()
    hung = other.etcd
    for _ in range(40):
        clock.now += 1
        store.leases[other.elector.session.lease] = clock.now + 15, 15  # it lives, and does nothing
        await two.step()
        if two.leads:
            break
    assert two.leads
    assert 15 <= clock.now - 1000 < 40
    assert hung is other.etcd


@pytest.mark.parametrize(("position", "leads"), [(10, True), (15, True), (9, False)])
def test_candidate_with_all_that_a_lost_leader_began_with_leads_though_it_never_followed_it(
    position: int, leads: bool
) -> None:
    """The second leader is lost before this replica continues from its log."""

    async def story() -> None:
        clock = HandClock()
        _one, two, other = await three(EtcdStore(clock))
        other.node.set(position=position)
        clock.now += 16
        await pass_time(3, two, other)
        assert two.leads
        assert last(two.store).past[-1][1] == 10
        clock.now += 16
        await pass_time(20, other)
        assert other.leads == leads, other.elector.session.waits_for

    asyncio.run(story())


@told
async def test_node_that_took_the_lead_and_never_served_may_take_it_again(clock: HandClock, store: EtcdStore) -> None:
    """It has what the last leader had, now in a database of its own."""
    _one, two, _ = await three(store)
    clock.now += 16
    two.node.prompt = False
    await two.step(3)
    assert two.node.true.is_changing
    assert not two.leads
    two.node.prompt = True
    two.reboot()  # the role is changed at the start; etcd has not heard of it
    assert (two.node.true.state, last(store).leader) == ("master", "one")
    clock.now += 16
    await pass_time(20, two)
    assert two.leads, two.elector.session.waits_for


@pytest.mark.parametrize(("position", "leads"), [(40, True), (45, True), (39, False)])
def test_confirming_candidate_that_is_there_again_leads_with_all_that_was_answered_and_not_with_less(
    position: int, leads: bool
) -> None:
    """All nodes have lost power, and the leader does not come back. A disk that was set back has an earlier replica."""

    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        one.node.set(confirming="two", answered=40, position=60)
        await pass_time(6, one, two, other)
        assert last(store).floor == 40
        clock.now += 100
        two.node.set(position=position)
        two.reboot()
        other.reboot()
        await pass_time(40, two, other)
        assert two.leads == leads, two.elector.session.waits_for
        assert not other.leads

    asyncio.run(story())


@pytest.mark.parametrize(
    ("position", "after_s", "leads"),
    [(40, 6, "one"), (39, 6, "two"), (40, 12, "two"), (44, 12, "two"), (45, 12, "one")],
)
def test_former_leader_whose_disk_was_set_back_does_not_lead_before_one_that_has_more(
    position: int, after_s: float, leads: str
) -> None:
    """All nodes have been off; the machine of the leader was set back to an earlier snapshot. No registration was
    confirmed since the position 40, so only other changes show it, once each candidate has had the time to get them."""

    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        one.node.set(confirming="two", answered=40, position=60)
        two.node.set(position=45)
        await pass_time(after_s, one, two, other)
        clock.now += 100
        one.node.set(position=position)
        for node in (one, two, other):
            node.reboot()
        await pass_time(40, one, two, other)
        assert [node.name for node in (one, two, other) if node.leads] == [leads], one.elector.session.waits_for

    asyncio.run(story())


@told
async def test_what_no_candidate_confirmed_is_asked_of_none(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.set(confirming="", answered=40, position=60)
    await pass_time(6, one, two, other)
    assert last(store).floor == 10, "etcd still has the name of the one that confirmed before"
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 40)).ok
    one.node.set(answered=60)
    await pass_time(6, one, two, other)
    assert (last(store).floor, last(store).confirming) == (40, None)


@told
async def test_confirming_candidate_stays_when_the_leaders_store_restarts(clock: HandClock, store: EtcdStore) -> None:
    """It still has everything answered; the next answer waits until etcd has the confirming name."""
    one, two, other = await three(store)
    one.node.set(position=12)
    one.node.start_store()
    await pass_time(3, one, two, other)
    assert one.leads
    assert (last(store).epoch, last(store).confirming) == (one.node.true.epoch, "two")
    assert (last(store).floor, last(store).past[-1][1]) == (10, 12)
    clock.now += 16
    await pass_time(3, two, other)
    assert two.leads, two.elector.session.waits_for


@pytest.mark.parametrize(("ended", "confirming"), [(10, "two"), (7, None)])
def test_leader_whose_log_lost_its_end_demands_no_more_of_others_than_it_has(
    ended: int, confirming: str | None
) -> None:
    """After a power failure, or a backup that even lacks answered changes, each follower has as much as the leader."""

    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        one.node.set(position=5000)
        await pass_time(10, one, two, other)
        assert last(store).position == 5000
        one.node.set(position=ended)
        one.node.start_store()
        await pass_time(2, one, two, other)
        found = last(store)
        assert (found.position, found.floor, found.confirming) == (ended, ended, confirming)
        set_followers(one, two, other)
        await pass_time(3, one, two, other)
        clock.now += 16
        await pass_time(20, two, other)
        assert two.leads

    asyncio.run(story())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"may_not_lead": "its files are incomplete: x"}, "its files are incomplete"),
        ({"state": "copying"}, "its replica is not whole"),
        ({"epoch": "earlier", "past": ()}, "not of what one had"),
        ({"is_known": False, "may_not_lead": "its store does not answer"}, "store does not answer"),
    ],
)
def test_node_that_may_not_lead_says_why(changes: dict[str, Any], reason: str) -> None:
    async def story() -> None:
        clock = HandClock()
        _one, two, _ = await three(EtcdStore(clock))
        two.node.set(**changes)
        clock.now += 16
        await pass_time(20, two)
        assert not two.leads
        assert reason in two.elector.session.waits_for
        (row,) = [row for row in shown(two.elector, two.node.true, clock.now)["candidates"] if row["name"] == "two"]
        assert reason in row["may_not_lead"]

    asyncio.run(story())


@pytest.mark.parametrize(("priority", "leads"), [(0, False), (1, True)])
def test_candidate_of_priority_0_never_leads(priority: int, leads: bool) -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two = Voter(store, "one", master()), Voter(store, "two", candidate(), priority=priority)
        for node in (one, two):
            await node.step(3)
        clock.now += 16
        await pass_time(20, two)
        assert two.leads == leads

    asyncio.run(story())


def key(name: str, **more: Any) -> CandidateKey:
    base = {"id": "i", "advertise": "a:1", "fingerprint": "f", "state": "following", "epoch": "e", "position": 100}
    return CandidateKey(**{"name": name} | base | more)  # type: ignore[arg-type]


def view(confirming: str | None = None, position: int = 100, **candidates: CandidateKey) -> EtcdView:
    return EtcdView(
        5,
        Config("wazuh", "f", first="one"),
        1,
        None,
        LastKey(3, "one", "e", position, confirming, floor=40, past=(("before", 30), ("d", 50))),
        2,
        candidates=candidates,
    )


@pytest.mark.parametrize(
    ("one", "confirming", "position", "reason"),
    [
        (key("two"), None, 100, ""),
        (key("two", position=90), None, 100, ""),
        (key("two", position=89), None, 100, "11 changes behind"),
        (key("two", position=90), None, 1_000_100, "1000010 changes behind"),
        (key("two", position=100), None, 1_000_100, "1000000 changes behind"),
        (key("two", position=50), "two", 100, ""),
        (key("two", position=39), "two", 100, "lacks what was answered"),
        (key("two", position=39), None, 45, "lacks what was answered"),
        (key("two", position=200), "other", 100, "other has what was answered"),
        (key("two", state="copying"), "two", 100, "not whole"),
        (key("two", epoch="other"), "two", 100, "not of what one had"),
        (key("two", fingerprint="g"), "two", 100, "another cluster key or name"),
        (key("two", priority=0), "two", 100, "priority is 0"),
        (key("two", may_not_lead="because"), "two", 100, "because"),
        (key("one", led=3, state="master", epoch="new"), "two", 100, ""),
        (key("one", led=3, state="master", epoch="", position=0), "two", 100, ""),
        (key("one", led=3, state="master", epoch="f", past=(("e", 40),)), "two", 100, ""),
        (key("one", led=3, state="master", epoch="f", past=(("e", 39),)), "two", 100, "its disk was set back"),
        (key("one", led=3, state="master", epoch="f", past=(("before", 20),)), None, 100, "its disk was set back"),
        (key("one", led=2, state="master"), None, 100, "not whole"),
        # An earlier life of the same log, or of the one before the last leader.
        (key("two", epoch="before", position=30), None, 50, "lacks what was answered"),
        (key("two", epoch="d", position=60), None, 100, "50 changes behind"),
        (key("two", epoch="d", position=200), None, 60, ""),
        (key("two", epoch="d", position=200), "other", 60, "other has what was answered"),
        (key("two", epoch="d", position=44), None, 45, ""),
        (key("two", epoch="d", position=39), None, 45, "lacks what was answered"),
        (key("two", epoch="f", past=(("d", 50), ("e", 95)), position=900), None, 100, ""),
        (key("two", epoch="f", past=(("d", 50), ("e", 89)), position=900), None, 100, "11 changes behind"),
        (key("two", epoch="f", past=(("d", 50),), position=900), None, 61, "11 changes behind"),
        (key("two", epoch="f", past=(("c", 50),), position=900), None, 61, "not of what one had"),
        # It took the lead since and never served.
        (key("two", led=4, state="master", epoch="f", past=(("e", 95),)), "two", 100, ""),
        (key("two", led=4, state="master", epoch="f", past=(("e", 39),)), "two", 100, "lacks what was answered"),
        (key("two", led=4, state="master", epoch="f", past=(("e", 95),)), "other", 100, "other has what was answered"),
        (key("two", led=2, state="master", epoch="f", past=(("e", 95),)), "two", 100, "not whole"),
        (key("two", led=2, epoch="f", past=(("e", 95),)), "two", 100, "not of what one had"),
        (key("one", led=4, state="master", epoch="f", past=(("e", 95),)), "two", 100, ""),
        (key("one", led=4, state="master", epoch="f", past=(("e", 39),)), "two", 100, "lacks what was answered"),
        (key("imposter", led=3, state="master"), None, 100, "not whole"),
    ],
)
def test_each_candidate_has_its_objection_or_none(
    one: CandidateKey, confirming: str | None, position: int, reason: str
) -> None:
    found = rules.objection(view(confirming, position), one, max_lag=10)
    assert (reason in found) if reason else not found, found


def test_before_any_node_has_led_only_the_configured_first_may_lead() -> None:
    nobody = msgspec.structs.replace(view(), last=None, last_revision=0)
    assert not rules.objection(nobody, key("one", state="master"), max_lag=10)
    assert "only one" in rules.objection(nobody, key("two"), max_lag=10)
    damaged = msgspec.structs.replace(nobody, unreadable=("last",))
    assert "cannot be read" in rules.objection(damaged, key("one", state="master"), max_lag=10)
    assert "bootstrap" in rules.objection(EtcdView(), key("one"), max_lag=10)


@pytest.mark.parametrize(("position", "place"), [(100, 0), (99, 3), (98, 3), (0, 0)])
def test_the_former_leader_comes_first_if_nobody_has_more_then_position_then_priority_then_name(
    position: int, place: int
) -> None:
    """The last leader had 100; 0: what it has now is not known."""
    epoch = "e" if position else ""
    one, far = key("one", led=3, state="master", position=position, epoch=epoch), key("far", position=300)
    high, low, able = key("high", priority=200), key("low", priority=50, position=98), key("able")
    found = view(None, 100, one=one, far=far, high=high, low=low, able=able, out=key("out", priority=0))
    ranks = {
        name: rules.rank(found, found.candidates[name], max_lag=1000) for name in found.candidates if name != "out"
    }
    assert ranks.pop("one") == place
    assert sorted(ranks, key=ranks.__getitem__) == ["far", "high", "able", "low"]

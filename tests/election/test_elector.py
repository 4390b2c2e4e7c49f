"""The election of the master, on an etcd in memory and with time that is moved by hand."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from clusterd.election import rules
from clusterd.election.etcd import Compare, Put
from clusterd.election.hand_over import HAND_OVER_S
from clusterd.election.keys import CandidateKey, Config, EtcdView, LastKey
from clusterd.election.leading import BAR_S, PROMOTION_S
from clusterd.election.orders import Orders
from clusterd.election.shown import shown
from clusterd.messages.election import HaAnswer, HaCommand
from clusterd.messages.replica import Drain
from clusterd.store.change_log import GAP
from ipc.board import FOR_EVER_NS
from tests.fakes.etcd import EtcdStore, HandClock, Voter, candidate, master

P = "/clusterd/wazuh/"
Story = Callable[..., Coroutine[Any, Any, None]]


def told(story: Story) -> Callable[[], None]:
    """A test that is a coroutine, with a clock and an etcd of its own."""

    def test() -> None:
        clock = HandClock()
        asyncio.run(story(clock, EtcdStore(clock)))

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


async def pass_time(seconds: float, *nodes: Voter, tick_s: float = 1.0) -> None:
    """Time goes on; these nodes do their steps, and never do two of them serve."""
    clock = nodes[0].store.clock
    end = clock.now + seconds
    while clock.now < end:
        clock.now = min(end, clock.now + tick_s)
        for node in nodes:
            await node.step()
            at_most_one(*nodes)


def at_most_one(*nodes: Voter) -> None:
    leading = [node.name for node in nodes if node.leads]
    assert len(leading) <= 1, leading


async def three(store: EtcdStore, **more: Any) -> tuple[Voter, Voter, Voter]:
    """A master that leads and two candidates that have everything; the first one is the confirming one."""
    one = Voter(store, "one", master(), **more)
    two, other = (Voter(store, name, candidate(), **more) for name in ("two", "other"))
    for node in (one, two, other):
        await node.step(3)
    assert one.leads
    set_followers(one, two, other)
    await one.step()
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "two", 10)).ok
    return one, two, other


def set_followers(leader: Voter, *others: Voter) -> None:
    """They have everything that the leader has."""
    facts = leader.node.true
    for one in others:
        one.node.set(state="following", epoch=facts.epoch, position=facts.position, lag=0, may_not_lead="")
    names = {one.name: facts.position for one in others}
    leader.node.set(followers=names, known=tuple(names))


def last(store: EtcdStore) -> LastKey:
    return msgspec.json.decode(store.items[f"{P}last"].value, type=LastKey)


async def order(voter: Voter, kind: str, to: str = "", **more: Any) -> HaAnswer:
    return await Orders(voter.elector, voter.node, voter.store.clock).answer(HaCommand(kind, to, **more))  # type: ignore[arg-type]


# ---- first start -----------------------------------------------------------------------------------------------------


@told
async def test_the_configured_master_leads_first_and_the_others_wait(clock: HandClock, store: EtcdStore) -> None:
    two, one = Voter(store, "two", candidate()), Voter(store, "one", master())
    await two.step(5)
    assert "configured master has not been here" in two.elector.session.problem
    assert not two.leads
    await one.step()  # makes config
    await two.step()
    assert "only one may be the first" in two.elector.session.waits_for
    await one.step(2)
    assert one.leads
    term = one.elector.tenure.term
    assert term == store.items[f"{P}leader"].create_revision
    assert (one.node.true.led, one.node.programs, one.node.events) == (term, [f"promote {term}"], ["leads"])
    assert last(store) == LastKey(term, "one", "e", 10, None, last(store).at, floor=10)
    await two.step()
    assert (two.node.true.term, two.node.true.master, two.node.true.master_name) == (term, "one:1516", "one")
    assert not two.leads


@told
async def test_nothing_is_served_before_the_others_know_what_counts_from_now_on(
    clock: HandClock, store: EtcdStore
) -> None:
    one = Voter(store, "one", master(is_known=False))
    await one.step(5)
    assert one.node.true.led == one.elector.session.view.term > 0
    assert not one.leads, "its store has not said where it is: what would a candidate compare with?"
    one.node.set(is_known=True)
    await one.step()
    assert one.leads
    assert last(store).position == 10


@told
async def test_a_configured_master_that_has_seen_a_term_makes_no_config(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master(term=5, led=5))
    await one.step(3)
    assert f"{P}config" not in store.items
    assert "clusterd ha bootstrap" in one.elector.session.problem


@told
async def test_a_node_that_was_the_configured_master_and_is_not_any_more_becomes_a_worker(
    clock: HandClock, store: EtcdStore
) -> None:
    one, _two, _ = await three(store)
    new = Voter(store, "new", master(epoch="its own"))
    await new.step(3)
    assert (new.node.demotions, new.node.true.master_name, new.node.true.is_master) == (1, "one", False)
    assert one.leads


# ---- renewing, losing ------------------------------------------------------------------------------------------------


@told
async def test_a_leader_renews_and_its_end_counts_from_when_the_renewal_was_sent(
    clock: HandClock, store: EtcdStore
) -> None:
    one, *_ = await three(store)
    await pass_time(100, one)
    assert one.leads
    one.etcd.slow_s = 1.0
    clock.now += 3
    sent = clock.now
    await one.step()
    assert one.node.board_words == (one.elector.tenure.term, int((sent + 15 - 3) * 1e9)), (
        "not from when it was answered"
    )
    await pass_time(60, one)
    assert one.leads, "an etcd that needs a second for everything is no reason to stop"


@told
async def test_a_leader_without_etcd_stops_before_anybody_can_follow_it(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    await pass_time(3, one, two, other)
    one.etcd.away = True
    renewed = clock.now
    for _ in range(200):
        clock.now += 0.1
        await one.step()
        if not one.leads:
            break
    assert renewed + 11 < clock.now < renewed + 12.2
    assert one.node.programs[-1].startswith("demote")
    assert one.node.events[-2:] == ["etcd_lost", "stepped_down"]
    assert not two.leads
    await pass_time(4, one, two, other, tick_s=0.1)
    assert two.leads
    assert not other.leads
    assert not one.node.true.is_changing
    assert one.node.true.is_master, "without etcd it does not know who follows: it waits and serves nothing"
    one.etcd.away = False
    await pass_time(2, one, two, other)
    assert (one.node.true.is_master, one.node.true.master_name) == (False, "two")
    assert one.node.demotions == 1


@told
async def test_on_demote_runs_on_a_node_that_was_killed_while_it_led_and_on_no_other_twice(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    assert two.node.programs == [f"demote {one.elector.tenure.term}"], "nobody knows what it was before"
    clock.now += 16
    await pass_time(4, two, other)
    term = two.elector.tenure.term
    one.reboot()
    one.node.programs.clear()
    await pass_time(5, one, two, other)
    assert one.node.programs == [f"demote {term}"]
    assert two.node.programs[1:] == [f"promote {term}"]


@told
async def test_a_leader_whose_key_is_gone_stops_at_once(clock: HandClock, store: EtcdStore) -> None:
    one, _two, _ = await three(store)
    del store.items[f"{P}leader"]
    store.revision += 1
    await one.step()
    assert not one.node.board_words[1] or one.elector.tenure.term != last(store).term
    assert one.node.programs[1].startswith("demote")


@told
async def test_a_leader_that_came_to_itself_too_late_stops_before_it_asks_anybody(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    clock.now += 60  # SIGSTOP of all its processes
    assert not one.leads, "its processes look at the end themselves"
    await pass_time(3, two, other)
    assert two.leads
    await one.step(2)
    at_most_one(one, two, other)
    assert one.node.true.master_name == "two"


@told
async def test_an_answer_that_does_not_come_changes_nothing(clock: HandClock, store: EtcdStore) -> None:
    """The taking of the lead was done, and the node does not hear of it."""
    one = Voter(store, "one", master())
    await one.step()
    one.etcd.lost_answers = True
    one.elector.session.is_live = True
    await one.step()
    one.etcd.lost_answers = False
    await one.step(3)
    assert one.leads
    assert one.node.true.led == store.items[f"{P}leader"].create_revision


@told
async def test_a_lease_that_was_late_but_still_there_goes_on_in_the_same_term(
    clock: HandClock, store: EtcdStore
) -> None:
    one, *_ = await three(store)
    term = one.elector.tenure.term
    one.etcd.away = True
    await pass_time(13, one)
    assert not one.leads
    one.etcd.away = False
    await one.step()
    assert one.leads
    assert one.elector.tenure.term == term


@told
async def test_a_leader_that_nobody_followed_leads_again_with_what_it_has(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    for node in (one, two, other):
        node.etcd.away = True
    await pass_time(40, one, two, other)
    for node in (other, one):
        node.etcd.away = False
    await pass_time(3, other, one)
    assert one.leads
    assert one.elector.tenure.term > term
    assert (one.node.true.epoch, one.node.demotions) == ("e", 0)


# ---- the process comes back ------------------------------------------------------------------------------------------


@told
async def test_the_process_is_killed_and_takes_up_its_lease_again(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term, lease = one.elector.tenure.term, store.items[f"{P}leader"].lease
    for _ in range(20):
        one.restart()
        assert one.leads, "the board stays"
        await pass_time(3, one, two, other)
    assert (one.elector.tenure.term, store.items[f"{P}leader"].lease) == (term, lease)
    assert one.leads
    assert len(store.leases) == 3


@pytest.mark.parametrize("moment", ["grant", "keep_alive", "read", "txn"])
def test_the_process_is_killed_at_any_call_and_the_node_leads_in_the_end(moment: str) -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one = Voter(store, "one", master())

        class Killed(BaseException):
            pass

        def kill(call: str) -> None:
            if call == moment:
                count[0] -= 1
                if count[0] == 0:
                    raise Killed

        for number in range(1, 12):
            count = [number]
            one.etcd.during = kill
            for _ in range(4):
                clock.now += 3
                try:
                    await one.step()
                except Killed:
                    one.restart()
        one.etcd.during = lambda call: None
        await pass_time(30, one)
        assert one.leads

    asyncio.run(story())


@told
async def test_the_process_that_comes_back_too_late_does_not_trust_the_board(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    clock.now += 20
    await pass_time(3, two, other)
    assert two.leads
    one.restart()
    assert one.elector.tenure.term == 0
    await one.step()
    assert one.node.true.master_name == "two"


@told
async def test_a_node_that_was_started_anew_waits_for_the_end_of_its_former_lease(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    clock.now += 3
    one.reboot()
    await one.step(2)
    assert not one.leads
    assert "another life of one" in one.elector.session.problem
    await pass_time(16, two, one, other)
    assert one.leads or two.leads
    assert last(store).term > 2


@told
async def test_a_node_that_was_killed_in_its_promotion_goes_on_or_follows(clock: HandClock, store: EtcdStore) -> None:
    _one, two, other = await three(store)
    two.node.prompt = False
    clock.now += 16
    await pass_time(3, two, other)
    assert two.node.true.is_changing
    assert not two.leads
    two.restart()
    await pass_time(2, two, other)
    two.node.end_change()
    await pass_time(2, two, other)
    assert two.leads


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
async def test_without_a_confirming_candidate_the_furthest_then_the_greater_priority(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)).ok
    assert last(store).confirming is None
    other.node.set(position=11)
    await pass_time(3, one, two, other)
    clock.now += 13
    for _ in range(16):
        # The leader is gone; the other two go on, the one that is less far first.
        clock.now += 0.5
        await two.step()
        await other.step()
        at_most_one(two, other)
    assert other.leads


@told
async def test_a_better_candidate_that_does_not_take_the_lead_is_waited_for_so_long(
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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"may_not_lead": "its files are incomplete: x"}, "its files are incomplete"),
        ({"state": "copying"}, "its replica is not whole"),
        ({"epoch": "earlier"}, "not of what one had"),
        ({"is_known": False, "may_not_lead": "its store does not answer"}, "store does not answer"),
    ],
)
def test_who_may_not_lead_says_why(changes: dict[str, Any], reason: str) -> None:
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
def test_priority_0_never_leads(priority: int, leads: bool) -> None:
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
        LastKey(3, "one", "e", position, confirming, floor=40),
        2,
        candidates=candidates,
    )


@pytest.mark.parametrize(
    ("one", "confirming", "position", "reason"),
    [
        (key("two"), None, 100, ""),
        (key("two", position=90), None, 100, ""),
        (key("two", position=89), None, 100, "11 changes behind"),
        (key("two", position=90), None, 100 + GAP, ""),
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
        (key("one", led=2, state="master"), None, 100, "not whole"),
        (key("imposter", led=3, state="master"), None, 100, "not whole"),
    ],
)
def test_what_speaks_against_a_candidate(one: CandidateKey, confirming: str | None, position: int, reason: str) -> None:
    found = rules.objection(view(confirming, position), one, max_lag=10)
    assert (reason in found) if reason else not found, found


def test_before_anybody_has_led_only_the_first_may() -> None:
    nobody = msgspec.structs.replace(view(), last=None, last_revision=0)
    assert not rules.objection(nobody, key("one", state="master"), max_lag=10)
    assert "only one" in rules.objection(nobody, key("two"), max_lag=10)
    damaged = msgspec.structs.replace(nobody, unreadable=("last",))
    assert "cannot be read" in rules.objection(damaged, key("one", state="master"), max_lag=10)
    assert "bootstrap" in rules.objection(EtcdView(), key("one"), max_lag=10)


def test_gap_is_that_of_the_store() -> None:
    assert rules.GAP == GAP


def test_the_former_leader_comes_first_then_position_then_priority_then_name() -> None:
    one, far = key("one", led=3, state="master", position=1), key("far", position=300)
    high, low, able = key("high", priority=200), key("low", priority=50), key("able")
    found = view(None, 100, one=one, far=far, high=high, low=low, able=able, out=key("out", priority=0))
    ranks = {
        name: rules.rank(found, found.candidates[name], max_lag=1000) for name in found.candidates if name != "out"
    }
    assert ranks == {"one": 0, "far": 1, "high": 2, "able": 3, "low": 4}


# ---- etcd in trouble -------------------------------------------------------------------------------------------------


@told
async def test_a_wiped_etcd_has_no_leader_until_somebody_says_who(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    store.wipe()
    await pass_time(40, one, two, other)
    assert not any(node.leads for node in (one, two, other))
    assert "clusterd ha bootstrap" in one.elector.session.problem
    found = await order(one, "bootstrap", term=term)
    assert found.ok, found.text
    await pass_time(10, one, two, other)
    assert one.leads
    assert one.elector.tenure.term > term, "terms only grow, although etcd counts anew"
    assert not (await order(two, "bootstrap")).ok


@told
async def test_a_candidate_is_bootstrapped_only_with_a_whole_replica_or_by_force(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    store.wipe()
    await pass_time(20, one, two, other)
    two.node.set(state="copying")
    assert "its replica is not whole" in (await order(two, "bootstrap")).text
    assert (await order(two, "bootstrap", force=True)).ok
    await pass_time(10, one, two, other)
    assert two.leads
    assert two.node.true.term > 0


@told
async def test_an_etcd_that_went_back_makes_no_leader_of_an_older_term(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master())
    await one.step(3)
    saved = dict(store.items), store.revision
    await one.elector.stop()
    one.node.set(term=5000, led=5000)
    store.items, store.revision = saved
    store.leases.clear()
    store.items = {key: item for key, item in store.items.items() if not item.lease}
    await pass_time(60, one)
    assert not one.leads
    assert "backup" in one.elector.session.waits_for


@told
async def test_two_clusters_in_one_etcd_know_nothing_of_each_other(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    theirs = Voter(store, "one", master(), prefix="/clusterd/wazuh2/", cluster="wazuh2", fingerprint="g")
    await theirs.step(3)
    assert theirs.leads
    assert one.leads
    clock.now += 16
    await pass_time(5, two, other)
    assert two.leads
    assert set(shown(two.elector, two.node.true, clock.now)["away"]) == {"one"}


@told
async def test_a_node_with_another_key_below_the_same_prefix_never_takes_part(
    clock: HandClock, store: EtcdStore
) -> None:
    _one, two, other = await three(store)
    strange = Voter(store, "strange", candidate(position=9999), fingerprint="g")
    await strange.step(2)
    assert "another key or name" in strange.elector.session.problem
    clock.now += 16
    await pass_time(5, strange, two, other)
    assert two.leads
    assert not strange.leads


@told
async def test_two_nodes_of_one_name_are_named_and_only_one_of_them_leads(clock: HandClock, store: EtcdStore) -> None:
    _one, two, other = await three(store)
    twin = Voter(store, "two", candidate())
    await twin.step(3)
    assert "takes part as two" in twin.elector.session.problem
    clock.now += 16
    await pass_time(6, two, other)
    await pass_time(3, twin, two, other)
    assert two.leads
    assert not twin.leads


@told
async def test_keys_that_cannot_be_read_are_named_and_nobody_is_misled(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    store.put(f"{P}candidates/x", b"{")
    store.put(f"{P}last", b"\xff")
    await pass_time(4, one)
    assert one.leads
    assert last(store).term == one.elector.tenure.term, "the leader writes it anew"
    store.put(f"{P}last", b"\xff")
    store.put(f"{P}leader", b"nonsense", store.items[f"{P}leader"].lease)
    await pass_time(30, two, other)
    assert not two.leads
    assert not other.leads


@told
async def test_a_term_that_somebody_else_has_seen_is_followed_only_upwards(clock: HandClock, store: EtcdStore) -> None:
    _one, two, _ = await three(store)
    two.node.set(term=10_000, master="far:1516", master_name="far")
    await two.step()
    assert two.node.true.master_name == "far"
    assert "has seen term 10000" in two.elector.session.problem


# ---- a promotion that fails ------------------------------------------------------------------------------------------


@told
async def test_a_node_whose_promotion_fails_lets_others_and_the_old_leader_keeps_what_it_has(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    two.node.fails = "No space left on device"
    one.etcd.away = True
    await pass_time(20, one, two, other)
    assert not two.leads
    assert "No space left" in two.elector.session.waits_for
    assert two.node.events[-1] == "gave_up"
    one.etcd.away = False
    await pass_time(5, one, two, other)
    assert one.leads, "nobody else has served: it was not demoted"
    assert one.node.demotions == 0
    assert BAR_S > 5


@told
async def test_a_promotion_that_does_not_end_is_given_up(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    two.node.prompt = False
    await one.elector.stop()
    await pass_time(PROMOTION_S + 10, two, other)
    assert f"{P}leader" not in store.items


@told
async def test_a_leader_whose_store_never_serves_is_given_up(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master(is_known=False))
    await pass_time(PROMOTION_S + 20, one)
    assert f"{P}leader" not in store.items
    assert not one.leads


# ---- confirming ------------------------------------------------------------------------------------------------------


@told
async def test_who_confirms_is_in_etcd_or_it_is_refused(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    assert last(store).confirming == "two"
    await pass_time(10, one)
    assert last(store).confirming == "two"
    assert not (await one.elector.leading.set_confirming(term - 1, "other", 10)).ok
    assert not (await two.elector.leading.set_confirming(term, "other", 10)).ok
    one.etcd.away = True
    assert "etcd" in (await one.elector.leading.set_confirming(term, "", 10)).why
    one.etcd.away = False
    clock.now += 16
    await pass_time(4, two, other)
    assert two.leads
    refused = await one.elector.leading.set_confirming(term, "", 10)
    assert not refused.ok, "it is not told that it may answer without one"
    assert last(store).term > term


@told
async def test_a_taker_that_read_before_the_last_word_of_the_leader_does_not_get_it(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)
    await pass_time(3, one, two, other)

    def late(call: str) -> None:
        if call == "txn" and not other.node.true.is_master:
            other.etcd.during = lambda call: None
            one_last = msgspec.structs.replace(last(store), confirming="two")
            store.put(f"{P}last", msgspec.json.encode(one_last))

    store.end_lease(store.items[f"{P}leader"].lease)
    await other.elector.session.read()
    await other.elector.following.publish(other.node.true, at_once=True)
    other.etcd.during = late
    await other.elector.following._take()
    assert f"{P}leader" not in store.items
    assert not other.node.true.is_master


@told
async def test_who_lacks_what_was_answered_does_not_lead_though_nobody_confirms_now(
    clock: HandClock, store: EtcdStore
) -> None:
    """Another one had confirmed it, and is lost."""
    one, _two, other = await three(store)
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 12)).ok
    one.node.set(position=12)
    await pass_time(4, one, other)
    clock.now += 16
    await pass_time(5, other)
    assert not other.leads
    assert "lacks what was answered" in other.elector.session.waits_for
    other.node.set(position=12)
    await pass_time(2, other)
    assert other.leads


@told
async def test_follower_of_a_busy_leader_is_told_every_two_seconds_and_may_lead(
    clock: HandClock, store: EtcdStore
) -> None:
    """Each keepalive of an agent is a change: 10,000 a second."""
    one, two, other = await three(store)
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)).ok
    for _ in range(30):
        clock.now += 1
        one.node.set(position=one.node.true.position + 10_000)
        if int(clock.now) % 2:
            two.node.set(position=one.node.true.position)
        for node in (one, two):
            await node.step()
    assert 150_000 < last(store).position <= one.node.true.position - 60_000
    other.node.set(position=10_000)
    clock.now += 16
    await pass_time(3, other, two)
    assert two.leads
    assert not other.leads


@told
async def test_another_log_of_the_same_leader_counts_for_nobody_yet(clock: HandClock, store: EtcdStore) -> None:
    one, *_ = await three(store)
    one.node.set(epoch="renewed", position=3)
    await one.step()
    assert (last(store).epoch, last(store).confirming) == ("renewed", None)


# ---- switchover, failover --------------------------------------------------------------------------------------------


@told
async def test_switchover_hands_over_when_the_other_has_everything(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.set(position=20)
    found = await order(other, "switchover", "other")
    assert found.ok, found.text
    await one.step()
    assert one.node.drained == 20
    await pass_time(3, one, two, other)
    assert one.leads, "it has not everything yet"
    set_followers(one, two, other)
    await one.step()
    assert not one.leads
    assert (last(store).position, last(store).confirming) == (20, "other")
    await pass_time(3, two, one, other)
    assert other.leads
    assert (one.node.true.is_master, one.node.true.master_name) == (False, "other")
    assert f"{P}order" not in store.items


@told
async def test_switchover_to_nobody_in_particular_takes_the_one_that_confirms(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    assert (await order(one, "switchover")).ok
    await pass_time(4, one, other, two)
    assert two.leads


@told
async def test_switchover_to_one_that_does_not_catch_up_is_taken_back(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.set(position=20)
    assert (await order(one, "switchover", "two")).ok
    await pass_time(HAND_OVER_S + 2, one, two, other)
    assert one.leads
    assert one.node.drained is None
    assert "did not catch up" in json.loads(store.items[f"{P}order"].value)["refused"]
    assert (await order(one, "switchover", "two")).ok, "a refused one stands in nobody's way"


@told
async def test_switchover_waits_a_while_for_a_candidate_without_a_link(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.set(followers={})
    assert (await order(one, "switchover", "two")).ok
    await pass_time(HAND_OVER_S + 2, one, two, other)
    assert one.leads
    assert "not connected" in json.loads(store.items[f"{P}order"].value)["refused"]

    assert (await order(one, "switchover", "two")).ok
    await pass_time(HAND_OVER_S / 2, one, two, other)
    assert (one.leads, one.node.drained) == (True, None)
    set_followers(one, two, other)
    await pass_time(4, one, two, other)
    assert two.leads


@told
async def test_switchover_to_one_that_dies_meanwhile_comes_back_to_the_old_leader(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    assert (await order(one, "switchover", "two")).ok
    await one.step(3)
    assert not one.leads
    await pass_time(HAND_OVER_S + 4, one, other)
    assert one.leads
    assert f"{P}order" not in store.items
    await pass_time(5, one, two, other)
    assert one.leads


@told
async def test_switchover_of_a_store_that_does_not_stop_is_refused(clock: HandClock, store: EtcdStore) -> None:
    one, _two, _other = await three(store)
    one.node.drains = False
    assert (await order(one, "switchover", "two")).ok
    await one.step(2)
    assert one.leads
    assert "does not stop taking writes" in json.loads(store.items[f"{P}order"].value)["refused"]


@pytest.mark.parametrize(
    ("kind", "to", "more", "reason"),
    [
        ("switchover", "one", {}, "leads already"),
        ("switchover", "nobody", {}, "there is no candidate nobody; there are one, other, two"),
        ("failover", "two", {}, "--force is missing"),
        ("failover", "nobody", {"force": True}, "there is no candidate"),
        ("failover", "one", {"force": True}, "leads already"),
        ("bootstrap", "", {}, "knows this cluster already"),
    ],
)
def test_orders_that_make_no_sense_are_refused(kind: str, to: str, more: dict[str, Any], reason: str) -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, *_ = await three(store)
        found = await order(one, kind, to, **more)
        assert not found.ok
        assert reason in found.text
        assert f"{P}order" not in store.items

    asyncio.run(story())


@told
async def test_orders_need_etcd_and_a_leader_and_no_pause(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    two.node.set(state="copying")
    await two.step()
    assert "two may not lead" in (await order(one, "switchover", "two")).text
    assert (await order(one, "pause")).ok
    await one.step()
    assert "paused" in (await order(one, "switchover", "other")).text
    assert (await order(one, "resume")).ok
    await one.step()
    one.etcd.away = True
    assert "etcd cannot be asked" in (await order(one, "switchover", "other")).text
    clock.now += 16
    await pass_time(2, other)
    assert "nobody leads" in (await order(other, "switchover", "other")).text


@told
async def test_failover_by_force_makes_one_lead_that_would_not(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    two.etcd.away = one.etcd.away = True
    other.node.set(may_not_lead="its files are incomplete")
    await pass_time(30, one, two, other)
    assert not other.leads, "two has what was answered last"
    assert (await order(other, "failover", "other", force=True)).ok
    await pass_time(3, one, two, other)
    assert other.leads
    two.etcd.away = one.etcd.away = False
    await pass_time(5, one, two, other)
    assert other.leads
    assert one.node.true.master_name == two.node.true.master_name == "other"


@told
async def test_failover_by_force_ends_a_leader_that_is_there(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    assert (await order(two, "failover", "other", force=True)).ok
    await pass_time(4, one, two, other)
    assert other.leads


# ---- pause -----------------------------------------------------------------------------------------------------------


@told
async def test_paused_the_leader_goes_on_without_a_lease_and_nobody_follows(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    assert (await order(two, "pause")).ok
    await pass_time(2, one, two, other)
    assert one.node.board_words == (term, FOR_EVER_NS)
    assert store.items[f"{P}leader"].lease == 0
    one.etcd.away = True
    await pass_time(100, one, two, other)
    assert one.leads
    one.etcd.away = False
    one.restart()
    await pass_time(5, one, two, other)
    assert (await order(two, "resume")).ok
    await pass_time(30, one, two, other)
    assert one.leads
    assert one.elector.tenure.term == term
    assert store.items[f"{P}leader"].lease == one.elector.session.lease
    assert one.node.board_words[1] < FOR_EVER_NS
    clock.now += 16
    await pass_time(4, two, other)
    assert two.leads


@told
async def test_paused_although_the_answer_of_etcd_did_not_come(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    await order(two, "pause")
    await one.elector.session.read()
    one.etcd.lost_answers = one.elector.session.is_live = True
    await one.step()
    assert store.items[f"{P}leader"].lease == 0
    one.etcd.lost_answers = one.elector.session.is_live = False
    await pass_time(2, one, two, other)
    one.etcd.away = True
    await pass_time(60, one, two, other)
    assert one.leads


@told
async def test_resumed_the_end_counts_before_the_key_has_a_lease_again(clock: HandClock, store: EtcdStore) -> None:
    one, two, _other = await three(store)
    await order(one, "pause")
    await one.step(2)
    await order(two, "resume")
    seen: list[tuple[int, int]] = []
    one.etcd.during = lambda call: seen.append((store.items[f"{P}leader"].lease, one.node.board_words[1]))
    await one.step(2)
    assert one.elector.session.lease in {lease for lease, _ in seen}
    assert all(until < FOR_EVER_NS for lease, until in seen if lease)


@told
async def test_paused_a_leader_that_is_started_anew_goes_on(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    await order(one, "pause")
    await one.step(2)
    await one.elector.stop()
    assert f"{P}leader" in store.items
    clock.now += 40
    one.reboot()
    await pass_time(4, one, two, other)
    assert one.leads
    assert one.elector.tenure.term == term
    assert (await order(two, "resume")).ok
    await pass_time(20, one, two, other)
    assert one.leads


@told
async def test_paused_nobody_leads_when_the_leader_is_lost_but_by_force(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    await order(one, "pause")
    await one.step(2)
    await pass_time(60, two, other)
    assert not two.leads
    assert (await order(two, "resume")).ok
    await pass_time(60, two, other)
    assert not two.leads, "it may be alive, and lead without a lease"
    assert (await order(two, "failover", "two", force=True)).ok
    await pass_time(3, two, other)
    assert two.leads
    clock.now += 1
    await one.step(2)
    assert not one.leads


# ---- failsafe --------------------------------------------------------------------------------------------------------


@told
async def test_failsafe_goes_on_while_everybody_agrees_and_nobody_takes_the_lead(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store, failsafe=True)
    await pass_time(20, one, two, other)
    one.etcd.away = True

    def ask() -> None:
        term = one.elector.tenure.term
        one.node.agreed = {node.name: node.elector.failsafe(term, "one").yes for node in (two, other)}

    one.node.on_ask = ask
    await pass_time(100, one, two, other, tick_s=0.5)
    assert one.leads, "its lease has ended long ago"
    assert set(one.node.asked[-1]) == {"two", "other"}
    assert "as this node has promised it" in two.elector.session.waits_for
    one.node.on_ask = lambda: None
    one.node.agreed = {"two": True}
    await pass_time(60, one, two, other, tick_s=0.5)
    assert not one.leads, "one that cannot be asked ends it"
    assert two.leads
    one.etcd.away = False
    await pass_time(5, one, two, other)
    assert one.node.true.master_name == "two"


@told
async def test_failsafe_is_off_by_default(clock: HandClock, store: EtcdStore) -> None:
    one, _two, _other = await three(store)
    one.etcd.away = True
    await pass_time(13, one)
    assert not one.leads
    assert not one.node.asked


@told
async def test_a_candidate_agrees_only_to_the_leader_of_the_term_that_it_knows(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, _other = await three(store, failsafe=True)
    term = one.elector.tenure.term
    await two.step()
    assert two.elector.failsafe(term, "one").yes
    assert not two.elector.failsafe(term + 1, "one").yes
    assert not two.elector.failsafe(term, "other").yes
    assert not one.elector.failsafe(term, "one").yes, "it leads itself"
    two.node.set(is_changing=True)
    assert not two.elector.failsafe(term, "one").yes


@told
async def test_a_promise_outlives_the_process_and_one_given_while_it_takes_the_lead_counts(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store, failsafe=True)
    await pass_time(20, one, two, other)
    term = one.elector.tenure.term
    store.end_lease(store.items[f"{P}leader"].lease)
    two.restart()
    two.etcd.during = lambda call: call == "txn" and two.elector.failsafe(term, "one") and None
    await pass_time(3, two)
    assert not two.leads
    assert f"{P}leader" not in store.items
    two.etcd.during = lambda call: None
    two.restart()
    await pass_time(3, two)
    assert not two.leads, "the promise is kept in the run directory"
    two.reboot()
    await pass_time(10, two)
    assert not two.leads, "who begins anew has forgotten what it promised"


# ---- the rest --------------------------------------------------------------------------------------------------------


@told
async def test_a_node_that_stops_lets_the_next_one_lead_at_once(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    await one.elector.stop()
    assert not one.leads
    await pass_time(2, two, other)
    assert two.leads


@told
async def test_steady_state_costs_two_calls_a_renewal_and_writes_only_what_is_new(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    for node in (one, two, other):
        await node.elector.session.read()
        node.elector.session.is_live = True
        await node.step(3)
        node.etcd.calls.clear()
    revision = store.revision
    for _ in range(60):
        clock.now += 0.5
        for node in (one, two, other):
            await node.step()
    assert store.revision == revision
    assert one.etcd.calls.count("keep_alive") == one.etcd.calls.count("txn") == 10
    assert two.etcd.calls.count("txn") == 0


def test_messages_of_the_store_name_how_long_it_is_drained() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Drain(5.0)))["type"] == "drain"


def test_what_is_compared_is_what_a_key_has() -> None:
    """The double answers as etcd does for a key that is not there."""
    clock = HandClock()
    store = EtcdStore(clock)
    assert store.txn([Compare("k", "create_revision", 0), Compare("k", "lease", 0)], [Put("k", b"v")]).succeeded
    assert not store.txn([Compare("k", "create_revision", 0)], []).succeeded
    assert store.txn([Compare("k", "create_revision", store.revision)], []).succeeded

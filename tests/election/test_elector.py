"""The election of the master: start, lease, restart of the process, failed promotion."""

import asyncio

import msgspec
import pytest

from clusterd.election.etcd import Compare, Put
from clusterd.election.keys import LastKey
from clusterd.election.leading import BAR_S, PROMOTION_S
from clusterd.election.orders import Orders
from clusterd.election.shown import shown
from clusterd.messages.election import HaCommand
from clusterd.messages.replica import Drain
from tests.election.stories import P, at_most_one, last, pass_time, three, told
from tests.fakes.etcd import EtcdStore, HandClock, Voter, candidate, master

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
    epoch = one.node.true.epoch
    assert last(store) == LastKey(term, "one", epoch, 10, None, last(store).at, floor=10, past=(("e", 10),))
    await two.step()
    assert (two.node.true.term, two.node.true.master, two.node.true.master_name) == (term, "one:1516", "one")
    assert not two.leads


@told
async def test_new_leader_serves_only_when_etcd_has_the_position_of_its_log(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master(is_known=False))
    await one.step(5)
    assert one.node.true.led == one.elector.session.view.term > 0
    assert not one.leads, "its store has not said where it is: what would a candidate compare with?"
    one.node.set(is_known=True)
    await one.step()
    assert one.leads
    assert last(store).position == 10


@told
async def test_configured_master_that_has_seen_a_term_makes_no_config(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master(term=5, led=5))
    await one.step(3)
    assert f"{P}config" not in store.items
    assert "clusterd ha bootstrap" in one.elector.session.problem


@told
async def test_configured_master_whose_role_file_is_damaged_begins_no_cluster(
    clock: HandClock, store: EtcdStore
) -> None:
    """It has seen no term as far as it knows. A cluster of lower terms than others have seen would have no leader."""
    one = Voter(store, "one", master(may_not_lead="its role.json is damaged"))
    await one.step(3)
    assert f"{P}config" not in store.items
    assert "role.json is damaged" in one.elector.session.problem
    answer = await Orders(one.elector, one.node, clock).answer(HaCommand("bootstrap", force=True))
    assert not answer.ok
    assert "role.json is damaged" in answer.text
    assert f"{P}config" not in store.items
    one.node.set(may_not_lead="")
    await one.step(3)
    assert one.leads


@told
async def test_configured_master_becomes_a_worker_when_another_node_leads_already(
    clock: HandClock, store: EtcdStore
) -> None:
    one, _two, _ = await three(store)
    new = Voter(store, "new", master(epoch="its own"))
    await new.step(3)
    assert (new.node.demotions, new.node.true.master_name, new.node.true.is_master) == (1, "one", False)
    assert one.leads


# ---- renewing, losing ------------------------------------------------------------------------------------------------


@told
async def test_leaders_deadline_counts_from_the_sending_of_its_renewal(clock: HandClock, store: EtcdStore) -> None:
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
async def test_leader_without_etcd_stops_before_another_node_can_lead(clock: HandClock, store: EtcdStore) -> None:
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
async def test_leader_whose_key_was_deleted_stops_at_once(clock: HandClock, store: EtcdStore) -> None:
    one, _two, _ = await three(store)
    del store.items[f"{P}leader"]
    store.revision += 1
    await one.step()
    assert not one.node.board_words[1] or one.elector.tenure.term != last(store).term
    assert one.node.programs[1].startswith("demote")


@told
async def test_leader_that_wakes_after_its_deadline_stops_before_it_asks_etcd(
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
async def test_node_leads_although_the_answer_to_its_taking_of_the_lead_is_lost(
    clock: HandClock, store: EtcdStore
) -> None:
    """etcd gives it the leader's key, and the answer is lost."""
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
async def test_lease_renewed_after_the_deadline_but_before_its_end_keeps_the_term(
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
async def test_leader_that_no_node_replaced_leads_again_with_its_own_database(
    clock: HandClock, store: EtcdStore
) -> None:
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
    assert "e" in dict(one.node.true.past)
    assert one.node.demotions == 0


# ---- the process comes back ------------------------------------------------------------------------------------------


@told
async def test_restarted_process_takes_up_its_lease_again(clock: HandClock, store: EtcdStore) -> None:
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
def test_node_leads_in_the_end_at_whatever_call_its_process_is_killed(moment: str) -> None:
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
async def test_process_that_restarts_after_the_deadline_does_not_trust_the_board(
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
async def test_new_process_that_leads_on_says_so_before_etcd_has_answered(clock: HandClock, store: EtcdStore) -> None:
    one, _, _ = await three(store)
    term = one.elector.tenure.term
    one.restart()
    said = shown(one.elector, one.node.true, clock.now)
    assert (said["role"], said["leader"], said["term"]) == ("leader", "one", term)


@told
async def test_restarted_node_waits_for_the_end_of_its_former_lease(clock: HandClock, store: EtcdStore) -> None:
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
async def test_node_killed_in_its_promotion_ends_it_or_follows(clock: HandClock, store: EtcdStore) -> None:
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


# ---- a promotion that fails ------------------------------------------------------------------------------------------


@told
async def test_node_whose_promotion_fails_gives_the_lead_up_and_the_old_leader_keeps_its_database(
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
async def test_promotion_that_does_not_end_is_given_up(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    two.node.prompt = False
    await one.elector.stop()
    await pass_time(PROMOTION_S + 10, two, other)
    assert f"{P}leader" not in store.items


@told
async def test_node_whose_store_never_serves_gives_the_lead_up(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master(is_known=False))
    await pass_time(PROMOTION_S + 20, one)
    assert f"{P}leader" not in store.items
    assert not one.leads


# ---- the rest --------------------------------------------------------------------------------------------------------


@told
async def test_node_that_is_stopped_lets_the_next_one_lead_at_once(clock: HandClock, store: EtcdStore) -> None:
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


def test_message_to_the_store_names_the_duration_of_the_drain() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Drain(5.0)))["type"] == "drain"


def test_fake_etcd_compares_a_missing_key_as_etcd_does() -> None:
    """Missing keys compare as 0, as in etcd."""
    clock = HandClock()
    store = EtcdStore(clock)
    assert store.txn([Compare("k", "create_revision", 0), Compare("k", "lease", 0)], [Put("k", b"v")]).succeeded
    assert not store.txn([Compare("k", "create_revision", 0)], []).succeeded
    assert store.txn([Compare("k", "create_revision", store.revision)], []).succeeded

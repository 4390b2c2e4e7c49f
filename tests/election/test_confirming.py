"""Who confirms: the name in etcd before an answer may wait for it, and who may lead because of it."""

import asyncio
from typing import Any

import msgspec

from clusterd.election.session import READ_S
from tests.election.stories import P, last, pass_time, three, told
from tests.fakes.etcd import EtcdStore, HandClock


@told
async def test_confirming_name_is_in_etcd_or_is_refused(clock: HandClock, store: EtcdStore) -> None:
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
async def test_nobody_is_named_while_the_leader_is_being_stopped(clock: HandClock, store: EtcdStore) -> None:
    """Its links end before its store does: it would answer what no candidate has, and the next leader lacks it."""
    one, two, other = await three(store)
    one.elector.leading.leave()
    assert "being stopped" in (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)).why
    await pass_time(10, one)
    assert (last(store).confirming, one.leads) == ("two", True)
    await one.elector.stop()
    await pass_time(4, two, other)
    assert two.leads


@told
async def test_store_that_is_restarted_while_etcd_is_away_goes_on_with_the_candidate_that_etcd_has(
    clock: HandClock, store: EtcdStore
) -> None:
    """Nobody but that candidate may take over, so what it confirms is safe. Agents could not even be looked up."""
    one, two, other = await three(store)
    term, leading = one.elector.tenure.term, one.elector.leading
    one.etcd.away = True
    await one.step()
    one.node.start_store()
    assert (await leading.set_confirming(term, "two", 10)).ok
    assert not (await leading.set_confirming(term, "other", 10)).ok
    assert not (await leading.set_confirming(term, "", 10)).ok
    assert (await leading.set_confirming(term, "two", 10)).ok, "the other name was not sent"
    one.etcd.away = False
    await pass_time(3, one, two, other)
    assert (last(store).confirming, last(store).epoch) == ("two", one.node.true.epoch)
    assert (await leading.set_confirming(term, "", 10)).ok
    one.etcd.away = True
    await pass_time(2, one)
    one.node.start_store()
    assert (await leading.set_confirming(term, "", 10)).ok
    assert not (await leading.set_confirming(term, "two", 10)).ok


@told
async def test_name_whose_writing_nobody_knows_the_end_of_is_not_taken_for_the_one_in_etcd(
    clock: HandClock, store: EtcdStore
) -> None:
    one, _two, _other = await three(store)
    term, leading = one.elector.tenure.term, one.elector.leading
    one.etcd.lost_answers = True
    assert not (await leading.set_confirming(term, "other", 10)).ok
    assert last(store).confirming == "other"
    assert not (await leading.set_confirming(term, "two", 10)).ok
    one.etcd.lost_answers = False
    await pass_time(2, one)
    assert (await leading.set_confirming(term, "two", 10)).ok


@told
async def test_log_without_its_end_does_not_go_on_with_a_candidate_while_etcd_is_away(
    clock: HandClock, store: EtcdStore
) -> None:
    """When etcd is back it is told that nobody confirms."""
    one, _two, _other = await three(store)
    one.etcd.away = True
    await one.step()
    one.node.set(epoch="after a backup", past=((one.node.true.epoch, 4),), position=4)
    assert not (await one.elector.leading.set_confirming(one.elector.tenure.term, "two", 10)).ok


@told
async def test_candidate_that_has_not_read_the_leaders_last_write_does_not_get_the_lead(
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
async def test_candidate_that_lacks_answered_changes_does_not_lead_though_none_confirms_now(
    clock: HandClock, store: EtcdStore
) -> None:
    """The candidate that confirmed those changes is lost."""
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
async def test_follower_that_is_told_a_busy_leaders_position_every_two_seconds_may_lead(
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
async def test_no_candidate_confirms_a_new_log_of_the_same_leader_yet(clock: HandClock, store: EtcdStore) -> None:
    one, *_ = await three(store)
    one.node.set(epoch="renewed", position=3)
    await one.step()
    assert (last(store).epoch, last(store).confirming) == ("renewed", None)


# ---- what several tasks write at once --------------------------------------------------------------------------------


@told
async def test_renewal_does_not_undo_the_name_that_the_store_has_just_set(clock: HandClock, store: EtcdStore) -> None:
    """The store waits for `other` from then on. If etcd named `two` again, `two` would lead without answered
    changes."""
    one, *_ = await three(store)
    clock.now += 3
    one.node.set(position=11)
    term = one.elector.tenure.term
    for delay in range(12):
        names = ("other", "two") if delay % 2 else ("two", "other")
        clock.now += 3

        async def late(name: str = names[0], delay: int = delay) -> Any:
            for _ in range(delay):
                await asyncio.sleep(0)
            return await one.elector.leading.set_confirming(term, name, 11)

        one.node.set(position=one.node.true.position + 1)
        found, _ = await asyncio.gather(late(), one.step())
        assert found.ok
        assert last(store).confirming == names[0], delay
        await one.step()
        assert last(store).confirming == names[0], delay


@told
async def test_name_that_reaches_etcd_late_does_not_replace_a_later_one(clock: HandClock, store: EtcdStore) -> None:
    one, *_ = await three(store)
    term = one.elector.tenure.term
    one.etcd.is_late = True
    assert not (await one.elector.leading.set_confirming(term, "", 10)).ok
    waiting, one.etcd.waiting, one.etcd.is_late = one.etcd.waiting, [], False
    assert (await one.elector.leading.set_confirming(term, "other", 12)).ok
    one.etcd.waiting = waiting
    assert one.etcd.thaw() == 0
    assert last(store).confirming == "other"


@told
async def test_etcd_restored_from_a_backup_gets_the_confirming_name_again(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    saved, revision = dict(store.items), store.revision
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "other", 25)).ok
    await pass_time(4, one, two, other)
    store.items, store.revision = saved, revision
    assert last(store).confirming == "two"
    await pass_time(READ_S + 4, one, two, other)
    assert one.leads
    assert (last(store).confirming, last(store).floor) == ("other", 25)

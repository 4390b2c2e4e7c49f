"""Orders of an operator: switchover, failover, pause."""

import asyncio
import json
from typing import Any

import pytest

from clusterd.election.facts import Lacking
from clusterd.election.hand_over import FILES_S, LAST_FILES_S
from clusterd.leadership import HAND_OVER_S
from ipc.board import FOR_EVER_NS
from tests.election.stories import P, last, order, pass_time, set_followers, three, told
from tests.fakes.etcd import EtcdStore, HandClock

# ---- switchover, failover --------------------------------------------------------------------------------------------


@told
async def test_switchover_hands_over_when_the_other_has_everything(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.set(position=20)
    found = await order(other, "switchover", "other")
    assert found.ok, found.text
    await pass_time(2, one)
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
async def test_switchover_without_a_name_goes_to_the_confirming_candidate(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    assert (await order(one, "switchover")).ok
    await pass_time(4, one, other, two)
    assert two.leads


@told
async def test_switchover_to_a_candidate_that_does_not_catch_up_is_taken_back(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    one.node.set(position=20)
    assert (await order(one, "switchover", "two")).ok
    await pass_time(HAND_OVER_S + 4, one, two, other)
    assert one.leads
    assert one.node.drained is None
    assert "did not catch up" in json.loads(store.items[f"{P}order"].value)["refused"]
    assert (await order(one, "switchover", "two")).ok, "a refused one stands in nobody's way"


@told
async def test_switchover_waits_for_files_before_writes_stop_and_a_moment_for_the_last_ones(
    clock: HandClock, store: EtcdStore
) -> None:
    """What was changed just before on the old leader would be deleted by the new one. No writes wait for a file that
    the other node does not get."""
    one, two, other = await three(store)
    one.node.files = {"two": Lacking(1, None)}
    assert (await order(one, "switchover", "two")).ok
    await pass_time(FILES_S, one, two, other, tick_s=0.1)
    assert (one.leads, one.node.drained) == (True, None)
    await pass_time(LAST_FILES_S, one, two, other, tick_s=0.1)
    assert (one.leads, one.node.drained) == (True, 10)
    await pass_time(1, one, two, other, tick_s=0.1)
    assert two.leads
    assert "two takes over although 1 files have just changed" in " ".join(one.node.lines)


@told
async def test_switchover_begins_no_change_of_files_and_waits_for_those_under_way(
    clock: HandClock, store: EtcdStore
) -> None:
    """Whoever changes files by the API hears that it is done, and the next leader has it."""
    one, two, other = await three(store)
    one.node.runs = "upload_rule_file"
    assert (await order(one, "switchover", "two")).ok
    await pass_time(3, one, two, other, tick_s=0.1)
    assert (one.leads, one.node.is_held, one.node.drained) == (True, True, None), "a change may write to the store"
    one.node.runs, one.node.changed_at, one.node.files = "", clock.now, {"two": Lacking(1, LAST_FILES_S + 1)}
    await pass_time(LAST_FILES_S + 0.8, one, two, other, tick_s=0.1)
    assert (one.leads, one.node.drained) == (True, 10), "longer than for files that nobody was told of"
    one.node.files, one.node.runs = {}, "sync, which does not answer,"
    await pass_time(0.5, one, two, other, tick_s=0.1)
    assert one.leads, "not before sync has said that nothing runs"
    one.node.runs = ""
    await pass_time(0.5, one, two, other, tick_s=0.1)
    assert two.leads


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ("upload_rule_file", "upload_rule_file has not ended within 10 s"),
        ("", "two did not catch up within 10 s"),
    ],
)
def test_switchover_is_given_up_rather_than_losing_an_answered_change_of_files(runs: str, why: str) -> None:
    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, two, other = await three(store)
        one.node.runs, one.node.changed_at, one.node.files = runs, clock.now, {"two": Lacking(1, 1000.0)}
        assert (await order(one, "switchover", "two")).ok
        await pass_time(FILES_S + HAND_OVER_S + 2, one, two, other)
        assert (one.leads, one.node.is_held, one.node.drained) == (True, False, None)
        assert why in json.loads(store.items[f"{P}order"].value)["refused"]

    asyncio.run(story())


@told
async def test_change_of_files_while_the_lead_is_handed_over_keeps_it_here(clock: HandClock, store: EtcdStore) -> None:
    """The gate opens by itself when nobody asks for a while."""
    one, two, other = await three(store)
    one.node.files = {"two": Lacking(1, 0.4)}
    assert (await order(one, "switchover", "two")).ok
    while one.node.drained is None:
        await pass_time(0.1, one, two, other, tick_s=0.1)
    one.node.changed_at = clock.now + 0.1
    await pass_time(3, one, two, other, tick_s=0.1)
    assert one.leads
    assert "has taken writes meanwhile" in json.loads(store.items[f"{P}order"].value)["refused"]


@told
async def test_switchover_on_a_master_whose_files_always_change_loses_none_of_before(
    clock: HandClock, store: EtcdStore
) -> None:
    """The other node never has all files; it has those of a moment ago."""
    one, two, other = await three(store)
    one.node.files = {"two": Lacking(1, 0.5)}
    assert (await order(one, "switchover", "two")).ok
    waited = []
    while not two.leads:
        await pass_time(0.1, one, two, other, tick_s=0.1)
        waited.append(one.node.drained is not None)
    assert waited[:6] == [False] * 6
    assert waited.index(True) <= 7
    assert waited.count(True) < LAST_FILES_S * 10
    assert "although" not in " ".join(one.node.lines)


@told
async def test_switchover_does_not_begin_while_a_large_sync_is_under_way(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.files = {"two": Lacking(300, None)}
    assert (await order(one, "switchover", "two")).ok
    await pass_time(HAND_OVER_S - 1, one, two, other)
    assert (one.leads, one.node.drained) == (True, None)
    await pass_time(3, one, two, other)
    assert "two may not lead: it lacks 300 files of the leader" in json.loads(store.items[f"{P}order"].value)["refused"]
    assert (await order(one, "switchover", "two")).ok
    await pass_time(3, one, two, other)
    assert (one.leads, one.node.drained) == (True, None)
    one.node.files = {}
    await pass_time(4, one, two, other)
    assert two.leads


@told
async def test_pause_during_a_switchover_ends_it(clock: HandClock, store: EtcdStore) -> None:
    """While the election is paused no node takes over: there would be no leader until somebody resumes it."""
    one, two, other = await three(store)
    one.node.set(position=20)
    assert (await order(one, "switchover", "two")).ok
    await pass_time(3, one, two, other)
    assert one.node.drained == 20
    assert (await order(other, "pause")).ok
    set_followers(one, two, other)
    await pass_time(5, one, two, other)
    assert (one.leads, one.node.drained) == (True, None)
    assert "paused" in json.loads(store.items[f"{P}order"].value)["refused"]


@told
async def test_pause_in_the_last_moment_of_a_switchover_ends_it(clock: HandClock, store: EtcdStore) -> None:
    """The leader has not seen it when it hands over."""
    one, two, other = await three(store)
    assert (await order(one, "switchover", "two")).ok
    await pass_time(2, one)
    drain = one.node.drain

    async def pause_first(for_s: float) -> int:
        assert (await order(other, "pause")).ok
        return await drain(for_s)

    one.node.drain = pause_first  # type: ignore[method-assign]
    await pass_time(1, one)
    one.node.drain = drain  # type: ignore[method-assign]
    await pass_time(5, one, two, other)
    assert (one.leads, two.leads) == (True, False)
    assert "paused" in json.loads(store.items[f"{P}order"].value)["refused"]


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
async def test_old_leader_leads_again_when_the_node_of_a_switchover_dies(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    assert (await order(one, "switchover", "two")).ok
    await pass_time(3, one)
    assert not one.leads
    await pass_time(HAND_OVER_S + 4, one, other)
    assert one.leads
    assert f"{P}order" not in store.items
    await pass_time(5, one, two, other)
    assert one.leads


@told
async def test_switchover_is_refused_when_the_store_does_not_stop_writing(clock: HandClock, store: EtcdStore) -> None:
    one, _two, _other = await three(store)
    one.node.drains = False
    assert (await order(one, "switchover", "two")).ok
    await pass_time(3, one)
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
async def test_failover_by_force_makes_a_node_lead_despite_objections(clock: HandClock, store: EtcdStore) -> None:
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
async def test_failover_by_force_ends_the_term_of_a_living_leader(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    assert (await order(two, "failover", "other", force=True)).ok
    await pass_time(4, one, two, other)
    assert other.leads


@told
async def test_leader_that_is_being_stopped_waits_only_a_moment_for_who_is_not_connected(
    clock: HandClock, store: EtcdStore
) -> None:
    """All nodes are stopped at once."""
    one, two, other = await three(store)
    one.elector.leading.leave()
    assert (await order(one, "switchover")).ok
    one.node.set(followers={})
    await pass_time(1, one, two, other, tick_s=0.5)
    assert not json.loads(store.items[f"{P}order"].value).get("refused")
    await pass_time(1, one, two, other, tick_s=0.5)
    assert "is not connected" in json.loads(store.items[f"{P}order"].value)["refused"]


# ---- pause -----------------------------------------------------------------------------------------------------------


@told
async def test_paused_leader_goes_on_without_a_lease_and_no_other_node_takes_over(
    clock: HandClock, store: EtcdStore
) -> None:
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
async def test_pause_holds_although_etcds_answer_is_lost(clock: HandClock, store: EtcdStore) -> None:
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
async def test_resume_sets_the_deadline_before_the_key_has_a_lease_again(clock: HandClock, store: EtcdStore) -> None:
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
async def test_paused_leader_that_restarts_goes_on(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    await order(one, "pause")
    await one.step(2)
    await one.elector.stop()
    assert f"{P}leader" in store.items
    one.reboot()
    await pass_time(4, one, two, other)
    assert one.leads, "it waits for no lease of its own"
    assert one.elector.tenure.term == term
    assert (await order(two, "resume")).ok
    await pass_time(20, one, two, other)
    assert one.leads


@told
async def test_paused_leader_that_was_killed_goes_on_after_the_lease_of_its_earlier_life(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    await order(one, "pause")
    await one.step(2)
    one.reboot()
    await pass_time(4, one, two, other)
    assert "this node goes on when the key candidates/one of its earlier life" in one.elector.session.problem
    assert not one.leads
    await pass_time(14, one, two, other)
    assert (one.leads, one.elector.tenure.term, one.elector.session.problem) == (True, term, "")


@told
async def test_while_paused_a_lost_leader_is_replaced_only_by_force(clock: HandClock, store: EtcdStore) -> None:
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

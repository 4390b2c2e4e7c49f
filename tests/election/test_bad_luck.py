"""Bad luck in an election that must do no harm: a task of the process acts while another one waits for etcd, answers
are lost, requests reach etcd late, an etcd forgets."""

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest

from clusterd.election.etcd import EtcdUnavailable
from clusterd.election.hand_over import DRAIN_S
from clusterd.election.keys import LeaderKey, encode, fingerprint
from clusterd.election.leading import BAR_S, PROMOTION_S
from clusterd.settings import ClusterBlock, Secret, Settings
from ipc.board import FOR_EVER_NS
from tests.election.stories import P, at_most_one, last, order, pass_time, set_followers, three, told
from tests.fakes.etcd import EtcdStore, HandClock

# ---- the leader's key ------------------------------------------------------------------------------------------------


@told
async def test_node_that_promised_not_knowing_that_it_has_the_key_gives_it_back(
    clock: HandClock, store: EtcdStore
) -> None:
    """etcd gave it the key, the answer was lost, and the leader that goes on without etcd has asked in between."""
    one, two, other = await three(store, failsafe=True)
    await pass_time(20, one, two, other)
    term = one.elector.tenure.term
    store.end_lease(store.items[f"{P}leader"].lease)
    two.etcd.during = lambda call: setattr(two.etcd, "lost_answers", call == "txn")
    await two.step()
    two.etcd.during, two.etcd.lost_answers = lambda call: None, False
    assert f"{P}leader" in store.items
    assert two.elector.failsafe(term, "one").yes, "it does not know that it has the key"
    await pass_time(5, two)
    assert not two.leads
    assert f"{P}leader" not in store.items


@pytest.mark.parametrize("loss", ["late", "answer"])
def test_node_that_gave_the_lead_up_and_leads_again_never_serves_without_its_key(loss: str) -> None:
    """If etcd deleted the key while this node serves again, another node would lead beside it."""

    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        one, *_ = await three(store)
        one.node.set(is_known=False)
        one.reboot()
        clock.now += 16
        await pass_time(2, one)
        assert one.node.true.led == one.elector.session.view.term
        await pass_time(PROMOTION_S - 3, one, tick_s=2.0)
        assert not one.elector.leading.barred_why
        one.etcd.is_late = loss == "late"
        one.etcd.during = lambda call: setattr(one.etcd, "lost_answers", loss == "answer" and call == "txn")
        one.elector.session.is_live = True
        for _ in range(8):
            clock.now += 1
            await one.step()
            if one.elector.leading.barred_why:
                break
        assert one.elector.leading.barred_why
        one.etcd.during, one.etcd.lost_answers = lambda call: None, False
        waiting, one.etcd.waiting, one.etcd.is_late = one.etcd.waiting, [], False
        one.node.set(is_known=True)
        for _ in range(3):
            clock.now += 0.1
            await one.step()
        assert one.leads == (loss == "late")
        one.etcd.waiting = waiting
        one.etcd.thaw()
        assert one.leads == (f"{P}leader" in store.items), "it serves under a key that is gone"

    asyncio.run(story())


@told
async def test_leader_whose_pause_was_not_answered_goes_on_without_a_deadline(
    clock: HandClock, store: EtcdStore
) -> None:
    one, *_ = await three(store)
    assert (await order(one, "pause")).ok
    one.etcd.during = lambda call: setattr(one.etcd, "lost_answers", call == "txn")
    await one.step()
    one.etcd.during, one.etcd.lost_answers = lambda call: None, False
    await one.step(2)
    assert store.items[f"{P}leader"].lease == 0
    assert one.node.board_words[1] == FOR_EVER_NS


# ---- taking over -----------------------------------------------------------------------------------------------------


@told
async def test_node_killed_right_after_it_took_the_key_does_not_lead_without_the_agents(
    clock: HandClock, store: EtcdStore
) -> None:
    """The new life of the process has the key, but its store has not reported its state yet."""
    _one, two, other = await three(store)
    clock.now += 16
    two.etcd.during = lambda call: setattr(two.etcd, "lost_answers", call == "txn" and f"{P}leader" not in store.items)
    for _ in range(4):
        await two.step()
        if f"{P}leader" in store.items:
            break
    assert store.items[f"{P}leader"]
    two.etcd.during, two.etcd.lost_answers = lambda call: None, False
    two.node.set(is_known=False, state="", epoch="", position=0)
    two.restart()
    await pass_time(3, two, other)
    assert not two.node.without_agents
    assert not two.leads
    two.node.set(is_known=True, state="following", epoch="e", position=10)
    await pass_time(3, two, other)
    assert two.leads
    assert not two.node.without_agents


@told
async def test_node_with_the_key_but_no_whole_replica_gives_it_back(clock: HandClock, store: EtcdStore) -> None:
    _one, two, other = await three(store)
    two.etcd.during = lambda call: f"{P}leader" in store.items and two.node.set(state="copying") and None
    clock.now += 16
    await pass_time(3, two, other)
    assert not two.leads
    assert not two.node.without_agents
    assert f"{P}leader" not in store.items


@told
async def test_order_by_force_makes_a_node_lead_without_the_agents_that_it_lacks(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store)
    other.node.set(state="copying")
    assert (await order(one, "failover", "other", force=True)).ok
    await pass_time(4, one, two, other)
    assert other.leads
    assert other.node.without_agents == 1


# ---- handing over ----------------------------------------------------------------------------------------------------


@told
async def test_lead_is_not_handed_over_when_the_store_accepts_writes_again(clock: HandClock, store: EtcdStore) -> None:
    """The process `election` was stopped for longer than the store waits, but its lease has not ended."""
    one, two, other = await three(store, lease_s=60)
    assert (await order(one, "switchover", "other")).ok
    await pass_time(2, one)
    assert one.node.drained == 10
    set_followers(one, two, other)
    clock.now += DRAIN_S + 5
    one.node.set(position=15)
    two.node.set(position=15)  # it confirms: what is up to there was answered
    await one.step(2)
    await pass_time(3, one, two, other)
    assert one.leads
    assert last(store).confirming == "two"
    assert "did not catch up" in str(store.items[f"{P}order"].value)


@told
async def test_lead_is_not_handed_over_when_the_store_has_restarted(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    assert (await order(one, "switchover", "other")).ok
    await pass_time(2, one)
    one.node.set(position=1_000_015)
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "two", 1_000_015)).ok
    one.node.set(followers={"two": 1_000_015, "other": 1_000_000})
    await pass_time(2, one)
    assert one.leads
    assert (last(store).confirming, last(store).floor) == ("two", 1_000_015)
    assert "taken writes" in str(store.items[f"{P}order"].value)
    assert one.node.drained is None
    at_most_one(one, two, other)


@told
async def test_order_by_force_deletes_no_key_before_its_lease_ends(clock: HandClock, store: EtcdStore) -> None:
    """The leader has not seen the pause yet: it serves until its deadline, though its own key in etcd is gone."""
    one, two, other = await three(store)
    assert (await order(other, "pause")).ok
    del store.items[f"{P}candidates/one"]
    assert (await order(other, "failover", "two", force=True)).ok
    assert f"{P}leader" in store.items
    await pass_time(30, two, one, other)
    assert two.leads


# ---- what was read ---------------------------------------------------------------------------------------------------


@told
async def test_late_answer_does_not_replace_a_newer_one(clock: HandClock, store: EtcdStore) -> None:
    one, *_ = await three(store)
    session, found = one.elector.session, asyncio.Event()
    real = one.etcd.read

    async def slow(prefix: str) -> Any:
        snapshot = await real(prefix)
        one.etcd.read = real  # type: ignore[method-assign]
        await found.wait()
        return snapshot

    one.etcd.read = slow  # type: ignore[method-assign]
    first = asyncio.create_task(session.read())
    await asyncio.sleep(0.01)
    store.put(f"{P}order", b"x")
    await session.read()
    assert session.view.order_revision
    found.set()
    await first
    assert session.view.order_revision, "it was there already"
    assert not [line for line in one.node.lines if "went back" in line]


@told
async def test_store_with_a_new_log_keeps_the_name_that_it_has_just_set(clock: HandClock, store: EtcdStore) -> None:
    """A step that began earlier uses the store's earlier answer."""
    one, *_ = await three(store)
    term = one.elector.tenure.term
    for number in range(8):
        clock.now += 3

        async def late(number: int = number) -> Any:
            for _ in range(number):
                await asyncio.sleep(0)
            one.node.set(epoch=f"log {number}", position=5)
            return await one.elector.leading.set_confirming(term, "other", 5)

        found, _ = await asyncio.gather(late(), one.step())
        assert found.ok
        await one.step(2)
        assert (last(store).confirming, last(store).epoch) == ("other", f"log {number}")


# ---- roles -----------------------------------------------------------------------------------------------------------


@told
async def test_failed_demotion_is_not_begun_again_each_second(clock: HandClock, store: EtcdStore) -> None:
    """Each attempt stops and starts all processes of the node."""
    one, two, other = await three(store)
    one.node.fails = "No space left on device"
    clock.now += 16
    await pass_time(3, two, other)
    assert two.leads
    await pass_time(30, one, two, other)
    assert one.node.demotions == 1
    assert "No space left" in one.elector.session.problem
    one.node.fails = ""
    await pass_time(BAR_S, one, two, other)
    assert not one.node.true.is_master


@told
async def test_leader_whose_store_is_away_lets_another_node_lead(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.node.set(is_known=False)
    await pass_time(PROMOTION_S - 5, one, two, other)
    assert one.leads
    two.node.set(may_not_lead="its files are incomplete")
    await pass_time(10, one, two, other)
    assert one.leads, "nobody else can"
    two.node.set(may_not_lead="")
    await pass_time(5, one, two, other)
    assert two.leads


# ---- failsafe --------------------------------------------------------------------------------------------------------


@told
async def test_promise_lasts_as_long_as_the_leader_goes_on(clock: HandClock, store: EtcdStore) -> None:
    """The leases of leader and candidates may differ."""
    one, two, other = await three(store, failsafe=True, lease_s=60)
    for node in (two, other):
        node.me = msgspec.structs.replace(node.me, lease_s=15)
        node.restart()
    await pass_time(70, one, two, other)
    one.etcd.away = True
    term, agrees = one.elector.tenure.term, [True]

    def ask() -> None:
        for node in (two, other) if agrees else ():
            assert node.elector.failsafe(term, "one", one.node.asked_for_s).yes
        one.node.agreed = {"two": bool(agrees), "other": bool(agrees)}

    one.node.on_ask = ask
    await pass_time(30, one, two, other)
    assert one.elector.tenure.is_failsafe
    agrees.clear()
    await pass_time(90, one, two, other)
    assert two.leads


@told
async def test_lease_of_a_shorter_duration_is_not_taken_up_again(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    one.me = msgspec.structs.replace(one.me, lease_s=60)
    one.restart()
    await pass_time(3, one, two, other)
    clock.now += 16
    await pass_time(3, two, other)
    at_most_one(one, two, other)
    assert two.leads


@told
async def test_leader_that_does_not_know_the_members_does_not_go_on_without_etcd(
    clock: HandClock, store: EtcdStore
) -> None:
    one, *_ = await three(store, failsafe=True)
    one.node.set(known=())
    one.node.saved = None
    one.etcd.away = True
    one.restart()
    await pass_time(16, one)
    assert not one.leads
    assert "who else takes part is not known" in " ".join(one.node.lines)


@told
async def test_node_that_cannot_keep_a_promise_gives_none(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store, failsafe=True)
    term = one.elector.tenure.term
    two.node.is_full = True
    assert "on its disk" in two.elector.failsafe(term, "one").why
    other.elector.me = msgspec.structs.replace(other.me, failsafe=False)
    assert "failsafe is off" in other.elector.failsafe(term, "one").why


# ---- nonsense in etcd ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advertise", ["[", "nonsense", "a:b", "a:99999", "a b:1516", "a\0:1516", ""])
def test_leader_without_a_valid_address_is_not_followed(advertise: str) -> None:
    """Otherwise nodes would no longer dial any other node."""

    async def story() -> None:
        clock = HandClock()
        store = EtcdStore(clock)
        _one, two, _ = await three(store)
        before = two.node.true
        store.put(f"{P}leader", encode(LeaderKey("evil", "i", advertise)))
        await two.step(2)
        assert two.node.true == before
        assert "cannot be read" in two.elector.session.problem

    asyncio.run(story())


# ---- what etcd has of the key ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_fingerprint_in_etcd_is_no_fast_hash_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of etcd could try a dictionary of keys."""
    calls: list[int] = []
    real = hashlib.scrypt

    def scrypt(password: bytes, **options: Any) -> bytes:
        calls.append(options["n"] * options["r"] * 128)
        return real(password, **options)

    monkeypatch.setattr(hashlib, "scrypt", scrypt)

    def of(name: str, key: bytes) -> str:
        return fingerprint(Settings("/", cluster=ClusterBlock(name=name, key=Secret(key))))

    found = [of("a", b"1"), of("a", b"2"), of("b", b"1"), of("a", b"1")]
    assert len(set(found)) == 3
    assert found[0] == found[3]
    assert min(calls) >= 16 << 20
    assert len(calls) == 4


@told
async def test_leader_whose_lease_is_gone_stops_before_it_asks_for_another(clock: HandClock, store: EtcdStore) -> None:
    """Somebody has revoked it. The keys are free at once, and etcd is away when this node asks for another lease."""
    one, two, other = await three(store)
    store.end_lease(one.elector.session.lease)

    def away(call: str) -> None:
        if call == "grant":
            raise EtcdUnavailable("no member answers")

    one.etcd.during = away
    clock.now += 4
    await one.step()
    assert not one.leads
    await pass_time(4, two, other, one)
    assert two.leads, two.elector.session.waits_for


@told
async def test_leader_that_has_seen_its_key_go_stops_though_etcd_answers_nothing_more(
    clock: HandClock, store: EtcdStore
) -> None:
    one, _two, _other = await three(store)
    store.items.pop(f"{P}leader")
    store.revision += 1
    await one.elector.session.read()  # as the watch tells of it
    one.etcd.away = True
    await one.step()
    assert not one.leads

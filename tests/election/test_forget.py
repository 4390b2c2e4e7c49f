"""`clusterd ha forget`: a lost candidate is asked no more, and one that was forgotten by mistake cannot lead beside a
leader that does not ask it."""

import pytest

from tests.election.stories import P, last, order, pass_time, set_followers, three, told
from tests.fakes.etcd import EtcdStore, HandClock, Voter


async def away(one: Voter, two: Voter, other: Voter) -> None:
    """`other` is stopped for good."""
    await other.elector.stop()
    one.node.set(followers={"two": one.node.true.position})
    await pass_time(2, one, two)


@told
async def test_forgotten_candidate_is_not_asked_in_a_failsafe(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store, failsafe=True)
    await away(one, two, other)
    one.node.agreed = {"two": True}
    found = await order(two, "forget", "other")
    assert found.ok, found.text
    assert f"{P}members/other" not in store.items
    await pass_time(2, one, two)
    assert one.node.forgotten == ["other"], "its row in `ha status` goes, too"
    one.etcd.away = two.etcd.away = True
    await pass_time(60, one, two)
    assert one.leads
    assert set(one.node.asked) == {("two",)}


@told
async def test_candidate_that_is_not_forgotten_keeps_a_leader_from_going_on(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store, failsafe=True)
    await away(one, two, other)
    one.node.agreed = {"two": True}
    one.etcd.away = two.etcd.away = True
    await pass_time(60, one, two)
    assert not one.leads
    assert set(one.node.asked) == {("other", "two")}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("one", "one has the leader's key"),
        ("other", "other is alive"),
        ("nobody", "no candidate nobody that is away; away: none"),
    ],
)
def test_living_candidate_is_not_forgotten(name: str, reason: str) -> None:
    @told
    async def story(clock: HandClock, store: EtcdStore) -> None:
        _, two, _ = await three(store)
        before = dict(store.items)
        found = await order(two, "forget", name)
        assert not found.ok
        assert reason in found.text
        assert store.items == before

    story()


@told
async def test_candidate_with_the_last_answered_changes_is_not_forgotten(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    assert last(store).confirming == "two"
    await two.elector.stop()
    await pass_time(2, one, other)
    assert "Try again in a moment" in (await order(other, "forget", "two")).text
    one.etcd.away = True
    await pass_time(40, one, other)
    found = await order(other, "forget", "two")
    assert "two has what was answered last. Bring it back" in found.text
    assert (await order(other, "failover", "other", force=True)).ok
    await pass_time(5, other)
    assert other.leads
    assert (await order(other, "forget", "two")).ok


@told
async def test_candidate_forgotten_by_mistake_leads_only_after_a_leader_has_answered_it(
    clock: HandClock, store: EtcdStore
) -> None:
    """The leader goes on without etcd and does not ask this node: it must not lead meanwhile, although it has
    everything."""
    one, two, other = await three(store, failsafe=True)
    other.node.is_linked, other.etcd.away = False, True
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "", 10)).ok
    one.node.set(followers={"two": 10})
    await pass_time(20, one, two, other)
    assert (await order(two, "forget", "other")).ok
    await pass_time(2, one, two)
    # Now the others lose etcd, and the forgotten node reaches it again.
    one.etcd.away = two.etcd.away = True
    other.etcd.away = False
    one.node.agreed = {"two": True}
    await pass_time(100, one, two, other)
    assert (one.leads, other.leads) == (True, False)
    assert "it was forgotten (clusterd ha forget)" in other.elector.session.waits_for
    assert f"{P}members/other" not in store.items

    # Everything works again: it takes part.
    one.etcd.away = two.etcd.away = False
    await pass_time(5, one, two, other)
    assert one.leads
    other.node.is_linked = True
    set_followers(one, two, other)
    await pass_time(3, one, two, other)
    assert f"{P}members/other" in store.items
    await one.elector.stop()
    await two.elector.stop()
    await pass_time(20, other)
    assert other.leads

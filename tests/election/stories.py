"""Shared by the tests of the election: three nodes on an etcd in memory, and a clock that tests move."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from clusterd.election.facts import Facts
from clusterd.election.keys import LastKey
from clusterd.election.orders import Orders
from clusterd.messages.election import HaAnswer, HaCommand
from tests.fakes.etcd import EtcdStore, HandClock, Voter, candidate, master

P = "/clusterd/wazuh/"
Story = Callable[..., Coroutine[Any, Any, None]]


def told(story: Story) -> Callable[[], None]:
    """Makes a test of a coroutine, with a clock and an etcd of its own."""

    def test() -> None:
        clock = HandClock()
        asyncio.run(story(clock, EtcdStore(clock)))

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


async def pass_time(seconds: float, *nodes: Voter, tick_s: float = 1.0) -> None:
    """Moves the clock; these nodes do their steps. Fails when two of them serve at the same time."""
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
    """Returns a leading master and two candidates with whole replicas; the first one is the confirming one."""
    one = Voter(store, "one", master(), **more)
    two, other = (Voter(store, name, candidate(), **more) for name in ("two", "other"))
    for node in (one, two, other):
        await node.step(3)
    assert one.leads
    set_followers(one, two, other)
    for node in (two, other, one):
        await node.step()
    assert (await one.elector.leading.set_confirming(one.elector.tenure.term, "two", 10)).ok
    return one, two, other


def set_followers(leader: Voter, *others: Voter) -> None:
    """Makes these candidates equal to the leader."""
    facts = leader.node.true
    for one in others:
        one.node.set(**whole_of(facts), lag=0, may_not_lead="")
    names = {one.name: facts.position for one in others}
    leader.node.set(followers=names, known=tuple(names))


def whole_of(leader: Facts) -> dict[str, Any]:
    """Returns the facts of a candidate whose replica is equal to this master's log."""
    return {"state": "following", "epoch": leader.epoch, "past": leader.past, "position": leader.position}


def last(store: EtcdStore) -> LastKey:
    return msgspec.json.decode(store.items[f"{P}last"].value, type=LastKey)


async def order(voter: Voter, kind: str, to: str = "", **more: Any) -> HaAnswer:
    return await Orders(voter.elector, voter.node, voter.store.clock).answer(HaCommand(kind, to, **more))  # type: ignore[arg-type]

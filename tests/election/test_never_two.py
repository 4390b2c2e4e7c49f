"""Random histories of three nodes and an etcd: never do two nodes serve at the same time, nothing answered is lost,
terms only grow, and once everything works again a node leads."""

import asyncio
import random
from typing import Any

import pytest

from tests.election.stories import order, whole_of
from tests.fakes.etcd import EtcdStore, HandClock, Voter, candidate, master

NAMES = ("one", "two", "other")
COPY_S = 40.0


class World:
    """Nodes that are frozen, cut off, killed and given orders. Each has a list of its writes; its position is the
    length of the list. The leader answers a write as the store does: when the confirming candidate has it, or when etcd
    says that no candidate confirms. A candidate continues at once from another leader's log if that log shares a
    position with its own (clusterd/store/replica_copy.py); otherwise it makes a full copy."""

    def __init__(self, seed: int, *, failsafe: bool) -> None:
        self.random = random.Random(seed)
        self.unrest = (0.03, 0.06, 0.25)[seed % 3]
        """With fewer events at a time the lead changes hands more often."""
        self.clock = HandClock()
        self.store = EtcdStore(self.clock)
        more = {"failsafe": failsafe}
        self.nodes = [Voter(self.store, "one", master(position=0), **more)]
        self.nodes += [Voter(self.store, name, candidate(position=0), **more) for name in NAMES[1:]]
        self.frozen: dict[str, float] = {}
        self.cut: set[str] = set()
        self.content: dict[str, list[int]] = {name: [] for name in NAMES}
        self.copied_at: dict[str, float] = {}
        self.confirming: dict[str, tuple[int, str | None]] = {}
        self.answered: list[int] = []
        self.writes = 0
        self.terms = 0
        self.served: list[str] = []
        for node in self.nodes:
            node.node.on_ask = lambda node=node: self.ask_failsafe(node)  # type: ignore[misc]

    def is_awake(self, node: Voter) -> bool:
        return self.frozen.get(node.name, 0.0) <= self.clock.now

    def linked(self, one: Voter, other: Voter) -> bool:
        return self.is_awake(one) and self.is_awake(other) and not self.cut & {one.name, other.name}

    def ask_failsafe(self, leader: Voter) -> None:
        asked = [one for one in self.nodes if one is not leader and self.linked(leader, one)]
        term = leader.elector.tenure.term
        leader.node.agreed = {one.name: one.elector.failsafe(term, leader.name).yes for one in asked}

    def leaders(self) -> list[Voter]:
        return [node for node in self.nodes if node.leads]

    def check(self) -> None:
        leading = self.leaders()
        assert len(leading) <= 1, [node.name for node in leading]
        for node in leading:
            term = node.node.board_words[0]
            assert term >= self.terms, "a term that is over serves again"
            self.terms = term
            lost = set(self.answered) - set(self.content[node.name])
            assert not lost, f"{node.name} leads and has not what was answered: {sorted(lost)[:5]}"
            if not self.served or self.served[-1] != node.name:
                self.served.append(node.name)

    def replicate(self) -> None:
        """Linked candidates get what their master has; the master learns of it."""
        for leader in self.nodes:
            facts = leader.node.true
            if not facts.is_master or facts.is_changing or not self.is_awake(leader):
                continue
            followers = {}
            for one in self.nodes:
                theirs = one.node.true
                is_its = theirs.term == facts.led and not theirs.is_master and not theirs.is_changing
                if one is leader or not is_its or not self.linked(leader, one) or self.random.random() < 0.2:
                    continue
                if not self.has_replica_of(one, leader):
                    continue
                self.content[one.name] = list(self.content[leader.name])
                one.node.set(**whole_of(facts))
                followers[one.name] = facts.position
            leader.node.set(followers=followers, known=tuple(followers))

    def has_replica_of(self, one: Voter, leader: Voter) -> bool:
        """Whether this node can have a whole replica by now."""
        theirs, facts = one.node.true, leader.node.true
        own = {theirs.epoch, *dict(theirs.past)} if theirs.state == "following" else set()
        if own & {facts.epoch, *dict(facts.past)}:
            self.copied_at.pop(one.name, None)
            return True
        one.node.set(state="copying")
        return self.clock.now >= self.copied_at.setdefault(one.name, self.clock.now + COPY_S)

    async def write(self) -> None:
        """A client registers through the node that leads."""
        for leader in self.leaders():
            if not self.is_awake(leader) or leader.node.drained is not None:
                continue
            self.writes += 1
            self.content[leader.name].append(self.writes)
            leader.node.set(position=len(self.content[leader.name]))
            number, term = self.writes, leader.node.true.led
            wanted = next(
                (
                    one
                    for one in self.nodes
                    if one is not leader
                    and self.linked(leader, one)
                    and one.node.true.state == "following"
                    and one.node.true.epoch == leader.node.true.epoch
                ),
                None,
            )
            name = "" if wanted is None else wanted.name
            set_term, set_name = self.confirming.get(leader.name, (0, None))
            if (set_term, set_name) != (term, name):
                self.confirming.pop(leader.name, None)  # what etcd has is not known if the answer does not come
                if not (await leader.elector.leading.set_confirming(term, name, len(self.content[leader.name]))).ok:
                    continue
                self.confirming[leader.name] = term, name
            if wanted is not None:
                self.content[wanted.name] = list(self.content[leader.name])
                wanted.node.set(position=leader.node.true.position)
            if leader.leads and wanted is not None:
                self.answered.append(number)  # otherwise it may be lost with the leader

    async def disturb(self) -> None:
        rand, node = self.random, self.random.choice(self.nodes)
        if self.leaders() and rand.random() < 0.5:
            node = self.leaders()[0]
        match rand.randrange(12):
            case 0:
                self.frozen[node.name] = self.clock.now + rand.choice((1, 5, 14, 40))
            case 1:
                node.etcd.away = not node.etcd.away
            case 2:
                self.cut ^= {node.name}
            case 3 if self.is_awake(node):
                node.restart()
            case 4 if self.is_awake(node):
                node.node.drained = None
                node.reboot()
            case 5:
                node.etcd.slow_s = rand.choice((0.0, 0.0, 0.3, 1.0))
            case 6:
                node.etcd.lost_answers = not node.etcd.lost_answers
            case 7:
                node.node.prompt = not node.node.prompt
                node.node.end_change()
            case 8:
                node.node.fails = "" if node.node.fails else "no room"
            case 9 if self.is_awake(node):
                await order(node, "switchover", rand.choice(("", *NAMES)))
            case 10 if self.is_awake(node):
                await order(node, rand.choice(("pause", "resume", "resume")))
            case 11 if self.is_awake(node) and node.leads and rand.random() < 0.3:
                await node.elector.stop()
                node.node.drained = None
                node.reboot()

    def heal(self) -> None:
        self.frozen.clear()
        self.cut.clear()
        for node in self.nodes:
            node.etcd.away = node.etcd.lost_answers = False
            node.etcd.slow_s = 0.0
            node.node.prompt, node.node.fails = True, ""
            node.node.end_change()

    def kill(self, node: Voter) -> None:
        """Kills the node for good."""
        self.frozen[node.name] = float("inf")

    async def until_led(self, turns: int = 200) -> Voter:
        """Runs on undisturbed until a node leads and serves."""
        for _ in range(turns):
            await self.turn(disturbed=False)
            for leader in self.leaders():
                if self.is_awake(leader):
                    return leader
        raise AssertionError([node.elector.session.waits_for or node.elector.session.problem for node in self.nodes])

    async def turn(self, *, disturbed: bool) -> None:
        self.clock.now += self.random.choice((0.1, 0.3, 1.0))
        self.check()
        if disturbed and self.random.random() < self.unrest:
            await self.disturb()
        self.replicate()
        for node in self.random.sample(self.nodes, len(self.nodes)):
            if self.is_awake(node):
                await node.step()
                self.check()
        await self.write()
        self.check()


def seeds(count: int) -> list[Any]:
    """`make check` has three of them."""
    return [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 3)) for seed in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("failsafe", [False, True])
@pytest.mark.parametrize("seed", seeds(12))
def test_never_two_nodes_lead_and_nothing_answered_is_lost(seed: int, failsafe: bool) -> None:
    async def story() -> None:
        world = World(seed, failsafe=failsafe)
        for _ in range(400):
            await world.turn(disturbed=True)
        world.heal()
        await order(world.nodes[0], "resume")
        for _ in range(400):
            await world.turn(disturbed=False)
        assert world.leaders(), [node.elector.session.waits_for or node.elector.session.problem for node in world.nodes]
        assert world.answered

    asyncio.run(story())


@pytest.mark.slow
@pytest.mark.parametrize("failsafe", [False, True])
@pytest.mark.parametrize("seed", seeds(6))
def test_second_loss_right_after_a_takeover_is_survived(seed: int, failsafe: bool) -> None:
    """After any history a leader is killed for good, another node takes over, a candidate has just learnt what that one
    has, and that one is killed, too. The last node leads, with everything answered."""

    async def story() -> None:
        world = World(seed, failsafe=failsafe)
        for _ in range(100):
            await world.turn(disturbed=True)
        world.heal()
        await order(world.nodes[0], "resume")
        for _ in range(100):
            await world.turn(disturbed=False)
        first = await world.until_led()
        for _ in range(20):
            await world.turn(disturbed=False)
        world.kill(first)
        second = await world.until_led()
        (third,) = (node for node in world.nodes if node not in (first, second))
        while world.content[third.name] != world.content[second.name] or third.node.true.state != "following":
            world.replicate()
            assert not world.copied_at, "it copies everything, for a long time"
        world.kill(second)
        assert await world.until_led() is third

    asyncio.run(story())

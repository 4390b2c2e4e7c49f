"""One node's part in the election of the master (docs/ha.md): holds a lease in etcd, takes the leader's key when it is
this node's turn, and leads only until a moment that the lease outlives.

A step looks at etcd and at the node and does what follows. Nothing is remembered that etcd, `role.json` or the board
do not say, so a step may fail anywhere and the next one goes on from there.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from clusterd.election import rules
from clusterd.election.etcd import (
    Compare,
    Delete,
    EtcdRefused,
    EtcdUnavailable,
    Item,
    LeaseLost,
    Put,
    Snapshot,
    TxnResult,
)
from clusterd.election.facts import Facts, Kept, NodePort
from clusterd.election.keys import (
    CANDIDATES,
    CONFIG,
    LAST,
    LEADER,
    MEMBERS,
    ORDER,
    CandidateKey,
    Config,
    EtcdView,
    LastKey,
    LeaderKey,
    MemberKey,
    OrderKey,
    encode,
    view_of,
)
from clusterd.errors import ClusterError
from clusterd.messages.election import ConfirmingSet, FailsafeAnswer
from clusterd.messages.journal import ElectionEvent
from ipc.board import FOR_EVER_NS

MARGIN_S = 3.0
"""A leader stops this long before its lease can end: what it has begun ends in that time, and clocks may differ."""
MARGIN_SHARE = 0.2
"""The margin of a short lease, as a part of it."""
READ_S = 5.0
"""How often everything is read although changes come by themselves: those of a member that was cut off come late."""
TELL_S = 2.0
"""How often a candidate says how far its replica is."""
PROMOTION_S = 120.0
"""A node that has taken the lead and does not serve after this time lets others."""
BAR_S = 60.0
"""How long a node whose promotion failed does not try again."""
HAND_OVER_S = 10.0
"""How long a switchover may take on each side; then the old leader goes on."""
DRAIN_S = 15.0


class EtcdClient(Protocol):
    """The part of clusterd/election/etcd.py that an elector uses."""

    async def grant(self, ttl_s: int) -> int: ...

    async def keep_alive(self, lease: int) -> int: ...

    async def revoke(self, lease: int) -> None: ...

    async def read(self, prefix: str) -> Snapshot: ...

    async def txn(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult: ...


class Times(Protocol):
    """Clocks: of the boot, which goes on while the machine sleeps, and of the wall; seconds."""

    def boot(self) -> float: ...

    def wall(self) -> float: ...


class Identity(msgspec.Struct, frozen=True):
    """What this node says of itself and was configured to do. `prefix`: with a slash at its end."""

    name: str
    cluster: str
    fingerprint: str
    advertise: str
    prefix: str
    version: str = ""
    priority: int = 100
    lease_s: int = 15
    max_lag: int = 1000
    failsafe: bool = False


class HandOver(msgspec.Struct):
    """A switchover under way on the leader. `position`: of the last write; None until the store is drained."""

    order: str
    to: str
    give_up_at: float
    position: int | None = None


class Elector:
    """Owner of the session and of what this node holds. `step` is called again and again, by one task; the other
    methods by whoever asks."""

    def __init__(self, me: Identity, etcd: EtcdClient, node: NodePort, times: Times) -> None:
        self._me, self._etcd, self._node, self._times = me, etcd, node, times
        kept = node.kept()
        self._id = kept.id if kept else uuid.uuid4().hex
        self._lease = kept.lease if kept else 0
        # A node that begins anew has forgotten what it promised before.
        first = times.boot() + me.lease_s if me.failsafe else 0.0
        self._promised_until = kept.promised_until_s if kept else first
        self._members = kept.members if kept else ()
        self._since = times.wall()
        self.margin_s = min(MARGIN_S, me.lease_s * MARGIN_SHARE)
        self._tried_at = float("-inf")
        self._renewed_at = float("-inf")
        """When the last successful renewal was sent."""
        self.away = ""
        """Why etcd cannot be asked; empty: it can."""
        self._away_told = False
        self.view = EtcdView()
        self.items: dict[str, Item] = {}
        self.is_live = False
        """Whether changes in etcd come by themselves (`changed`); otherwise each step reads."""
        self._is_known = False
        self._read_at = float("-inf")
        self._term = 0
        """The term in which this node leads now, as the board says; 0: it does not."""
        self._until = 0.0
        self._is_for_ever = False
        self._is_failsafe = False
        self._take_on_board()
        self._absent_since: float | None = None
        self._begun: int = 0
        """The term for which the change of role was begun by this process."""
        self._begun_at = 0.0
        self._barred_until = float("-inf")
        self._barred_why = ""
        self._told_at = float("-inf")
        self._told: CandidateKey | None = None
        self._hand_over: HandOver | None = None
        self._writing = asyncio.Lock()
        self.problem = ""
        """What keeps this node from its part; empty: nothing does."""
        self.waits_for = ""
        """While nobody leads: why this node does not."""
        self._said = ""

    def _take_on_board(self) -> None:
        """What an earlier life of this process has put there counts on, until its end."""
        term, until_ns = self._node.board()
        if until_ns == FOR_EVER_NS:
            self._term, self._is_for_ever = term, True
        elif until_ns / 1e9 > self._times.boot():
            self._term, self._until = term, until_ns / 1e9

    @property
    def prefix(self) -> str:
        return self._me.prefix

    @property
    def cluster(self) -> str:
        return self._me.cluster

    @property
    def fingerprint(self) -> str:
        return self._me.fingerprint

    def wall(self) -> float:
        """Wall-clock seconds."""
        return self._times.wall()

    @property
    def term(self) -> int:
        """In which this node leads now; 0: it does not."""
        return self._term

    @property
    def renew_s(self) -> float:
        return self._me.lease_s / 5

    # ---- a step ------------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Raises nothing that etcd or the node may do."""
        with self._etcd_may_be_away():
            await self._keep_session()
        self._mind_the_end()
        with self._etcd_may_be_away():
            if not self.away:
                if not self.is_live or not self._is_known or self._times.boot() >= self._read_at + READ_S:
                    await self.read()
                await self._follow()
        if self.away and self._term and self._me.failsafe:
            await self._go_on_without_etcd()
        self._mind_the_end()

    @contextlib.contextmanager
    def _etcd_may_be_away(self) -> Iterator[None]:
        try:
            yield
        except (EtcdUnavailable, EtcdRefused) as failure:
            self._is_away(str(failure))
        except LeaseLost:
            self._lease_is_lost()

    def _is_away(self, why: str) -> None:
        self.away = why
        if not self._away_told:
            self._away_told = True
            self._node.say("WARNING", f"etcd cannot be asked: {why}.")
            self._node.tell(ElectionEvent(what="etcd_lost", term=self._term, why=why))

    def _is_back(self) -> None:
        self.away = ""
        self._is_failsafe = False
        if self._away_told:
            self._away_told = False
            self._node.say("INFO", "etcd answers again.")
            self._node.tell(ElectionEvent(what="etcd_back", term=self._term))

    async def read(self) -> None:
        """Everything below the prefix, anew. Raises EtcdUnavailable, EtcdRefused."""
        found = await self._etcd.read(self._me.prefix)
        self._read_at = self._times.boot()
        self.set_items(found.revision, found.items)

    def set_items(self, revision: int, items: dict[str, Item]) -> None:
        """What stands in etcd at this revision."""
        if self._is_known and revision < self.view.revision and self.view.config is not None:
            # etcd was made anew, or a backup put in its place.
            self._node.say("WARNING", f"etcd went back from revision {self.view.revision} to {revision}.")
        self.items = items
        self.view = view_of(self._me.prefix, revision, items)
        self._is_known = True
        if self.view.members:
            members = tuple(sorted(self.view.members))
            if members != self._members:
                self._members = members
                self._keep()

    def _keep(self) -> None:
        self._node.keep(Kept(self._id, self._lease, self._promised_until, self._members))

    # ---- the session and the deadline --------------------------------------------------------------------------------

    async def _keep_session(self) -> None:
        """Renews the lease when it is due, takes another one for one that is lost. Raises EtcdUnavailable,
        EtcdRefused."""
        now = self._times.boot()
        if self._lease and now < self._tried_at + self.renew_s and not self.away:
            return
        self._tried_at = sent = now
        if self._lease:
            try:
                await self._etcd.keep_alive(self._lease)
            except LeaseLost:
                self._lease_is_lost()
                sent = self._times.boot()
        if not self._lease:
            self._lease = await self._etcd.grant(self._me.lease_s)
            self._keep()
        self._renewed_at = sent
        self._is_back()
        if self._term:
            await self._confirm()

    async def _confirm(self) -> None:
        """The key is still ours: the lease counts. What followers must know of this node is written with it."""
        held = self.view.leader
        if held is None or held.key.id != self._id or self.view.term != self._term:
            if self._is_known and not self.view.leader:
                return  # `_follow` ends it
            await self.read()
            held = self.view.leader
            if held is None or held.key.id != self._id or self.view.term != self._term:
                return
        facts = self._node.facts()
        if not await self._write_last(facts, self._confirming):
            self.is_live, self._is_known = False, False
            self._stop_leading("the leader's key in etcd is not this node's any more")
            return
        if not self._is_for_ever:
            self._extend(self._renewed_at)

    def _extend(self, sent: float) -> None:
        until = sent + self._me.lease_s - self.margin_s
        if self._term and until > max(self._until, self._times.boot()):
            self._until = until
            self._node.lead(self._term, int(until * 1e9))

    def _lease_is_lost(self) -> None:
        self._lease, self._told, self._told_at = 0, None, float("-inf")
        self._tried_at = float("-inf")
        self._is_known = False
        self._keep()
        if self._term and not self._is_for_ever:
            self._stop_leading("etcd does not know this node's lease any more")

    def _mind_the_end(self) -> None:
        """The processes look at the end themselves; here follows what must be done and said."""
        if self._term and not self._is_for_ever and self._times.boot() >= self._until:
            why = f"the lease could not be renewed in time: {self.away}" if self.away else "this process came too late"
            self._stop_leading(why)

    def _start_leading(self, term: int, *, for_ever: bool) -> None:
        self._term, self._is_for_ever, self._until = term, for_ever, 0.0
        if for_ever:
            self._node.lead(term, FOR_EVER_NS)
        else:
            self._extend(self._renewed_at)
            if not self._until:
                self._term = 0
                return
        self._absent_since, self.waits_for = None, ""
        self._node.say("INFO", f"This node leads in term {term}{', without an end' if for_ever else ''}.")
        self._node.tell(ElectionEvent(what="leads", term=term, leader=self._me.name))
        self._node.run_program("promote", term, self._me.name)

    def _stop_leading(self, why: str) -> None:
        term, self._term, self._until, self._is_for_ever = self._term, 0, 0.0, False
        self._is_failsafe = False
        self._node.lead(term, 0)
        if not term:
            return
        self._hand_over = None
        self._node.say("WARNING", f"This node leads no more (term {term}): {why}.")
        self._node.tell(ElectionEvent(what="stepped_down", term=term, leader=self.view.leader_name, why=why))
        self._node.run_program("demote", term, self.view.leader_name)

    # ---- what etcd says ----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        if not self._lease:
            return
        facts, view = self._node.facts(), self.view
        self.problem = ""
        if view.config is None:
            await self._without_config(facts)
            return
        if view.config.fingerprint != self._me.fingerprint:
            self.problem = (
                f"the prefix {self._me.prefix} in etcd is that of a cluster with another key or name: correct "
                "clusterd.ha.prefix, or <key> and <name>"
            )
            if self._term:
                self._stop_leading("the prefix in etcd belongs to another cluster")
            return
        await self._publish(facts)
        held = self.view.leader
        if held is not None and held.key.id == self._id:
            self._absent_since = None
            await self._as_leader(facts)
        elif held is not None:
            self._absent_since = None
            await self._under_another(facts)
        else:
            if self._term:
                self._stop_leading("the leader's key in etcd is gone")
            await self._without_leader(facts)

    async def _without_config(self, facts: Facts) -> None:
        if self._term:
            self._stop_leading("etcd has forgotten this cluster")
        await self._publish(facts)
        if facts.is_configured_master and facts.term == 0 and CONFIG not in self.view.unreadable:
            me = self._me
            await self.change(
                [Compare(self.key(CONFIG), "create_revision", 0)],
                [Put(self.key(CONFIG), encode(Config(me.cluster, me.fingerprint, 0, me.name)))],
            )
            return
        self.problem = self.waits_for = (
            "etcd knows nothing of this cluster, nobody leads. If this is the node to lead: clusterd ha bootstrap"
            if facts.term
            else "etcd knows nothing of this cluster yet: the configured master has not been here"
        )

    def key(self, name: str) -> str:
        return self._me.prefix + name

    async def change(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult:
        """A transaction; what it has done is seen at once. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        found = await self._etcd.txn(when, then)
        if then or not found.succeeded:
            await self.read()
        return found

    def _is_leaders(self) -> Compare:
        """The guard of whatever only the leader writes."""
        held = self.view.leader
        return Compare(self.key(LEADER), "create_revision", -1 if held is None else held.create_revision)

    # ---- this node has the leader's key ------------------------------------------------------------------------------

    async def _as_leader(self, facts: Facts) -> None:
        view, held = self.view, self.view.leader
        assert view.config is not None
        assert held is not None
        if held.lease not in (0, self._lease):
            self.waits_for = "the lease of an earlier life of this node has not ended yet"
            if self._term and not self._is_for_ever:
                self._stop_leading("its lease is that of an earlier life")
            return
        term, now = view.term, self._times.boot()
        if facts.is_master and facts.led == term and not facts.is_changing:
            await self._serve(facts, term)
            return
        if self._term:
            self._stop_leading(f"its role is not that of term {term}")
        if facts.is_changing:
            if self._begun_at and now > self._begun_at + PROMOTION_S:
                await self._give_up(f"the promotion has not ended within {PROMOTION_S:g} s")
            return
        if facts.term >= term:
            await self._give_up(
                f"this node has seen term {facts.term}, and etcd makes term {term}: was a backup of it put in place?"
            )
            return
        if self._begun == term:
            await self._give_up(f"the promotion failed: {facts.failed or 'see the log'}")
            return
        self._begun, self._begun_at = term, now
        former = tuple(one.advertise for name, one in sorted(view.members.items()) if name != self._me.name)
        whole = facts.is_known and facts.state == rules.FOLLOWING
        keeps = facts.is_master or facts.is_deposed
        why = self._node.begin_promotion(term, former, keeps_agents=keeps, without_agents=not keeps and not whole)
        if why:
            await self._give_up(f"the promotion could not begin: {why}")
            return
        self._node.say("INFO", f"This node has taken the lead: term {term} begins.")

    async def _serve(self, facts: Facts, term: int) -> None:
        """The role is that of the term."""
        view, held = self.view, self.view.leader
        assert view.config is not None
        assert held is not None
        now = self._times.boot()
        last = view.last
        if (
            last is None
            or last.term != term
            or (facts.is_known and facts.state == "master" and last.epoch != facts.epoch)
        ):
            # Before anything is answered in this term, or from another log, nobody else's replica counts any more.
            if not facts.is_known or facts.state != "master":
                since = self._begun_at if self._begun == term else self._since_serving(now)
                if not self._term and now > since + PROMOTION_S:
                    await self._give_up(f"its store does not serve within {PROMOTION_S:g} s")
                return
            if not await self._write_last(facts, None):
                return
        if view.config.paused != (held.lease == 0):
            await self._pause_or_resume(view.config.paused, term)
            return
        if self._term != term:
            for_ever = held.lease == 0
            if for_ever or now < self._renewed_at + self._me.lease_s - self.margin_s:
                self._start_leading(term, for_ever=for_ever)
        if self._term == term and view.order is not None and not view.order.refused:
            await self._obey(view.order, facts)
        elif self._hand_over is not None:
            await self._end_hand_over()

    _serving_since: float | None = None

    def _since_serving(self, now: float) -> float:
        if self._serving_since is None:
            self._serving_since = now
        return self._serving_since

    async def _pause_or_resume(self, paused: bool, term: int) -> None:
        """The key stays all the time, so nobody else can take it and the term stays, too."""
        held = self.view.leader
        assert held is not None
        if not paused and self._is_for_ever:
            # The end comes first: from the moment on at which the key has a lease it must be obeyed.
            self._is_for_ever, self._until = False, 0.0
            self._extend(self._renewed_at)
            self._mind_the_end()
        lease = 0 if paused else self._lease
        done = await self.change(
            [self._is_leaders(), Compare(self.key(CONFIG), "mod_revision", self.view.config_revision)],
            [Put(self.key(LEADER), encode(held.key), lease)],
        )
        if not done.succeeded:
            return
        if paused:
            self._is_for_ever = True
            if self._term:
                self._node.lead(term, FOR_EVER_NS)
        word = "paused" if paused else "resumed"
        self._node.say("INFO", f"The election is {word}{': this node leads without an end' if paused else ''}.")
        self._node.tell(ElectionEvent(what=word, term=term, leader=self._me.name))

    async def _give_up(self, why: str) -> None:
        """Others may lead; this node does not try again for a while."""
        self._stop_leading(why)
        self._barred_until, self._barred_why = self._times.boot() + BAR_S, why
        self._begun_at, self._serving_since = 0.0, None
        self._node.say("ERROR", f"This node gives the lead up: {why}.")
        self._node.tell(ElectionEvent(what="gave_up", term=self.view.term, leader="", why=why))
        await self.change([self._is_leaders()], [Delete(self.key(LEADER))])

    @property
    def _confirming(self) -> str | None:
        last = self.view.last
        return last.confirming if last is not None and last.term == self.view.term else None

    async def _write_last(self, facts: Facts, confirming: str | None, *, floor: int | None = None) -> bool:
        """Returns whether this node is still the leader, and etcd has it. Without anything new it only asks. A `floor` is
        the position, too; another term or log begins with one. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        async with self._writing:
            view, last, then = self.view, self.view.last, list[Put | Delete]()
            is_same = last is not None and last.term == view.term and last.epoch == (facts.epoch or last.epoch)
            position = facts.position
            if last is not None and is_same:
                position = max(last.position, floor or 0, facts.position if facts.is_known else 0)
                floor = max(last.floor, floor or 0)
            epoch = facts.epoch if facts.is_known or last is None else last.epoch
            new = LastKey(
                view.term, self._me.name, epoch, position, confirming, floor=position if floor is None else floor
            )
            if last is None or msgspec.structs.replace(last, at=0.0) != new:
                new = msgspec.structs.replace(new, at=self._times.wall())
                then.append(Put(self.key(LAST), encode(new)))
            return (await self.change([self._is_leaders()], then)).succeeded

    # ---- orders ------------------------------------------------------------------------------------------------------

    async def _obey(self, order: OrderKey, facts: Facts) -> None:
        """What an operator asked for, on the leader."""
        now = self._times.boot()
        if order.term != self.view.term:
            # It was about an earlier one: this node is what came of it.
            await self.change([self._order_stands()], [Delete(self.key(ORDER))])
            return
        if order.kind == "failover":
            self._node.say("WARNING", f"{order.by} has ordered that {order.to} leads.")
            self._stop_leading(f"{order.by} ordered a failover to {order.to}")
            await self.change([self._is_leaders()], [Delete(self.key(LEADER))])
            return
        if self._hand_over is None or self._hand_over.order != order.id:
            await self._begin_hand_over(order, facts)
            return
        over = self._hand_over
        if over.position is not None and facts.followers.get(over.to, -1) >= over.position:
            await self._hand_to(over, facts)
        elif now > over.give_up_at:
            await self._refuse(order, f"{over.to} did not catch up within {HAND_OVER_S:g} s")
            await self._end_hand_over()

    def _order_stands(self) -> Compare:
        return Compare(self.key(ORDER), "mod_revision", self.view.order_revision)

    async def _begin_hand_over(self, order: OrderKey, facts: Facts) -> None:
        view = self.view
        to = order.to or rules.best_follower(view, facts.epoch)
        why = ""
        if view.config is not None and view.config.paused:
            why = "the election is paused: clusterd ha resume"
        elif not to:
            why = "no other candidate has a whole replica of this leader"
        elif to == self._me.name:
            why = f"{to} leads already"
        elif to not in view.candidates:
            why = f"there is no candidate {to}"
        else:
            why = rules.follower_objection(view, view.candidates[to], facts.epoch)
            if not why and to not in facts.followers:
                why = "it is not connected to the leader"
            why = why and f"{to} may not lead: {why}"
        if why:
            await self._refuse(order, why)
            return
        self._node.say("INFO", f"{order.by} has ordered a switchover: {to} is to lead.")
        self._hand_over = HandOver(order.id, to, self._times.boot() + HAND_OVER_S)
        try:
            self._hand_over.position = await self._node.drain(DRAIN_S)
        except ClusterError as failure:
            self._hand_over = None
            await self._refuse(order, f"the store of {self._me.name} does not stop taking writes: {failure}")

    async def _hand_to(self, over: HandOver, facts: Facts) -> None:
        """`to` has everything: it may take the lead, and nobody else does."""
        order, view = self.view.order, self.view
        assert order is not None
        held = view.leader
        assert held is not None
        at = over.position or 0
        last = LastKey(view.term, self._me.name, facts.epoch, at, over.to, self._times.wall(), floor=at)
        self._stop_leading(f"{over.to} takes over, as {order.by} ordered")
        done = await self.change(
            [self._is_leaders(), self._order_stands()],
            [
                Put(self.key(LAST), encode(last)),
                Put(self.key(ORDER), encode(msgspec.structs.replace(order, to=over.to))),
                Delete(self.key(LEADER)),
            ],
        )
        if not done.succeeded:
            await self._node.undrain()

    async def _end_hand_over(self) -> None:
        self._hand_over = None
        await self._node.undrain()

    async def _refuse(self, order: OrderKey, why: str) -> None:
        self._node.say("WARNING", f"The {order.kind} that {order.by} ordered is not done: {why}.")
        refused = msgspec.structs.replace(order, refused=why)
        await self.change([self._order_stands()], [Put(self.key(ORDER), encode(refused))])

    # ---- another node has it -----------------------------------------------------------------------------------------

    async def _under_another(self, facts: Facts) -> None:
        view, me = self.view, self._me
        assert view.leader is not None
        leader, term = view.leader.key, view.term
        self.waits_for = ""
        if self._term:
            self._stop_leading(f"{leader.name} leads in term {term}")
        if leader.name == me.name:
            own = view.candidates.get(me.name)
            is_own = facts.is_master and facts.led == term and own is not None and own.id == self._id
            if view.leader.lease == 0 and is_own:
                # Paused, and this node was started anew: nothing but its name and its disk says who it is.
                again = encode(LeaderKey(me.name, self._id, me.advertise))
                await self.change(
                    [Compare(self.key(LEADER), "mod_revision", view.leader.mod_revision)],
                    [Put(self.key(LEADER), again)],
                )
                return
            self.problem = (
                f"another life of {leader.name} has the leader's key: it ends with its lease. If two nodes have this "
                "name: correct <node_name>"
            )
            return
        if facts.is_changing:
            return
        if facts.term > term:
            self.problem = (
                f"{leader.name} leads in term {term} of etcd, and this node has seen term {facts.term}: was a backup of "
                "etcd put in place?"
            )
            return
        why = ""
        if facts.is_master or facts.is_deposed:
            if view.last is None or view.last.term < term:
                return  # it does not serve yet, and may fail: then this node goes on with what it has
            why = self._node.begin_demotion(term, leader.advertise, leader.name)
            if not why:
                self._node.say("INFO", f"This node becomes a worker of {leader.name}, which leads in term {term}.")
        elif (facts.term, facts.master, facts.master_name) != (term, leader.advertise, leader.name):
            why = self._node.hear_of(term, leader.advertise, leader.name)
            if not why:
                self._node.say("INFO", f"{leader.name} at {leader.advertise} leads in term {term}.")
                self._node.tell(ElectionEvent(what="follows", term=term, leader=leader.name))
        if why:
            self.problem = f"the role of this node cannot follow that of term {term}: {why}"

    # ---- nobody has it -----------------------------------------------------------------------------------------------

    async def _without_leader(self, facts: Facts) -> None:
        view, now = self.view, self._times.boot()
        assert view.config is not None
        if self._absent_since is None:
            self._absent_since = now
            await self._node.refresh()
            facts = self._node.facts()
            await self._publish(facts, at_once=True)
            view = self.view
        is_mine, forced = self._is_ordered(now)
        if is_mine is False:
            return
        why = self._reason_not_to_take(facts, now, forced=forced)
        self.waits_for = why
        if why:
            return
        me = self.candidate(facts)
        if not forced and not is_mine:
            place = rules.rank(view, me, max_lag=self._me.max_lag)
            if now < self._absent_since + place * self._me.lease_s:
                self.waits_for = "another candidate is further"
                return
        await self._take()

    def _is_ordered(self, now: float) -> tuple[bool | None, bool]:
        """Whether an order names this node (True) or another one (False; None: nobody), and whether it is by force."""
        order = self.view.order
        ended = 0 if self.view.last is None else self.view.last.term
        if order is None or order.refused or not order.to or order.term != ended:
            return None, False
        if order.to == self._me.name:
            return True, order.kind == "failover"
        if self._absent_since is not None and now > self._absent_since + HAND_OVER_S:
            return None, False  # it does not take it: everybody may
        self.waits_for = f"{order.to} is to lead, as {order.by} ordered"
        return False, False

    def _reason_not_to_take(self, facts: Facts, now: float, *, forced: bool) -> str:
        view = self.view
        assert view.config is not None
        if view.config.paused:
            return "the election is paused: clusterd ha resume"
        if self._is_promised():
            left = self._promised_until - now
            return f"the leader may go on without etcd for another {left:.0f} s, as this node has promised it"
        if facts.is_changing:
            return "its role changes"
        if now < self._barred_until and not forced:
            return self._barred_why
        if now >= self._renewed_at + self._me.lease_s - self.margin_s:
            return "its lease was not renewed"
        if facts.term > view.config.base + view.revision:
            return (
                f"this node has seen term {facts.term}, and etcd counts less: was a backup of it put in place? clusterd ha "
                "bootstrap makes a new beginning, once the keys of the cluster are removed there"
            )
        me = self.candidate(facts)
        if forced:
            return "" if me.fingerprint == view.config.fingerprint else "it belongs to another cluster"
        return rules.objection(view, me, max_lag=self._me.max_lag)

    def _is_promised(self) -> bool:
        """Whether this node has said that it does not take the lead. Where nobody has led there was nobody to say it
        to."""
        return self.view.last is not None and self._times.boot() < self._promised_until

    async def _take(self) -> None:
        view, me = self.view, self._me
        mine = LeaderKey(me.name, self._id, me.advertise)
        done = await self.change(
            [
                Compare(self.key(LEADER), "create_revision", 0),
                Compare(self.key(CONFIG), "mod_revision", view.config_revision),
                Compare(self.key(LAST), "mod_revision", view.last_revision),
                Compare(self.key(ORDER), "mod_revision", view.order_revision),
                Compare(self.key(CANDIDATES + me.name), "lease", self._lease),
            ],
            [Put(self.key(LEADER), encode(mine), self._lease)],
        )
        if done.succeeded and self._is_promised():
            # Promised while etcd was asked: it has not served anybody yet.
            await self._give_up("the earlier leader goes on without etcd, as this node has promised it")
        elif done.succeeded:
            self._serving_since = None
            await self._as_leader(self._node.facts())

    # ---- what this node says of itself -------------------------------------------------------------------------------

    def candidate(self, facts: Facts) -> CandidateKey:
        me = self._me
        own = facts.is_master or facts.is_deposed
        why = facts.may_not_lead
        if self._times.boot() < self._barred_until:
            why = why or self._barred_why
        return CandidateKey(
            name=me.name,
            id=self._id,
            advertise=me.advertise,
            fingerprint=me.fingerprint,
            version=me.version,
            priority=me.priority,
            since=self._since,
            role="master" if facts.is_master else "deposed" if facts.is_deposed else "worker",
            led=facts.led if own else 0,
            epoch=facts.epoch,
            position=facts.position,
            lag=facts.lag,
            digest_equal=facts.digest_equal,
            digest_at=facts.digest_at,
            state=facts.state,
            may_not_lead=why,
        )

    async def _publish(self, facts: Facts, *, at_once: bool = False) -> None:
        """Puts this node's own keys where they are missing or old. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        me, view, now = self._me, self.view, self._times.boot()
        name = CANDIDATES + me.name
        other = view.candidates.get(me.name)
        if other is not None and other.id != self._id:
            self.problem = (
                f"another node, or an earlier life of this one, takes part as {me.name}: it ends with its lease. If two "
                "nodes have this name: correct <node_name>"
            )
            return
        then: list[Put | Delete] = []
        key = self.candidate(facts)
        is_due = at_once or now >= self._told_at + TELL_S or _without_place(key) != _without_place(self._told)
        if other is None or (is_due and key != self._told):
            then.append(Put(self.key(name), encode(key), self._lease))
        member = view.members.get(me.name)
        if member is None or member.advertise != me.advertise:
            then.append(Put(self.key(MEMBERS + me.name), encode(MemberKey(me.advertise))))
        if not then:
            return
        guard = (
            Compare(self.key(name), "create_revision", 0)
            if other is None
            else Compare(self.key(name), "lease", self._lease)
        )
        if (await self.change([guard], then)).succeeded:
            self._told, self._told_at = key, now

    # ---- what others ask ---------------------------------------------------------------------------------------------

    async def set_confirming(self, term: int, name: str, position: int) -> ConfirmingSet:
        """See messages/election.py."""
        held = self.view.leader
        if held is None or held.key.id != self._id or self.view.term != term:
            return ConfirmingSet(name, ok=False, why=f"this node does not lead in term {term}")
        try:
            done = await self._write_last(self._node.facts(), name or None, floor=position)
        except (EtcdUnavailable, EtcdRefused) as failure:
            return ConfirmingSet(name, ok=False, why=f"etcd cannot be asked: {failure}")
        return ConfirmingSet(name, done, "" if done else f"this node does not lead in term {term} any more")

    def failsafe(self, term: int, leader: str) -> FailsafeAnswer:
        """See messages/election.py."""
        facts, held = self._node.facts(), self.view.leader
        if self._term or facts.is_master or (held is not None and held.key.id == self._id):
            return FailsafeAnswer(yes=False, why=f"{self._me.name} leads")
        if facts.is_changing:
            return FailsafeAnswer(yes=False, why=f"the role of {self._me.name} changes")
        if facts.term != term or facts.master_name != leader:
            return FailsafeAnswer(yes=False, why=f"{self._me.name} knows {facts.master_name} in term {facts.term}")
        self._promised_until = max(self._promised_until, self._times.boot() + self._me.lease_s)
        self._keep()
        return FailsafeAnswer(yes=True)

    async def _go_on_without_etcd(self) -> None:
        """Asks every candidate of the last known list, and those that are linked, whether this node may go on."""
        now = self._times.boot()
        if self._is_for_ever or self._until - now > self._me.lease_s / 2:
            return
        facts = self._node.facts()
        nodes = tuple(sorted({*self._members, *facts.known} - {self._me.name}))
        answers = await self._node.ask_failsafe(self._term, self._me.name, nodes) if nodes else {}
        silent = [name for name in nodes if not answers.get(name)]
        if silent:
            if not self._said:
                self._said = f"it cannot go on without etcd: {', '.join(silent)} does not agree"
                self._node.say("WARNING", f"{self._said[0].upper()}{self._said[1:]}.")
            return
        self._said = ""
        if not self._is_failsafe:
            self._is_failsafe = True
            text = "every candidate says that it does not lead" if nodes else "there is no other candidate"
            self._node.say("WARNING", f"This node goes on leading without etcd (failsafe): {text}.")
        self._mind_the_end()
        self._extend(now)

    async def stop(self) -> None:
        """The node stops: its keys go, so that another one can lead at once. The board says so first."""
        self._stop_leading("the node is stopped")
        view = self.view
        is_kept = view.leader is not None and view.leader.key.id == self._id and view.leader.lease == 0
        if self._lease and not is_kept:
            with contextlib.suppress(EtcdUnavailable, EtcdRefused, LeaseLost):
                await self._etcd.revoke(self._lease)

    # ---- for people --------------------------------------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        """For `clusterd ha status`: docs/ha.md lists the members."""
        facts, view, now = self._node.facts(), self.view, self._times.boot()
        config = view.config
        left = None if self._is_for_ever else max(0.0, self._until - now)
        rows = []
        for name, one in sorted({**view.candidates, self._me.name: self.candidate(facts)}.items()):
            is_leader = name == view.leader_name
            why = "" if is_leader else rules.objection(view, one, max_lag=self._me.max_lag)
            rows.append(
                {
                    "name": name,
                    "role": "leader" if is_leader else "candidate",
                    "advertise": one.advertise,
                    "version": one.version,
                    "priority": one.priority,
                    "since": one.since,
                    "state": one.state or "unknown",
                    "position": one.position,
                    "lag": one.lag,
                    "digest_equal": one.digest_equal,
                    "digest_at": one.digest_at,
                    "is_confirming": view.last is not None and view.last.confirming == name,
                    "may_not_lead": why or None,
                }
            )
        here = set(view.candidates)
        return {
            "node": self._me.name,
            "role": "leader" if self._term else "candidate",
            "leader": view.leader_name or None,
            "term": view.term or None,
            "seconds_left": left if self._term else 0.0,
            "is_failsafe": self._is_failsafe,
            "serves": view.leader is not None and view.last is not None and view.last.term == view.term,
            "has_lease": view.leader is not None and view.leader.lease != 0,
            "paused": bool(config and config.paused),
            "etcd": self.away or None,
            "problem": self.problem or None,
            "waits_for": self.waits_for or None if view.leader is None else None,
            "candidates": rows,
            "away": sorted(set(view.members) - here),
            "last": None if view.last is None else msgspec.to_builtins(view.last),
            "order": None if view.order is None else msgspec.to_builtins(view.order),
        }


def _without_place(key: CandidateKey | None) -> CandidateKey | None:
    """What is told at once when it changes."""
    return None if key is None else msgspec.structs.replace(key, position=0, lag=None, digest_at=None)

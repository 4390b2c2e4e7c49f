"""The part of a node without the leader's key: it publishes its own state, follows the leader, and takes the lead when
it is its turn."""

import msgspec

from clusterd.election import rules
from clusterd.election.etcd import Compare, Delete, Put
from clusterd.election.facts import Facts, NodePort
from clusterd.election.keys import (
    CANDIDATES,
    CONFIG,
    LAST,
    LEADER,
    MEMBERS,
    ORDER,
    CandidateKey,
    Config,
    Held,
    LeaderKey,
    MemberKey,
    config_unreadable,
    encode,
    text,
)
from clusterd.election.leading import BAR_S, Leading
from clusterd.election.session import EtcdSession, Identity, Times
from clusterd.election.tenure import Tenure
from clusterd.leadership import HAND_OVER_S
from clusterd.messages.journal import ElectionEvent

TELL_S = 2.0
"""How often a candidate publishes the position of its replica."""


class Following:
    """Owner of this node's own keys in etcd. Methods raise EtcdUnavailable, EtcdRefused, LeaseLost."""

    def __init__(
        self, me: Identity, session: EtcdSession, tenure: Tenure, leading: Leading, node: NodePort, times: Times
    ) -> None:
        self._me, self._session, self._tenure, self._leading = me, session, tenure, leading
        self._node, self._times = node, times
        self._since = times.wall()
        self._absent_since: float | None = None
        """The moment since which no node leads; None while one does."""
        self._heard: tuple[int, LeaderKey] | None = None
        """The term and leader that were logged last."""
        self._demoted, self._again_at = 0, 0.0
        """The term of the last attempt to become a worker, and when the next attempt is due."""
        self._told_at = float("-inf")
        self._told: CandidateKey | None = None
        self._before_entry: tuple[float | None] | None = None
        """While this node is no member: when it had last heard of its master, as of the moment at which that was
        noticed."""

    def there_is_a_leader(self) -> None:
        self._absent_since = None

    async def without_config(self, facts: Facts) -> None:
        is_there = self._session.view.config_revision > 0
        if self._tenure.term:
            self._tenure.stop(f"etcd {'has another thing than' if is_there else 'has forgotten'} this cluster")
        await self.publish(facts)
        if is_there:
            self._session.problem = self._session.waits_for = config_unreadable(self._session.key(CONFIG))
            return
        if facts.is_configured_master and facts.term == 0 and not facts.may_not_lead:
            me = self._me
            await self._session.change(
                [Compare(self._session.key(CONFIG), "create_revision", 0)],
                [Put(self._session.key(CONFIG), encode(Config(me.cluster, me.fingerprint, 0, me.name)))],
            )
            return
        if facts.is_configured_master and facts.term == 0:
            # It has seen no term as far as it knows, because its role.json is damaged.
            self._session.problem = self._session.waits_for = (
                f"etcd knows nothing of this cluster, and this node cannot begin it: {facts.may_not_lead}"
            )
            return
        self._session.problem = self._session.waits_for = (
            "etcd knows nothing of this cluster, nobody leads. If this is the node to lead: clusterd ha bootstrap"
            if facts.term
            else "etcd knows nothing of this cluster yet: the configured master has not been here"
        )

    async def under_another(self, facts: Facts) -> None:
        view = self._session.view
        assert view.leader is not None
        leader, term = view.leader.key, view.term
        self._session.waits_for = ""
        if self._tenure.term:
            self._tenure.stop(f"{leader.name} leads in term {term}")
        if not leader.name:
            self._session.problem = "the leader's key in etcd cannot be read: remove it there"
            return
        if leader.name == self._me.name:
            await self._under_own_name(facts, view.leader)
            return
        self._tenure.another_leads()
        if facts.is_changing:
            return
        if facts.term > term:
            self._session.problem = (
                f"{leader.name} leads in term {term} of etcd, and this node has seen term {facts.term}: was a backup "
                "of etcd put in place?"
            )
            return
        why = ""
        if facts.is_master or facts.is_deposed:
            if view.last is None or view.last.term < term:
                return  # it does not serve yet, and may fail: then this node goes on with what it has
            now = self._times.boot()
            if self._demoted == term and now < self._again_at:
                self._session.problem = (
                    f"this node could not become a worker of {leader.name}, it tries again each {BAR_S:g} s: "
                    f"{facts.failed}"
                )
                return
            self._demoted, self._again_at = term, now + BAR_S
            why = self._node.begin_demotion(term, leader.advertise, leader.name)
            if not why:
                self._node.say("INFO", f"This node becomes a worker of {leader.name}, which leads in term {term}.")
        elif (facts.term, facts.master, facts.master_name) != (term, leader.advertise, leader.name):
            why = self._node.hear_of(term, leader.advertise, leader.name)
            if not why and self._heard != (term, leader):
                self._heard = term, leader
                self._node.say("INFO", f"{leader.name} at {leader.advertise} leads in term {term}.")
                self._node.tell(ElectionEvent(what="follows", term=term, leader=leader.name))
        if why:
            self._session.problem = f"the role of this node cannot follow that of term {term}: {why}"

    async def _under_own_name(self, facts: Facts, held: Held) -> None:
        """The leader's key has this node's name, and not the id of this life."""
        me, session = self._me, self._session
        own = session.view.candidates.get(me.name)
        is_own = held.lease == 0 and facts.is_master and facts.led == session.view.term
        if is_own and own is not None and own.id == session.id:
            # The election is paused and this node was restarted: only its name and its disk show that the key is its
            # own.
            again = encode(LeaderKey(me.name, session.id, me.advertise))
            await session.change(
                [Compare(session.key(LEADER), "mod_revision", held.mod_revision)], [Put(session.key(LEADER), again)]
            )
            return
        what = (
            f"the election is paused: this node goes on when the key candidates/{me.name} of its earlier life in etcd "
            f"has ended, after {me.lease_s} s at most"
            if is_own
            else f"another life of {me.name} has the leader's key: it ends with its lease"
        )
        session.problem = f"{what}. If two nodes have this name: correct <node_name>"

    async def without_leader(self, facts: Facts) -> None:
        view, now = self._session.view, self._times.boot()
        assert view.config is not None
        if self._absent_since is None:
            self._absent_since = now
            await self._node.refresh(files=False)
            facts = self._node.facts()
            if not self._is_ordered(now)[0]:  # else nobody compares this node with others
                await self.publish(facts, at_once=True)
            view = self._session.view
        is_mine, forced = self._is_ordered(now)
        if is_mine is False:
            return
        why = self._reason_not_to_take(facts, now, forced=forced)
        self._session.waits_for = why
        if why:
            return
        me = self.candidate(facts)
        if not forced and not is_mine:
            place = rules.rank(view, me, max_lag=self._me.max_lag)
            if now < self._absent_since + place * self._me.lease_s:
                self._session.waits_for = "another candidate is further"
                return
        await self._take()

    def _is_ordered(self, now: float) -> tuple[bool | None, bool]:
        """Returns whether an order names this node (True), another one (False) or none (None), and whether it is by
        force."""
        order = rules.order_of_now(self._session.view)
        if order is None:
            return None, False
        if order.to == self._me.name:
            return True, order.kind == "failover"
        if self._absent_since is not None and now > self._absent_since + HAND_OVER_S:
            return None, False  # it does not take it: everybody may
        self._session.waits_for = f"{order.to} is to lead, as {order.by} ordered"
        return False, False

    def _reason_not_to_take(self, facts: Facts, now: float, *, forced: bool) -> str:
        view = self._session.view
        assert view.config is not None
        if view.config.paused:
            return "the election is paused: clusterd ha resume"
        if self._session.is_promised:
            left = self._session.promised_until - now
            return f"the leader may go on without etcd for another {left:.0f} s, as this node has promised it"
        if facts.is_changing:
            return "its role changes"
        if now < self._leading.barred_until and not forced:
            return self._leading.barred_why
        if not self._session.is_good(self._tenure.margin_s):
            return "its lease was not renewed"
        if facts.term > view.config.base + view.revision:
            return (
                f"this node has seen term {facts.term}, and etcd counts less: was a backup of it put in place? "
                "clusterd ha bootstrap makes a new beginning, once the keys of the cluster are removed there"
            )
        me = self.candidate(facts)
        is_member = me.name in view.members or view.last is None or facts.is_master or facts.is_deposed
        if not is_member and not forced:
            return "it was forgotten (clusterd ha forget), and has not been linked to a leader since"
        if forced:
            return "" if me.fingerprint == view.config.fingerprint else "it belongs to another cluster"
        return rules.objection(view, me, max_lag=self._me.max_lag)

    async def _take(self) -> None:
        view, me = self._session.view, self._me
        mine = LeaderKey(me.name, self._session.id, me.advertise)
        done = await self._session.change(
            [
                Compare(self._session.key(LEADER), "create_revision", 0),
                Compare(self._session.key(CONFIG), "mod_revision", view.config_revision),
                Compare(self._session.key(LAST), "mod_revision", view.last_revision),
                Compare(self._session.key(ORDER), "mod_revision", view.order_revision),
                Compare(self._session.key(CANDIDATES + me.name), "lease", self._session.lease),
            ],
            [Put(self._session.key(LEADER), encode(mine), self._session.lease)],
        )
        if done.succeeded:
            self._leading.serving_since = None
            await self._leading.follow(self._node.facts())

    def candidate(self, facts: Facts) -> CandidateKey:
        me = self._me
        own = facts.is_master or facts.is_deposed
        why = facts.may_not_lead
        if self._times.boot() < self._leading.barred_until:
            why = why or self._leading.barred_why
        return CandidateKey(
            name=me.name,
            id=self._session.id,
            advertise=me.advertise,
            fingerprint=me.fingerprint,
            version=me.version,
            priority=me.priority,
            since=self._since,
            role="master" if facts.is_master else "deposed" if facts.is_deposed else "worker",
            led=facts.led if own else 0,
            epoch=facts.epoch,
            past=facts.past,
            position=facts.position,
            lag=facts.lag,
            digest_equal=facts.digest_equal,
            digest_at=facts.digest_at,
            state=facts.state,
            may_not_lead=text(why),
        )

    async def publish(self, facts: Facts, *, at_once: bool = False) -> None:
        """Puts this node's own keys where they are missing or old. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        me, view, now = self._me, self._session.view, self._times.boot()
        name = CANDIDATES + me.name
        other = view.candidates.get(me.name)
        if other is not None and other.id != self._session.id:
            self._session.problem = (
                f"another node, or an earlier life of this one, takes part as {me.name}: it ends with its lease. If "
                "two nodes have this name: correct <node_name>"
            )
            return
        then: list[Put | Delete] = []
        key = self.candidate(facts)
        is_due = at_once or now >= self._told_at + TELL_S or _without_place(key) != _without_place(self._told)
        if other is None or (is_due and key != self._told):
            then.append(Put(self._session.key(name), encode(key), self._session.lease))
        member = view.members.get(me.name)
        if member is not None:
            self._before_entry = None
        if member.advertise != me.advertise if member is not None else self._may_enter(facts):
            then.append(Put(self._session.key(MEMBERS + me.name), encode(MemberKey(me.advertise))))
        if not then:
            return
        # An unreadable key names no member, and only this node can write it anew.
        there = self._session.items.get(self._session.key(name))
        guard = (
            Compare(self._session.key(name), "mod_revision", 0 if there is None else there.mod_revision)
            if other is None
            else Compare(self._session.key(name), "lease", self._session.lease)
        )
        if (await self._session.change([guard], then)).succeeded:
            self._told, self._told_at = key, now

    def _may_enter(self, facts: Facts) -> bool:
        """Returns whether this node may become a member. A leader that goes on without etcd does not ask a forgotten
        candidate. So a node that could follow that leader becomes a member only after the leader has answered it, and
        thus knows of it."""
        if self._session.view.last is None or facts.is_master or facts.is_deposed:
            return True
        if not facts.is_known:
            return False
        if facts.state != rules.FOLLOWING:
            return True
        if self._before_entry is None:
            self._before_entry = (facts.heard_at,)
        return self._before_entry != (facts.heard_at,)


def _without_place(key: CandidateKey | None) -> CandidateKey | None:
    """The part of the key whose change is published at once."""
    return None if key is None else msgspec.structs.replace(key, position=0, lag=None, digest_at=None)

"""The part of the node with the leader's key: it becomes the master, publishes what followers must know, and keeps its
lease on the board."""

import asyncio
from collections import deque
from types import EllipsisType

import msgspec

from clusterd.election import rules
from clusterd.election.etcd import Compare, Delete, EtcdRefused, EtcdUnavailable, Put
from clusterd.election.facts import Facts, NodePort
from clusterd.election.hand_over import STOP_GONE_S, HandOvers
from clusterd.election.keys import CONFIG, LAST, LEADER, LastKey, encode, is_address
from clusterd.election.session import RENEWALS, EtcdSession, Identity, Times
from clusterd.election.tenure import Tenure
from clusterd.messages.election import ConfirmingSet
from clusterd.messages.journal import ElectionEvent

PROMOTION_S = 120.0
"""A node that has taken the lead and does not serve within this time gives it up."""
ATTEMPTS = 3
STORE_S = 30.0
"""How long a node that has taken the lead waits for its store to report its state."""
BAR_S = 60.0
"""How long a node does not try again to lead after it gave the lead up."""


class Leading:
    """Owner of `last` in etcd. This node does not try to lead before `barred_until` (seconds of the boot clock),
    because of `barred_why`. Methods raise EtcdUnavailable, EtcdRefused, LeaseLost."""

    def __init__(self, me: Identity, session: EtcdSession, tenure: Tenure, node: NodePort, times: Times) -> None:
        self._me, self._session, self._tenure, self._node, self._times = me, session, tenure, node, times
        self._orders = HandOvers(me, session, tenure, node, times)
        self._writing = asyncio.Lock()
        self._written: LastKey | None = None
        """What was written to etcd last; None: whether the last write was done is unknown."""
        self._named: tuple[int, str | None] | None = None
        """The term and the confirming candidate that etcd has for certain; None: that is not known."""
        self._begun = 0
        """The term for which this process has begun the change of role."""
        self._begun_at = 0.0
        self._heads: deque[tuple[float, int]] = deque()
        """Heads of the log with their moments: the newest that is old enough, and those after it."""
        self.serving_since: float | None = None
        self.is_leaving = False
        """Whether the node is about to be stopped. Then the confirming candidate stays named in etcd, also when its
        link ends."""
        self.barred_until, self.barred_why = float("-inf"), ""

    @property
    def hands_over(self) -> bool:
        """Whether a switchover is under way."""
        return self._orders.is_under_way

    def leave(self) -> None:
        """The node is about to be stopped."""
        self.is_leaving, self._orders.gone_s = True, STOP_GONE_S

    async def follow(self, facts: Facts) -> None:
        view, held = self._session.view, self._session.view.leader
        assert view.config is not None
        assert held is not None
        if held.lease not in (0, self._session.lease):
            self._session.waits_for = "the lease of an earlier life of this node has not ended yet"
            if self._tenure.term and not self._tenure.is_for_ever:
                self._tenure.stop("its lease is that of an earlier life")
            return
        term, now = view.term, self._times.boot()
        if not self._tenure.term and held.lease and self._session.is_promised:
            # This node promised it while it was asking etcd for the key. It has not served yet.
            await self.give_up("the earlier leader goes on without etcd, as this node has promised it")
            return
        if facts.is_master and facts.led == term and not facts.is_changing:
            await self._serve(facts, term)
            return
        if self._tenure.term:
            self._tenure.stop(f"its role is not that of term {term}")
        if facts.is_changing:
            if self._begun_at and now > self._begun_at + PROMOTION_S:
                await self.give_up(f"the promotion has not ended within {PROMOTION_S:g} s")
            return
        if facts.term >= term:
            await self.give_up(
                f"this node has seen term {facts.term}, and etcd makes term {term}: was a backup of it put in place?"
            )
            return
        if self._begun == term:
            await self.give_up(f"the promotion failed: {facts.failed or 'see the log'}")
            return
        whole = facts.is_known and facts.state == rules.FOLLOWING
        keeps = facts.is_master or facts.is_deposed
        if not keeps and not whole:
            # A node without the last leader's agents becomes master only by an order by force. Its store first gets
            # time to report its state: this process may have started a moment ago.
            if not facts.is_known and now < self._since_serving(now) + STORE_S:
                return
            if not rules.is_forced(view, self._me.name):
                await self.give_up("its replica is not whole" if facts.is_known else "its store does not answer")
                return
        self._begun, self._begun_at, self.serving_since = term, now, None
        others = (one.advertise for name, one in sorted(view.members.items()) if name != self._me.name)
        former = tuple(filter(is_address, others))
        why = self._node.begin_promotion(term, former, keeps_agents=keeps, without_agents=not keeps and not whole)
        if why:
            await self.give_up(f"the promotion could not begin: {why}")
            return
        self._node.say("INFO", f"This node has taken the lead: term {term} begins.")

    async def _serve(self, facts: Facts, term: int) -> None:
        """Leads; the node has the role of the term."""
        view, held = self._session.view, self._session.view.leader
        assert view.config is not None
        assert held is not None
        now = self._times.boot()
        last = view.last
        if (
            last is None
            or last.term != term
            or (facts.is_known and facts.state == "master" and last.epoch != facts.epoch)
        ):
            # From here on no other replica counts: `last` must say so before anything is answered in this term, or from
            # another log.
            if not facts.is_known or facts.state != "master":
                since = self._begun_at if self._begun == term else self._since_serving(now)
                if not self._tenure.term and now > since + PROMOTION_S:
                    await self.give_up(f"its store does not serve within {PROMOTION_S:g} s")
                return
            if not await self.write_last():
                return
        view, held = self._session.view, self._session.view.leader
        if view.config is None or held is None or view.term != term or not self._session.has_leaders_key:
            return  # it is another one's since; the next step sees to that
        if view.config.paused != (held.lease == 0):
            await self._pause_or_resume(view.config.paused, term)
            return
        if held.lease == 0 and self._tenure.term == term and not self._tenure.is_for_ever:
            self._tenure.go_on_for_ever()
        if self._tenure.term != term:
            for_ever = held.lease == 0
            if for_ever or self._session.is_good(self._tenure.margin_s):
                if not await self._touch_key():
                    return
                self._tenure.start(term, for_ever=for_ever)
                self.serving_since = None
        if self._tenure.term == term and held.lease and await self._is_without_store(facts, now):
            return
        if self._tenure.term == term and view.order is not None and not view.order.refused:
            await self._orders.obey(view.order, facts)
        else:
            await self._orders.end()

    async def _is_without_store(self, facts: Facts, now: float) -> bool:
        """Gives the lead up when the store has been away for long and another node can lead: without a store a leader
        serves nobody. Returns whether it did."""
        if facts.is_known:
            self.serving_since = None
            return False
        view, me = self._session.view, self._me
        if now <= self._since_serving(now) + PROMOTION_S or not any(
            not rules.objection(view, one, max_lag=me.max_lag)
            for name, one in view.candidates.items()
            if name != me.name
        ):
            return False
        await self.give_up(f"its store has not answered for {PROMOTION_S:g} s")
        return True

    async def _touch_key(self) -> bool:
        """Writes the leader's key again before this node serves. An earlier request of this node to delete the key that
        reaches etcd late then deletes nothing. Returns whether the key is still this node's."""
        held = self._session.view.leader
        assert held is not None
        done = await self._session.change(
            [
                self._session.is_leaders_unchanged(),
                Compare(self._session.key(CONFIG), "mod_revision", self._session.view.config_revision),
            ],
            [Put(self._session.key(LEADER), encode(held.key), held.lease)],
        )
        return done.succeeded and self._session.has_leaders_key

    def _since_serving(self, now: float) -> float:
        if self.serving_since is None:
            self.serving_since = now
        return self.serving_since

    async def _pause_or_resume(self, paused: bool, term: int) -> None:
        """Removes the lease from the key, or adds it. The key stays all the time: no other node can take it, and the
        term stays the same."""
        held = self._session.view.leader
        assert held is not None
        if not paused and self._tenure.is_for_ever:
            # The board gets the deadline first: it must hold from the moment at which the key has a lease.
            self._tenure.is_for_ever, self._tenure.until = False, 0.0
            self._tenure.extend(self._session.renewed_at)
            self._tenure.mind_the_end()
        lease = 0 if paused else self._session.lease
        done = await self._session.change(
            [
                self._session.is_leaders(),
                Compare(self._session.key(CONFIG), "mod_revision", self._session.view.config_revision),
            ],
            [Put(self._session.key(LEADER), encode(held.key), lease)],
        )
        if not done.succeeded:
            return
        word = "paused" if paused else "resumed"
        self._node.say("INFO", f"The election is {word}{': this node leads without an end' if paused else ''}.")
        self._node.tell(ElectionEvent(what=word, term=term, leader=self._me.name))

    async def give_up(self, why: str) -> None:
        """Lets other nodes lead; this one does not try again for a while."""
        self._tenure.stop(why)
        self.barred_until, self.barred_why = self._times.boot() + BAR_S, why
        self._begun_at, self.serving_since = 0.0, None
        self._node.say("ERROR", f"This node gives the lead up: {why}.")
        self._node.tell(ElectionEvent(what="gave_up", term=self._session.view.term, leader="", why=why))
        await self._session.change([self._session.is_leaders_unchanged()], [Delete(self._session.key(LEADER))])

    def _settled_head(self, facts: Facts) -> int:
        """Returns the head of the log two renewals ago: every candidate that follows has it by now. No candidate has
        the present head yet: each keepalive of an agent moves it."""
        now, heads = self._times.boot(), self._heads
        if facts.is_known:
            heads.append((now, facts.position))
        while len(heads) > 1 and heads[1][0] <= now - 2 * self._me.lease_s / RENEWALS:
            heads.popleft()
        return heads[0][1] if heads and heads[0][0] <= now - 2 * self._me.lease_s / RENEWALS else 0

    async def write_last(self, confirming: str | EllipsisType | None = ..., *, floor: int | None = None) -> bool:
        """Writes `last` to etcd if it differs, otherwise only asks. Returns whether this node is still the leader, and
        etcd has it. Without `confirming` the name stays, but in another term or log it becomes None. `floor`: also
        raises `position`; another term or log begins with one. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        async with self._writing:
            for _ in range(ATTEMPTS):
                view, when, then = self._session.view, [self._session.is_leaders()], list[Put | Delete]()
                # Only the leader writes this key. If it differs from what was written, etcd was restored from a backup.
                known = self._written if self._written is not None and self._written.term == view.term else None
                # Asked here, because another task may have written since the step began.
                new = self._next_last(known or view.last, self._node.facts(), confirming, floor)
                if view.last is None or msgspec.structs.replace(view.last, at=0.0) != new:
                    new = msgspec.structs.replace(new, at=self._times.wall())
                    # With this condition a request that reaches etcd late undoes nothing.
                    when.append(Compare(self._session.key(LAST), "mod_revision", view.last_revision))
                    then.append(Put(self._session.key(LAST), encode(new)))
                self._written = None
                if self._named != (view.term, new.confirming):
                    self._named = None
                if (await self._session.change(when, then)).succeeded:
                    self._written, self._named = new, (view.term, new.confirming)
                    return True
                self._written = known
                if not then or not self._session.has_leaders_key or self._session.view.term != view.term:
                    return False
            return False

    def _next_last(
        self, last: LastKey | None, facts: Facts, confirming: str | EllipsisType | None, floor: int | None
    ) -> LastKey:
        view = self._session.view
        says = last is None or (facts.is_known and facts.epoch)
        epoch, past = (facts.epoch, facts.past) if says or last is None else (last.epoch, last.past)
        # The name also stays when the store, or this node as the leader of another term, continues the same log: the
        # confirming candidate still has everything answered, and nothing was answered since. It does not stay after a
        # backup that lacks answered changes.
        before = None
        if last is not None and (last.term == view.term or last.leader == self._me.name):
            ended = last.position if epoch == last.epoch else dict(past).get(last.epoch, -1)
            before = last if epoch == last.epoch or ended >= last.floor else None
        if isinstance(confirming, EllipsisType):
            confirming = None if before is None else before.confirming
        position = facts.position
        if before is None or before.epoch != epoch:
            self._heads.clear()
        if before is not None:
            floor = max(before.floor, floor or 0)
            if confirming and (confirming, epoch) == (facts.confirming, facts.epoch):
                # A disk that was set back shows it by this after a failure of all nodes.
                floor = max(floor, facts.answered)
            position = max(min(before.position, ended), floor, self._settled_head(facts))
        if floor is None:
            # Changes that this node had when it took the lead may have been answered; later ones were not.
            floor = past[-1][1] if past else position
        return LastKey(view.term, self._me.name, epoch, position, confirming, floor=floor, past=past)

    async def set_confirming(self, term: int, name: str, position: int) -> ConfirmingSet:
        """Names the confirming candidate in etcd, for the store (messages/election.py)."""
        held = self._session.view.leader
        if held is None or held.key.id != self._session.id or self._session.view.term != term:
            return ConfirmingSet(name, ok=False, why=f"this node does not lead in term {term}")
        if self.is_leaving:
            return ConfirmingSet(name, ok=False, why="this node is being stopped")
        await self._node.refresh()  # the store that asks may have another log than the one before it
        away, done = self._session.away, False
        if not away:
            try:
                done = await self.write_last(name or None, floor=position)
            except (EtcdUnavailable, EtcdRefused) as failure:
                away = str(failure)
        if away:
            is_named = self._is_named(term, name)
            return ConfirmingSet(name, is_named, "" if is_named else f"etcd cannot be asked: {away}")
        return ConfirmingSet(name, done, "" if done else f"this node does not lead in term {term} any more")

    def _is_named(self, term: int, name: str) -> bool:
        """Returns whether etcd has the name of this candidate (empty: none confirms) and this node leads. Then only it
        may take over, whatever the position in etcd, and a store that was restarted while etcd is away goes on with it.
        Its log must go on, too, or the name would not stay when etcd is back (`_next_last`)."""
        last, facts = self._session.view.last, self._node.facts()
        if last is None or self._named != (term, name or None) or self._tenure.term != term:
            return False
        return facts.epoch == last.epoch or dict(facts.past).get(last.epoch, -1) >= last.floor

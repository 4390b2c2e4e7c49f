"""The leader carries out an operator's order: a switchover, or a failover by force."""

import msgspec

from clusterd.election import rules
from clusterd.election.etcd import Compare, Delete, Put
from clusterd.election.facts import Facts, NodePort
from clusterd.election.keys import LAST, LEADER, ORDER, LastKey, OrderKey, encode, text
from clusterd.election.session import EtcdSession, Identity, Times
from clusterd.election.tenure import Tenure
from clusterd.errors import ClusterError
from clusterd.leadership import HAND_OVER_S

DRAIN_S = 15.0
FEW_FILES = 5
"""So many are on the other node within a moment, while writes wait."""
FILES_S = 2.0
"""So long the last files are waited for: on a busy master some file changes all the time."""


class _Under(msgspec.Struct):
    """A switchover under way. `position`: of the last write; None until the store is drained. `whole_at`: since when
    the other node has all agents."""

    order: str
    to: str
    give_up_at: float
    position: int | None = None
    whole_at: float | None = None


class HandOvers:
    """Owner of the switchover under way. Methods raise EtcdUnavailable, EtcdRefused, LeaseLost."""

    def __init__(self, me: Identity, session: EtcdSession, tenure: Tenure, node: NodePort, times: Times) -> None:
        self._me, self._session, self._tenure, self._node, self._times = me, session, tenure, node, times
        self._over: _Under | None = None
        self._waiting = ("", 0.0)
        """The order whose candidate has no link to the leader at the moment, and since when."""

    @property
    def is_under_way(self) -> bool:
        return self._over is not None

    async def obey(self, order: OrderKey, facts: Facts) -> None:
        """Carries out, on the leader, what an operator has ordered."""
        now = self._times.boot()
        if order.term != self._session.view.term:
            # The order was for an earlier term, and has led to this one.
            await self._session.change([self._order_stands()], [Delete(self._session.key(ORDER))])
            return
        if order.kind == "failover":
            self._node.say("WARNING", f"{order.by} has ordered that {order.to} leads.")
            self._tenure.stop(f"{order.by} ordered a failover to {order.to}", hands_over=True)
            await self._session.change([self._session.is_leaders_unchanged()], [Delete(self._session.key(LEADER))])
            return
        if self._over is None or self._over.order != order.id:
            await self._begin(order, facts)
            return
        over = self._over
        if now > over.give_up_at:
            # The refusal comes first: the store accepts writes again some time after it.
            await self._refuse(order, f"{over.to} did not catch up within {HAND_OVER_S:g} s")
            await self.end()
        elif over.position is not None and facts.followers.get(over.to, -1) >= over.position:
            over.whole_at = now if over.whole_at is None else over.whole_at
            # Also client.keys, which has come to rest: agents are not registered meanwhile.
            count = await self._node.lacking_files(over.to)
            if count and now < over.whole_at + FILES_S:
                return
            if count:
                text = f"{over.to} takes over although {count} files have just changed: see left-behind of this node"
                self._node.say("WARNING", f"{text}.")
            await self._hand_to(over, order, facts)

    def _order_stands(self) -> Compare:
        return Compare(self._session.key(ORDER), "mod_revision", self._session.view.order_revision)

    async def _begin(self, order: OrderKey, facts: Facts) -> None:
        view = self._session.view
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
                if self._may_wait(order):
                    return
                why = "it is not connected to the leader"
            if not why and (count := await self._node.lacking_files(to)) > FEW_FILES:
                # A large sync is under way: nobody is to wait for its end.
                if self._may_wait(order):
                    return
                why = f"it lacks {count} files of the leader"
            why = why and f"{to} may not lead: {why}"
        if why:
            await self._refuse(order, why)
            return
        self._node.say("INFO", f"{order.by} has ordered a switchover: {to} is to lead.")
        self._over = _Under(order.id, to, self._times.boot() + HAND_OVER_S)
        try:
            self._over.position = await self._node.drain(DRAIN_S)
        except ClusterError as failure:
            await self._refuse(order, f"the store of {self._me.name} does not stop taking writes: {failure}")
            await self.end()

    def _may_wait(self, order: OrderKey) -> bool:
        """A link that has just ended is usually back within a moment."""
        now = self._times.boot()
        if self._waiting[0] != order.id:
            self._waiting = (order.id, now)
        return now <= self._waiting[1] + HAND_OVER_S

    async def _hand_to(self, over: _Under, order: OrderKey, facts: Facts) -> None:
        """Hands the lead to `to`, which has everything: `last` lets only that node take it."""
        at = over.position or 0
        await self._node.settle()
        try:
            now_at = await self._node.drain(DRAIN_S)
        except ClusterError:
            now_at = -1
        view = self._session.view
        if now_at != at or view.last is None or view.last.floor > at or view.order != order:
            if view.order == order:
                await self._refuse(order, f"the store of {self._me.name} has taken writes meanwhile")
            await self.end()
            return
        last = LastKey(
            view.term, self._me.name, facts.epoch, at, over.to, self._times.wall(), floor=at, past=facts.past
        )
        self._over = None
        self._tenure.stop(f"{over.to} takes over, as {order.by} ordered", hands_over=True)
        done = await self._session.change(
            [
                self._session.is_leaders_unchanged(),
                self._order_stands(),
                Compare(self._session.key(LAST), "mod_revision", view.last_revision),
            ],
            [
                Put(self._session.key(LAST), encode(last)),
                Put(self._session.key(ORDER), encode(msgspec.structs.replace(order, to=over.to))),
                Delete(self._session.key(LEADER)),
            ],
        )
        if not done.succeeded:
            await self._node.undrain()

    async def end(self) -> None:
        """Ends the switchover, if there is one: the store accepts writes again."""
        if self._over is not None:
            self._over = None
            await self._node.undrain()

    async def _refuse(self, order: OrderKey, why: str) -> None:
        self._node.say("WARNING", f"The {order.kind} that {order.by} ordered is not done: {why}.")
        refused = msgspec.structs.replace(order, refused=text(why))
        await self._session.change([self._order_stands()], [Put(self._session.key(ORDER), encode(refused))])

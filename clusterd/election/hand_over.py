"""The leader carries out an operator's order: a switchover, or a failover by force."""

import msgspec

from clusterd.election import rules
from clusterd.election.etcd import Compare, Delete, Put
from clusterd.election.facts import Facts, Lacking, NodePort
from clusterd.election.keys import CONFIG, LAST, LEADER, ORDER, LastKey, OrderKey, encode, text
from clusterd.election.session import EtcdSession, Identity, Times
from clusterd.election.tenure import Tenure
from clusterd.errors import ClusterError
from clusterd.leadership import HAND_OVER_S

DRAIN_S = 15.0
FEW_FILES = 5
"""So many are on the other node within a moment."""
FILES_S = 5.0
"""So long, before writes stop, the other node is waited for to have the files as they were when the order came."""
LAST_FILES_S = 1.0
"""So long, while writes wait, for those that were changed just before they stopped."""
STOP_GONE_S = 1.0
"""So long a node that is about to be stopped waits for one that is not connected: all may be stopped at once."""
NOTICED_S = 0.1
"""A changed file is noticed within this time."""
PAUSED = "the election is paused: clusterd ha resume"


class _Under(msgspec.Struct):
    """A switchover under way. `ordered_at`: since when this node has it; `drained_at`: since when writes wait, None
    before; `position`: of the last write; `held_at`: since when no request of the API begins to change something, and
    `changed_at`: when the last of them ended, None if there was none."""

    order: str
    to: str
    ordered_at: float
    drained_at: float | None = None
    position: int = 0
    held_at: float | None = None
    changed_at: float | None = None


class HandOvers:
    """Owner of the switchover under way. Methods raise EtcdUnavailable, EtcdRefused, LeaseLost."""

    def __init__(self, me: Identity, session: EtcdSession, tenure: Tenure, node: NodePort, times: Times) -> None:
        self._me, self._session, self._tenure, self._node, self._times = me, session, tenure, node, times
        self._over: _Under | None = None
        self.gone_s = HAND_OVER_S
        """How long a node that is not connected is waited for."""

    @property
    def is_under_way(self) -> bool:
        return self._over is not None

    async def obey(self, order: OrderKey, facts: Facts) -> None:
        """Carries out, on the leader, what an operator has ordered."""
        view = self._session.view
        assert view.config is not None
        if order.term != view.term:
            # The order was for an earlier term, and has led to this one.
            await self._session.change([self._order_stands()], [Delete(self._session.key(ORDER))])
            return
        if view.config.paused:
            await self._refuse(order, PAUSED)  # nobody could take over
            return
        if order.kind == "failover":
            self._node.say("WARNING", f"{order.by} has ordered that {order.to} leads.")
            self._tenure.stop(f"{order.by} ordered a failover to {order.to}", hands_over=True)
            await self._session.change([self._session.is_leaders_unchanged()], [Delete(self._session.key(LEADER))])
            return
        if self._over is None or self._over.order != order.id:
            to, why = self._successor(order, facts)
            if why:
                await self._refuse(order, why)
                return
            self._node.say("INFO", f"{order.by} has ordered a switchover: {to} is to lead.")
            self._over = _Under(order.id, to, self._times.boot())
        over = self._over
        late_s = HAND_OVER_S if over.to in facts.followers else self.gone_s
        if over.drained_at is None:
            await self._approach(over, order, facts)
        elif self._times.boot() > over.drained_at + late_s:
            await self._refuse(order, f"{over.to} did not catch up within {late_s:g} s")
        elif facts.followers.get(over.to, -1) >= over.position:
            # Also client.keys, which has come to rest: agents are not registered meanwhile.
            lacking = await self._node.lacking(over.to)
            if not self._has_all_of(over.drained_at + NOTICED_S, lacking):
                if self._times.boot() < over.drained_at + LAST_FILES_S:
                    return
                if over.changed_at is not None and not self._has_all_of(over.changed_at, lacking):
                    return  # what was answered is carried to it, or it does not lead
                text = f"{over.to} takes over although {lacking.files} files have just changed"
                self._node.say("WARNING", f"{text}: see left-behind of this node.")
            await self._hand_to(over, order, facts)

    def _order_stands(self) -> Compare:
        return Compare(self._session.key(ORDER), "mod_revision", self._session.view.order_revision)

    def _successor(self, order: OrderKey, facts: Facts) -> tuple[str, str]:
        """Returns who is to lead, and why it cannot."""
        view = self._session.view
        to = order.to or rules.best_follower(view, facts.epoch)
        if not to:
            return to, "no other candidate has a whole replica of this leader"
        if to == self._me.name:
            return to, f"{to} leads already"
        if to not in view.candidates:
            return to, f"there is no candidate {to}"
        why = rules.follower_objection(view, view.candidates[to], facts.epoch)
        return to, why and f"{to} may not lead: {why}"

    async def _approach(self, over: _Under, order: OrderKey, facts: Facts) -> None:
        """Writes go on until little is left to wait for."""
        now, why, late_s = self._times.boot(), "", HAND_OVER_S
        if over.to not in facts.followers:
            why = "it is not connected to the leader"  # a link that has just ended is usually back within a moment
            late_s = self.gone_s
        else:
            lacking = await self._node.lacking(over.to)
            if lacking.files > FEW_FILES:
                why = f"it lacks {lacking.files} files of the leader"  # nobody is to wait for the end of a large sync
            elif not self._has_all_of(over.ordered_at + NOTICED_S, lacking) and now < over.ordered_at + FILES_S:
                return
        if why:
            if now > over.ordered_at + late_s:
                await self._refuse(order, f"{over.to} may not lead: {why}")
            return
        over.held_at = now if over.held_at is None else over.held_at
        try:
            # First: what changes files may write into the store, too.
            held = await self._node.hold(DRAIN_S)
            if held.runs:
                if now > over.held_at + HAND_OVER_S:
                    await self._refuse(order, f"{held.runs} has not ended within {HAND_OVER_S:g} s")
                return
            if held.changed_s is not None:
                over.changed_at = self._times.boot() - held.changed_s
            over.position = await self._node.drain(DRAIN_S)
        except ClusterError as failure:
            await self._refuse(order, f"{self._me.name} does not stop taking writes: {failure}")
            return
        over.drained_at = self._times.boot()

    def _has_all_of(self, moment: float, lacking: Lacking) -> bool:
        """Whether that node has all files as they were at this moment. Later changes are not waited for: on a busy
        master some file changes all the time."""
        return lacking.age_s is not None and self._times.boot() - lacking.age_s >= moment

    async def _hand_to(self, over: _Under, order: OrderKey, facts: Facts) -> None:
        """Hands the lead to `to`, which has everything: `last` lets only that node take it."""
        at, boot = over.position, self._times.boot
        await self._node.settle()
        try:
            held = await self._node.hold(DRAIN_S)
            if held.runs:
                return  # a slow answer of sync: the next step asks again
            is_held = held.changed_s is None or boot() - held.changed_s <= (over.drained_at or 0.0)
            now_at = await self._node.drain(DRAIN_S) if is_held else -1
        except ClusterError:
            now_at = -1
        view = self._session.view
        if now_at != at or view.last is None or view.last.floor > at or view.order != order:
            if view.order == order:
                await self._refuse(order, f"the store of {self._me.name} has taken writes meanwhile")
            else:
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
                Compare(self._session.key(CONFIG), "mod_revision", view.config_revision),  # a pause: nobody takes over
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
        # First: the store accepts writes again some time after it.
        await self._session.change([self._order_stands()], [Put(self._session.key(ORDER), encode(refused))])
        await self.end()

"""Orders of operators to the election: `clusterd ha switchover`, `failover`, `pause`, `resume`, `bootstrap`, `forget`.
An order is a key in etcd, so it may be given on any node; the leader, or the named node, carries it out."""

import uuid
from typing import Literal

import msgspec

from clusterd.election import rules
from clusterd.election.elector import Elector
from clusterd.election.etcd import Compare, Delete, EtcdRefused, EtcdUnavailable, LeaseLost, Put
from clusterd.election.facts import NodePort
from clusterd.election.keys import (
    CANDIDATES,
    CONFIG,
    LAST,
    LEADER,
    MEMBERS,
    MOST_BASE,
    ORDER,
    Config,
    OrderKey,
    config_unreadable,
    encode,
    of_another_cluster,
)
from clusterd.election.session import Times
from clusterd.election.shown import shown
from clusterd.messages.election import HaAnswer, HaCommand

NO_CONFIG = "etcd knows nothing of this cluster: clusterd ha bootstrap on the node that is to lead"


class Orders:
    """Carries out commands. Each reads etcd anew."""

    def __init__(self, elector: Elector, node: NodePort, times: Times) -> None:
        self._elector, self._node, self._times = elector, node, times
        self._session, self._name = elector.session, elector.me.name

    async def answer(self, command: HaCommand) -> HaAnswer:
        if command.kind == "status":
            return HaAnswer(ok=True, facts=shown(self._elector, self._node.facts(), self._times.boot()))
        try:
            await self._session.read()
            match command.kind:
                case "switchover":
                    return await self._switchover(command)
                case "failover":
                    return await self._failover(command)
                case "pause":
                    return await self._pause(wanted=True)
                case "resume":
                    return await self._pause(wanted=False)
                case "bootstrap":
                    return await self._bootstrap(command)
                case "forget":
                    return await self._forget(command.to)
        except (EtcdUnavailable, EtcdRefused, LeaseLost) as failure:
            return HaAnswer(ok=False, text=f"etcd cannot be asked: {failure}")
        return HaAnswer(ok=False, text=f"there is no command {command.kind}")

    async def _switchover(self, command: HaCommand) -> HaAnswer:
        view, to = self._session.view, command.to
        if view.config is None:
            return HaAnswer(ok=False, text=NO_CONFIG)
        if view.leader is None or view.last is None or view.last.term != view.term:
            cure = (
                "nobody leads now: clusterd ha status says why; clusterd ha failover --to NODE --force makes one lead"
            )
            return HaAnswer(ok=False, text=cure)
        why = ""
        if view.config.paused:
            why = "the election is paused: clusterd ha resume"
        elif to == view.leader_name:
            why = f"{to} leads already"
        elif to and to not in view.candidates:
            why = f"there is no candidate {to}; there are {', '.join(sorted(view.candidates)) or 'none'}"
        elif to:
            why = rules.follower_objection(view, view.candidates[to], view.last.epoch)
            why = why and f"{to} may not lead: {why}"
        elif not rules.best_follower(view, view.last.epoch):
            why = "no other candidate may lead: clusterd ha status says why"
        return HaAnswer(ok=False, text=why) if why else await self._order("switchover", to)

    async def _failover(self, command: HaCommand) -> HaAnswer:
        view, to = self._session.view, command.to
        if view.config is None:
            return HaAnswer(ok=False, text=NO_CONFIG)
        if not command.force:
            text = (
                "--force is missing: what only the present or the last leader knows is lost. "
                "clusterd ha switchover loses nothing"
            )
            return HaAnswer(ok=False, text=text)
        if to == view.leader_name:
            return HaAnswer(ok=False, text=f"{to} leads already")
        if to not in view.candidates:
            there = ", ".join(sorted(view.candidates)) or "none"
            return HaAnswer(ok=False, text=f"there is no candidate {to}; there are {there}")
        if view.candidates[to].fingerprint != view.config.fingerprint:
            return HaAnswer(ok=False, text=f"{to} belongs to a cluster with another key or name")
        return await self._order("failover", to)

    async def _order(self, kind: Literal["switchover", "failover"], to: str) -> HaAnswer:
        session, view = self._session, self._session.view
        assert view.config is not None
        key = session.key
        order = view.order
        if order is not None and not order.refused and kind == "switchover" and order.term == view.term:
            text = f"a {order.kind} is under way already, which {order.by} has ordered"
            return HaAnswer(ok=False, text=text)
        term = view.term or (view.last.term if view.last is not None else 0)
        new = OrderKey(kind, to, uuid.uuid4().hex, self._name, self._times.wall(), term)
        when = [Compare(key(ORDER), "mod_revision", view.order_revision)]
        then: list[Put | Delete] = [Put(key(ORDER), encode(new))]
        if kind == "failover" and (view.config.paused or (view.leader is not None and view.leader.lease == 0)):
            when.append(Compare(key(CONFIG), "mod_revision", view.config_revision))
            then.append(Put(key(CONFIG), encode(msgspec.structs.replace(view.config, paused=False))))
            if view.leader is not None and view.leader.lease == 0 and view.leader_name not in view.candidates:
                # A leader without a lease that is lost: its key has no other end.
                when.append(Compare(key(LEADER), "mod_revision", view.leader.mod_revision))
                then.append(Delete(key(LEADER)))
        done = await session.change(when, then)
        if not done.succeeded:
            return HaAnswer(ok=False, text="something has changed meanwhile: look at clusterd ha status, and try again")
        return HaAnswer(ok=True, facts={"id": new.id, "term": term, "leader": view.leader_name, "to": to})

    async def _pause(self, *, wanted: bool) -> HaAnswer:
        session, view = self._session, self._session.view
        if view.config is None:
            return HaAnswer(ok=False, text=NO_CONFIG)
        facts = {"leader": view.leader_name, "term": view.term}
        if view.config.paused == wanted:
            return HaAnswer(
                ok=True, text=f"the election is {'paused already' if wanted else 'not paused'}", facts=facts
            )
        if wanted and view.leader is None:
            return HaAnswer(ok=False, text="nobody leads now, and a paused election finds nobody")
        done = await session.change(
            [Compare(session.key(CONFIG), "mod_revision", view.config_revision)],
            [Put(session.key(CONFIG), encode(msgspec.structs.replace(view.config, paused=wanted)))],
        )
        if not done.succeeded:
            return HaAnswer(ok=False, text="something has changed meanwhile: try again")
        return HaAnswer(ok=True, facts=facts)

    async def _forget(self, name: str) -> HaAnswer:
        """Removes a candidate that is gone for good, so that no leader asks it any more."""
        session, view = self._session, self._session.view
        key, last = session.key, view.last
        why = ""
        if view.config is None:
            why = NO_CONFIG
        elif name == view.leader_name:
            why = f"{name} has the leader's key: clusterd ha failover --to NODE --force makes another one lead"
        elif name in view.candidates:
            why = f"{name} is alive. Stop it first; its key in etcd ends with its lease"
        elif name not in view.members:
            away = sorted(set(view.members) - set(view.candidates))
            why = f"etcd knows no candidate {name} that is away; away: {', '.join(away) or 'none'}"
        elif last is not None and name in (last.confirming, "" if view.leader else last.leader):
            # A leader names another one within seconds; without a leader no other node may lead.
            why = f"{name} has what was answered last. " + (
                "Try again in a moment: the leader is about to have another candidate confirm"
                if view.leader is not None
                else "Bring it back; or, if it is lost: clusterd ha failover --to NODE --force, then forget it"
            )
        if why:
            return HaAnswer(ok=False, text=why)
        done = await session.change(
            [
                Compare(key(CANDIDATES + name), "create_revision", 0),
                Compare(key(LEADER), "mod_revision", 0 if view.leader is None else view.leader.mod_revision),
                Compare(key(LAST), "mod_revision", view.last_revision),
            ],
            [Delete(key(MEMBERS + name))],
        )
        if not done.succeeded:
            return HaAnswer(ok=False, text="something has changed meanwhile: look at clusterd ha status, and try again")
        facts = {"leader": view.leader_name or None, "term": view.term or None}
        return HaAnswer(ok=True, text=f"{name} is forgotten: it takes part again when it comes back.", facts=facts)

    async def _bootstrap(self, command: HaCommand) -> HaAnswer:
        """Makes this node the first that may lead, in an etcd that knows nothing of the cluster."""
        session, view, facts = self._session, self._session.view, self._node.facts()
        if view.config is None and view.config_revision:
            return HaAnswer(ok=False, text=config_unreadable(session.key(CONFIG)))
        if view.config is not None and view.config.fingerprint != self._elector.me.fingerprint:
            return HaAnswer(ok=False, text=of_another_cluster(self._elector.me.prefix))
        if view.config is not None:
            text = (
                "etcd knows this cluster already: clusterd ha status; "
                "clusterd ha failover --to NODE --force makes one lead"
            )
            return HaAnswer(ok=False, text=text)
        own = facts.is_master or facts.is_deposed
        if own and facts.may_not_lead:
            text = f"this node cannot lead, and does not know what terms it has seen: {facts.may_not_lead}"
            return HaAnswer(ok=False, text=text)
        if not command.force:
            if not own and (facts.may_not_lead or facts.state != rules.FOLLOWING):
                why = facts.may_not_lead or "its replica is not whole"
                text = (
                    f"this node is no master and may not lead: {why}. Bootstrap another one, or this one with --force"
                )
                return HaAnswer(ok=False, text=text)
            if facts.is_deposed:
                text = f"this node has led, and term {facts.term} was another one's. Bootstrap that one, or --force"
                return HaAnswer(ok=False, text=text)
        highest = max(facts.term, command.term)
        if highest > MOST_BASE:
            text = (
                f"term {highest} was seen, and no cluster goes on from more than {MOST_BASE}: see docs/ha.md, Dangers"
            )
            return HaAnswer(ok=False, text=text)
        config = Config(
            self._elector.me.cluster,
            self._elector.me.fingerprint,
            highest,
            self._name,
            bootstrapped_at=self._times.wall(),
        )
        then: list[Put | Delete] = [Put(session.key(CONFIG), encode(config))]
        if command.force:
            order = OrderKey("failover", self._name, uuid.uuid4().hex, self._name, self._times.wall())
            then.append(Put(session.key(ORDER), encode(order)))
        done = await session.change([Compare(session.key(CONFIG), "create_revision", 0)], then)
        if not done.succeeded:
            return HaAnswer(ok=False, text="another node was bootstrapped at the same time: clusterd ha status")
        return HaAnswer(ok=True, facts={"base": highest, "to": self._name, "term": 0, "leader": ""})

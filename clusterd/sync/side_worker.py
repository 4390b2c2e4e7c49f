"""A worker's side: its features, and what they do when the master comes or goes."""

import contextlib
from collections.abc import Coroutine
from typing import Any

from clusterd.messages.links import HelloRefused
from clusterd.role import deposed_text, has_term
from clusterd.sync.agents.groups_worker import AgentGroupsWorker
from clusterd.sync.agents.info import AgentInfoWorker
from clusterd.sync.integrity.complete_files import CompleteFiles
from clusterd.sync.integrity.digest_worker import DigestWorker
from clusterd.sync.integrity.former_master import sort_left_behind
from clusterd.sync.integrity.requests import WorkerIntegrityRequests
from clusterd.sync.integrity.rounds import IntegrityRounds
from clusterd.sync.integrity.worker import IntegrityWorker
from clusterd.sync.links.caps import offer_caps
from clusterd.sync.links.context import Context
from clusterd.sync.links.exchange import LeftOutFiles, StatusExchange, bounded
from clusterd.sync.links.handlers import Handler, SealedHandler
from clusterd.sync.links.master_link import MasterLink
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.tag_log import GUARD
from clusterd.sync.replica.worker import ReplicaWorker
from clusterd.sync.requests.both_roles import BothRoles
from clusterd.sync.requests.cluster_view import WorkerView
from clusterd.sync.requests.failsafe import FailsafeWorker
from clusterd.sync.requests.local import LocalRequests
from clusterd.sync.requests.nodes import ForwardedRequests
from clusterd.sync.requests.of_master import WorkerRequests
from clusterd.sync.requests.passwords import Passwords
from clusterd.sync.requests.reload import RulesetReload
from clusterd.sync.requests.sendsync_worker import SendsyncWorker
from clusterd.sync.requests.status import SideStatus, agents_of_this_worker, results_of_this_worker


class WorkerSide:
    """A Side."""

    def __init__(self, context: Context) -> None:
        self._context = context
        reload = RulesetReload(context)
        self._integrity = integrity = IntegrityWorker(context, reload.round_ended)
        self._complete = CompleteFiles(context, context.tag_log(context.tag, GUARD))
        integrity.noted = self._complete.note
        checks = DigestWorker(context, integrity)
        self._rounds = rounds = IntegrityRounds(context, integrity, checks)
        asked = WorkerIntegrityRequests(context, checks, rounds)
        self._info = info = AgentInfoWorker(context)
        self._groups = groups = AgentGroupsWorker(context)
        self._sendsync = sendsync = SendsyncWorker(context)
        self._replica = ReplicaWorker(context)
        self._master_link = MasterLink(context.events.tell, context.clock)
        programs = LocalRequests(context)
        view = WorkerView(context.roster, programs.hashes, Passwords(context).is_right)
        self._both = both = BothRoles(context, view, programs)
        master = WorkerRequests(integrity, info, groups)
        self._exchange = exchange = StatusExchange(context, self._left_out)
        integrity.tried = exchange.tried
        own = FailsafeWorker(context).remote | exchange.remote
        self.remote: dict[str, Handler] = both.remote | master.table | asked.remote | sendsync.remote | own
        self.sealed: dict[str, SealedHandler] = both.sealed
        forwarded = ForwardedRequests(context.roster)
        self.local: dict[str, Handler] = both.local | forwarded.local | reload.local | asked.local | sendsync.local

        if context.settings.has_election:
            context.roster.expect_master()

    def forever(self) -> list[Coroutine[Any, Any, None]]:
        """A worker's rounds live with the link to its master."""
        return [self._master_link.run()]

    def link_up(self, peer: Peer) -> None:
        if peer.info.kind != "master":
            return
        self._master_link.up(peer)
        settings = self._context.settings
        if settings.clusterd.caps:
            peer.spawn(offer_caps(peer, settings, self._context.net))
        else:
            peer.agree(())
        peer.spawn(self._rounds.run(peer))
        peer.spawn(self._info.run(peer))
        if self._replica.is_wanted:
            peer.spawn(self._replica.run(peer))
        if settings.role is not None and settings.role.role:
            peer.spawn(sort_left_behind(self._context, lambda: self._integrity.last))
        peer.spawn(self._exchange.run(peer))

    def _left_out(self) -> LeftOutFiles:
        """Files of the master that this node could not put in place, or delete."""
        last = self._integrity.last
        return bounded(last.problems, last.left_out)

    def refused(self, refusal: HelloRefused) -> None:
        """Nobody joins a worker."""

    def away(self, reason: str) -> None:
        self._master_link.away(reason)

    async def link_down(self, peer: Peer, why: str) -> None:
        if peer.info.kind == "master" and has_term(self._context.settings.root):
            self._context.roster.expect_master()
        # What one of these trips over keeps none of the others from happening. The last one added is the first to be
        # called.
        async with contextlib.AsyncExitStack() as ending:
            ending.callback(self._exchange.forget, peer)
            ending.callback(self._master_link.left, peer, why)
            ending.push_async_callback(peer.close)
            ending.callback(self._both.link_lost, peer)
            ending.callback(self._sendsync.link_lost, peer)

    async def ha_status(self) -> dict[str, Any] | None:
        return await self._replica.shown()

    def status(self, away: str) -> SideStatus:
        problem = ""
        settings = self._context.settings
        if settings.is_deposed and settings.role is not None:
            problem = f"{deposed_text(settings.role, is_elected=settings.has_election)}."
        elif self._context.roster.master() is None:
            problem = f"The master is not connected: {away or 'no answer yet'}."
        return SideStatus(
            problem,
            results_of_this_worker(self._integrity.last, complete=self._complete.are_known),
            agents_of_this_worker(self._info.last, self._groups.last),
            left_out=self._exchange.left_out(),
            clocks=self._exchange.clocks(),
        )

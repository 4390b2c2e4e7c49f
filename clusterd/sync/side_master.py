"""The master's side: its features, and what they do when a worker comes or goes."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from clusterd.leadership import NOT_LEADING
from clusterd.messages.links import HelloRefused
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.agents.info import AgentInfoMaster
from clusterd.sync.integrity import complete_files
from clusterd.sync.integrity.digest_master import DigestMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.integrity.requests import MasterIntegrityRequests
from clusterd.sync.links.context import Context
from clusterd.sync.links.exchange import LeftOutFiles, StatusExchange, bounded
from clusterd.sync.links.handlers import Handler, SealedHandler
from clusterd.sync.links.known_workers import KnownWorkers
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.tags import MASTER
from clusterd.sync.ports.tag_log import GUARD
from clusterd.sync.replica.master import ReplicaMaster
from clusterd.sync.requests.both_roles import BothRoles
from clusterd.sync.requests.cluster_view import MasterView
from clusterd.sync.requests.failsafe import FailsafeMaster
from clusterd.sync.requests.handing_over import HandingOver
from clusterd.sync.requests.local import LocalRequests
from clusterd.sync.requests.nodes import NodeRequests, Nodes
from clusterd.sync.requests.of_workers import MasterRequests
from clusterd.sync.requests.passwords import Passwords
from clusterd.sync.requests.sendsync_master import SendsyncMaster
from clusterd.sync.requests.status import SideStatus, agents_of_workers, results_of_workers
from clusterd.wire import commands
from clusterd.wire.payloads import text_of

QUIET_S = 3.0
"""A link that is older is a worker's even if it has asked for nothing yet."""


class MasterSide:
    """A Side. Records of workers belong to its IntegrityMaster."""

    def __init__(self, context: Context) -> None:
        self._context = context
        complete_files.forget(context, context.tag_log(MASTER, GUARD))
        self._replica = replica = ReplicaMaster(context)
        self._integrity = integrity = IntegrityMaster(context, replica.compared)
        self._digest = digest = DigestMaster(context, integrity)
        # In this order: the records say who is to be told of a change.
        context.manifests.changed += [integrity.manifest_changed, digest.manifest_changed]
        self._info = info = AgentInfoMaster(context, integrity.records)
        self._groups = groups = AgentGroupsMaster(context, integrity.records)
        self._known = KnownWorkers(
            context.spool.state_dir,
            context.clock,
            context.tag_log(MASTER, "Workers"),
            context.troubles,
            context.events.tell,
        )
        self._sendsync = SendsyncMaster(context)
        nodes = Nodes(context, integrity, info, self._known)
        asked = NodeRequests(nodes)
        programs = LocalRequests(context)
        view = MasterView(nodes, programs.hashes, Passwords(context).is_right)
        self._both = both = BothRoles(context, view, programs)
        workers = MasterRequests(context, integrity, digest, info, groups)
        self._exchange = exchange = StatusExchange(context, self._left_out)
        self.remote: dict[str, Handler] = (
            both.remote | workers.table | asked.table | self._sendsync.remote | exchange.remote | replica.table
        )
        self.sealed: dict[str, SealedHandler] = both.sealed | {commands.SYN_BUCKETS: digest.compare}
        operators = MasterIntegrityRequests(context, integrity, digest)
        own = FailsafeMaster(context).local | {commands.FORGET: self.forget}
        own |= HandingOver(context, lambda: self._sendsync.giving + both.giving, self._files_of).local
        self.local: dict[str, Handler] = both.local | asked.table | operators.local | own

    def forever(self) -> list[Coroutine[Any, Any, None]]:
        return [self._integrity.run(), self._groups.run(), self._known.run()]

    def link_up(self, peer: Peer) -> None:
        if peer.info.kind == "worker":
            self._groups.joined(peer)
            self._known.arrives(peer)
            peer.spawn(self._meet(peer))
            peer.spawn(self._exchange.run(peer))

    async def _meet(self, peer: Peer) -> None:
        """A worker asks for something as soon as it is connected. Who only says hello has tried this port (`clusterd
        doctor`, `check-config --connect`): that worker has not come back, and is not lost again."""
        left_s = peer.info.up_since + QUIET_S - self._context.clock.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(QUIET_S, left_s)):
                await peer.spoke.wait()
        self._known.joined(peer)

    def _left_out(self) -> LeftOutFiles:
        """Files of this node that are sent to no worker."""
        scan = self._context.manifests.current
        return LeftOutFiles() if scan is None else bounded({note.path: note.why for note in scan.notes if note.why})

    def refused(self, refusal: HelloRefused) -> None:
        self._known.refused(refusal)

    def away(self, reason: str) -> None:
        """A master has none."""

    async def forget(self, client: Peer, payload: bytes) -> bytes:
        """`{node}`: it is no member any more, and the file says so when this is answered. The answer is not empty where
        only refusals of that name were forgotten. Raises ClusterError 1000."""
        name = text_of(payload)
        if not self._known.forget(name):
            return b"refusals"
        self._integrity.records.pop(name, None)
        await self._known.save()
        await self._replica.forget(name)
        return b""

    async def link_down(self, peer: Peer, why: str) -> None:
        # What one of these trips over keeps none of the others from happening. The last one added is the first to be
        # called.
        async with contextlib.AsyncExitStack() as ending:
            if peer.info.kind == "worker":
                for forget in (self._groups.left, self._info.forget, self._digest.forget, self._integrity.forget):
                    ending.callback(forget, peer)
                ending.callback(self._replica.left, peer)
                ending.callback(self._exchange.forget, peer)
                ending.callback(self._known.left, peer, self._integrity.records.get(peer.name), why)
            ending.push_async_callback(peer.close)
            ending.callback(self._both.link_lost, peer)
            ending.callback(self._sendsync.link_lost, peer)

    async def ha_status(self) -> dict[str, Any] | None:
        return await self._replica.shown()

    def _files_of(self, name: str) -> dict[str, Any]:
        now = self._context.clock.wall()
        records = {one: record for one, record in self._integrity.records.items() if one == name}
        return {
            "result": results_of_workers(records, self._context.manifests, self._context.clock).get(name),
            "answered_at": now,
        }

    def status(self, away: str) -> SideStatus:
        records = self._integrity.records
        workers = self._known.shown(records)
        results = results_of_workers(records, self._context.manifests, self._context.clock)
        for row in workers:
            if row["state"] == "lost" and row["name"] in results:
                # What it had when it was last seen says nothing about what it has.
                results[row["name"]] |= {"result": "lost", "lag_s": None, "lag_files": None, "whole_of": None}
        leadership = self._context.leadership
        is_bound = leadership is not None and not leadership.holds()
        return SideStatus(
            f"{NOT_LEADING[0].upper()}{NOT_LEADING[1:]}." if is_bound else "",
            results,
            agents_of_workers(records),
            workers,
            self._known.shown_refused(),
            self._exchange.left_out(),
            self._exchange.clocks(),
        )

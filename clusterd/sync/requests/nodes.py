"""The nodes of the cluster: the rows and records behind get_nodes and get_health (wire.md 8), and these commands in
both roles."""

from typing import Any

from clusterd.errors import ClusterError
from clusterd.listening.addresses import without_port
from clusterd.sync.agents.info import AgentInfoMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.caps import STATUS
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import DeferredAnswer, Handler
from clusterd.sync.links.known_workers import KnownWorkers
from clusterd.sync.links.peer import Peer, tell
from clusterd.sync.links.roster import Roster
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.requests.queries import Row, get_nodes, health_names
from clusterd.wdb.client import DatabaseError
from clusterd.wire import commands
from clusterd.wire.results import ARGUMENT_BYTES, dump_json, encode_failure, load_json

ACTIVE = "select node_name, count(*) as n from agent where id > 0 and connection_status = 'active' group by node_name"


class Nodes:
    """Answers from the live table of peers; has no state of its own."""

    def __init__(
        self,
        context: Context,
        integrity: IntegrityMaster,
        info: AgentInfoMaster,
        known: KnownWorkers,
    ) -> None:
        self._context = context
        self._known = known
        self._integrity = integrity
        self._info = info

    def workers(self) -> list[Peer]:
        """In order of registration."""
        return self._context.roster.workers()

    def master_row(self) -> Row:
        settings = self._context.settings
        # A promoted node's has a port (clusterd/supervisor/role_change.py); who reads this expects an address.
        host = without_port(settings.cluster.nodes[0]) if settings.cluster.nodes else settings.cluster.bind_addr
        return {
            "name": settings.cluster.node_name,
            "type": "master",
            "version": settings.clusterd.version,
            "ip": host,
        }

    @staticmethod
    def row(peer: Peer) -> Row:
        return {
            "name": peer.name,
            "type": peer.info.node_type,
            "version": peer.info.version,
            "ip": peer.info.address,
        }

    def list(self, arguments: object) -> dict[str, Any]:
        """Raises WireException."""
        return get_nodes([self.master_row(), *(self.row(peer) for peer in self.workers())], arguments)

    async def health(self, wanted: object) -> dict[str, Any]:
        """Without an agent database every node has 0 active agents (dapi.md 8.2). Raises WireException."""
        active = await self._active_agents()
        peers = {peer.name: peer for peer in self.workers()}
        master = self.master_row()
        names, with_master = health_names(list(peers), wanted, master["name"])
        nodes: dict[str, Any] = {}
        for name in names:
            peer = peers[name]
            nodes[name] = {
                "info": {**self.row(peer), "n_active_agents": active.get(name, 0)},
                "status": self._integrity.record(name).health(
                    integrity_free=self._integrity.is_free(name),
                    info_free=self._info.is_free(name),
                    keepalive_at=peer.keepalive_at,
                ),
            }
        if with_master:
            nodes[master["name"]] = {"info": {**master, "n_active_agents": active.get(master["name"], 0)}}
        return {"n_connected_nodes": len(names), "nodes": nodes}

    def members(self) -> dict[str, Any]:
        """`workers`: the known workers without a link; `refused`: nodes that may not join. Both are rows of
        KnownWorkers."""
        rows = self._known.shown(self._integrity.records)
        here = {peer.name for peer in self._context.roster.workers()}  # who has only said hello yet, too
        away = [row for row in rows if row["state"] != "connected" and row["name"] not in here]
        return {"workers": away, "refused": self._known.shown_refused()}

    async def _active_agents(self) -> dict[str, int]:
        """Returns the number of active agents by node, without agent 0."""
        try:
            rows = await self._context.database.rows(ACTIVE)
        except DatabaseError:
            return {}
        return {str(row.get("node_name", "")): int(row["n"]) for row in rows}


class NodeRequests:
    """`table`: the commands of a master, for its workers and for local programs."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.table: dict[str, Handler] = {
            commands.GET_NODES: self.get_nodes,
            commands.GET_HEALTH: self.get_health,
            commands.GET_MEMBERS: self.get_members,
        }

    async def get_nodes(self, peer: Peer, payload: bytes) -> bytes:
        return dump_json(self._nodes.list(load_json(payload, limit=ARGUMENT_BYTES)))

    async def get_health(self, peer: Peer, payload: bytes) -> bytes:
        return dump_json(await self._nodes.health(load_json(payload, limit=ARGUMENT_BYTES)))

    async def get_members(self, peer: Peer, payload: bytes) -> bytes:
        return dump_json(self._nodes.members())


class ForwardedRequests:
    """`local`: the commands that a worker passes to its master unchanged."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.local: dict[str, Handler] = {
            commands.GET_NODES: self.get_nodes,
            commands.GET_HEALTH: self.get_health,
            commands.GET_MEMBERS: self.get_members,
        }

    async def get_nodes(self, client: Peer, payload: bytes) -> DeferredAnswer:
        return await self._ask_master(client, commands.GET_NODES, payload)

    async def get_health(self, client: Peer, payload: bytes) -> DeferredAnswer:
        return await self._ask_master(client, commands.GET_HEALTH, payload)

    async def get_members(self, client: Peer, payload: bytes) -> DeferredAnswer | bytes:
        """Asks the master; a stock master knows only connected nodes. Raises ClusterError 3023."""
        if STATUS not in (await self._roster.await_master()).capabilities:
            return dump_json({"workers": [], "refused": []})
        return await self._ask_master(client, commands.GET_MEMBERS, payload)

    async def _ask_master(self, client: Peer, command: str, payload: bytes) -> DeferredAnswer:
        """Raises ClusterError 3023."""
        master = await self._roster.await_master()
        return DeferredAnswer(commands.SENT_TO_MASTER, lambda: self._forward(client, master, command, payload))

    async def _forward(self, client: Peer, master: Peer, command: str, payload: bytes) -> None:
        """The master's answer, or its refusal, goes to the client as `control_res` (dapi.md 1.6)."""
        try:
            answer = await master.request(command, payload)
        except ClusterError as failure:
            if isinstance(failure, LinkClosed):
                await self._roster.settled()
            answer = encode_failure(failure)
        await tell(client, commands.CONTROL_RES, answer)

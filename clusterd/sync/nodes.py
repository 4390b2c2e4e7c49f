"""Which nodes there are: the rows and records behind get_nodes, get_health and status (wire.md 8)."""

from collections.abc import Callable, Iterable
from typing import Any

from clusterd.settings import Settings
from clusterd.sync.integrity_master import IntegrityMaster
from clusterd.sync.peer import Peer
from clusterd.sync.queries import Row, get_nodes, health_names


class Nodes:
    """Answers from the live table of peers; holds nothing itself."""

    def __init__(
        self, settings: Callable[[], Settings], peers: Callable[[], Iterable[Peer]], integrity: IntegrityMaster
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._integrity = integrity

    def workers(self) -> list[Peer]:
        """In order of registration."""
        return [peer for peer in self._peers() if peer.info.kind == "worker"]

    def master_row(self) -> Row:
        settings = self._settings()
        host = settings.cluster.nodes[0] if settings.cluster.nodes else settings.cluster.bind_addr
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
        """Raises QueryRefused."""
        return get_nodes([self.master_row(), *(self.row(peer) for peer in self.workers())], arguments)

    def health(self, wanted: object) -> dict[str, Any]:
        """Without an agent database every node has 0 active agents (dapi.md 8.2). Raises QueryRefused."""
        peers = {peer.name: peer for peer in self.workers()}
        master = self.master_row()
        names, with_master = health_names(list(peers), wanted, master["name"])
        nodes: dict[str, Any] = {}
        for name in names:
            peer = peers[name]
            nodes[name] = {
                "info": {**self.row(peer), "n_active_agents": 0},
                "status": self._integrity.record(name).health(
                    integrity_free=self._integrity.permissions.is_free(name), keepalive_at=peer.keepalive_at
                ),
            }
        if with_master:
            nodes[master["name"]] = {"info": {**master, "n_active_agents": 0}}
        return {"n_connected_nodes": len(names), "nodes": nodes}

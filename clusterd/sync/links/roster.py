"""The connected peers: the links of this node in the order in which they came up. Core adds and removes them; everybody
else only reads."""

from clusterd.errors import ClusterError
from clusterd.sync.links.peer import Peer
from clusterd.wire.results import shorten


class Roster:
    """Owns the peers of all links: workers, the master, local programs."""

    def __init__(self) -> None:
        self._peers: dict[int, Peer] = {}

    def add(self, peer: Peer) -> None:
        self._peers[peer.link] = peer

    def remove(self, link: int) -> Peer | None:
        """Removes and returns the link's peer, None if it had none."""
        return self._peers.pop(link, None)

    def at(self, link: int) -> Peer | None:
        return self._peers.get(link)

    def all(self) -> list[Peer]:
        return list(self._peers.values())

    def workers(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.info.kind == "worker"]

    def worker(self, name: str) -> Peer | None:
        return next((peer for peer in self.workers() if peer.name == name), None)

    def master(self) -> Peer | None:
        return next((peer for peer in self._peers.values() if peer.info.kind == "master"), None)

    def need_worker(self, name: str) -> Peer:
        """Raises ClusterError 3022 for a worker that is not connected."""
        found = self.worker(name)
        if found is None:
            raise ClusterError(3022, shorten(name))
        return found

    def need_master(self) -> Peer:
        """Raises ClusterError 3023 without a link to a master."""
        found = self.master()
        if found is None:
            raise ClusterError(3023)
        return found

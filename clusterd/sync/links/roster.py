"""The connected peers: the links of this node in the order in which they came up. Core adds and removes them; everybody
else only reads."""

import asyncio
import contextlib

from clusterd.errors import ClusterError
from clusterd.leadership import CHANGE_S
from clusterd.sync.links.peer import Peer
from clusterd.wire.results import shorten

SOON_S = 10.0
"""For so long after its loss another master is expected."""


class Roster:
    """Owns the peers of all links: workers, the master, local programs."""

    def __init__(self) -> None:
        self._peers: dict[int, Peer] = {}
        self._is_expected = False
        self._expected_no_more: asyncio.TimerHandle | None = None
        self._has_master = asyncio.Event()

    def add(self, peer: Peer) -> None:
        self._peers[peer.link] = peer
        if peer.info.kind == "master":
            self._has_master.set()

    def remove(self, link: int) -> Peer | None:
        """Removes and returns the link's peer, None if it had none."""
        peer = self._peers.pop(link, None)
        if self.master() is None:
            self._has_master.clear()
        return peer

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

    def expect_master(self) -> None:
        """The lead changes hands, most likely: whoever needs the master waits a little."""
        if self._expected_no_more is not None:
            self._expected_no_more.cancel()
        self._is_expected = True
        self._expected_no_more = asyncio.get_running_loop().call_later(SOON_S, self._expect_no_more)

    def _expect_no_more(self) -> None:
        self._is_expected = False

    async def await_master(self) -> Peer:
        """For a request of which nothing was sent yet. While a master is expected it waits for CHANGE_S. Raises
        ClusterError 3023."""
        await self.settled()
        return self.need_master()

    async def settled(self) -> None:
        """While a master is expected: returns when it is there, or after CHANGE_S. A program whose request was lost
        with the one before hears of it then: if it asks again at once, somebody is there to answer."""
        if self.master() is None and self._is_expected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHANGE_S):
                    await self._has_master.wait()

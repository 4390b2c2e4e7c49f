"""What a node's role adds to a sync process. There are two: side_master.py and side_worker.py."""

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from clusterd.sync.links.handlers import Handler, SealedHandler
from clusterd.sync.links.peer import Peer


class SideStatus(msgspec.Struct, frozen=True):
    """The role's part of `status`. `problem`: what keeps the node from its work, empty if nothing does; `results`: last checks
    and packages, `agents`: last syncs of agents, both by worker on a master, under `self` on a worker."""

    problem: str
    results: dict[str, Any]
    agents: dict[str, Any]


class Side(Protocol):
    """Made once by core.py, which tells it of links in their order."""

    @property
    def remote(self) -> Mapping[str, Handler]:
        """Commands of other nodes."""
        ...

    @property
    def sealed(self) -> Mapping[str, SealedHandler]:
        """Commands of other nodes whose body goes to the pool as it is."""
        ...

    @property
    def local(self) -> Mapping[str, Handler]:
        """Commands of programs on the local socket."""
        ...

    def forever(self) -> list[Coroutine[Any, Any, None]]:
        """What this node does for ever, apart from its links. For whoever runs the process, once."""
        ...

    def link_up(self, peer: Peer) -> None:
        """The peer is in the roster now."""
        ...

    async def link_down(self, peer: Peer) -> None:
        """The peer has left the roster: end what runs on its link, close it, forget it."""
        ...

    def status(self, away: str) -> SideStatus:
        """`away`: why net has no link to the master, as far as it knows."""
        ...

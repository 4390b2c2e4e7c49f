"""What a node's role adds to a sync process. There are two: side_master.py and side_worker.py."""

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from clusterd.messages.links import HelloRefused
from clusterd.sync.links.handlers import Handler, SealedHandler
from clusterd.sync.links.peer import Peer
from clusterd.sync.requests.status import SideStatus


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

    async def link_down(self, peer: Peer, why: str) -> None:
        """The peer has left the roster: end what runs on its link, close it, forget it. `why`: empty when it hung
        up."""
        ...

    def refused(self, refusal: HelloRefused) -> None:
        """A node may not join."""
        ...

    def away(self, reason: str) -> None:
        """Why net has no link to a master."""
        ...

    async def ha_status(self) -> dict[str, Any] | None:
        """What `clusterd ha status` shows of this node; None where no replica is wanted."""
        ...

    def status(self, away: str) -> SideStatus:
        """`away`: why net has no link to the master, as far as it knows."""
        ...

"""What two clusterd nodes agree to beyond the stock protocol (design.md 6). So far: that the other end is clusterd."""

from clusterd.errors import ClusterError
from clusterd.sync.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import parse_caps
from clusterd.wire.results import dump_json

OFFERED: tuple[str, ...] = ()
"""Capabilities of this node. Each side uses what both listed."""
UNKNOWN_COMMAND = 3000
"""What the plain text `unknown command ...` is read as (wire.md 3.4)."""


def answer_caps(peer: Peer, payload: bytes) -> bytes:
    """A worker's `caps`: note that it is clusterd and answer what both can do. Raises ClusterError 1000."""
    listed = parse_caps(payload)
    peer.program = "clusterd"
    return dump_json([capability for capability in OFFERED if capability in listed])


async def offer_caps(peer: Peer) -> None:
    """A worker tells its master what it can do. A stock master does not know the command; nothing waits for this."""
    try:
        parse_caps(await peer.request(commands.CAPS, dump_json(list(OFFERED))))
    except ClusterError as refusal:
        if refusal.code == UNKNOWN_COMMAND:
            peer.program = "stock"
        return
    peer.program = "clusterd"

"""What two clusterd nodes agree to beyond the stock protocol (design.md 6). So far: that the other end is clusterd."""

from clusterd.errors import ClusterError
from clusterd.sync.peer import Peer
from clusterd.wire import commands
from clusterd.wire.results import dump_json, load_json

OFFERED: tuple[str, ...] = ()
"""Capabilities of this node. Each side uses what both listed."""

MAX_LISTED = 64


def answer_caps(peer: Peer, payload: bytes) -> bytes:
    """A worker's `caps`: note that it is clusterd and answer what both can do. Raises ClusterError 1000."""
    listed = load_json(payload)
    if not isinstance(listed, list) or len(listed) > MAX_LISTED or not all(isinstance(item, str) for item in listed):
        raise ClusterError(1000, f"caps needs a JSON list of at most {MAX_LISTED} texts")
    peer.program = "clusterd"
    return dump_json([capability for capability in OFFERED if capability in listed])


async def offer_caps(peer: Peer) -> None:
    """A worker tells its master what it can do. A stock master does not know the command; nothing waits for this."""
    try:
        answer = load_json(await peer.request(commands.CAPS, dump_json(list(OFFERED))))
    except ClusterError as refusal:
        if refusal.code == 3000:
            peer.program = "stock"
        return
    peer.program = "clusterd" if isinstance(answer, list) else "stock"

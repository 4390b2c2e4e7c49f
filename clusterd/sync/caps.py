"""What two clusterd nodes agree to beyond the stock protocol (design.md 6).

agents   the node's agent database is our store: reports carry the moment of each agent, refused rows come back by name
digest   checks begin with the digest of a manifest, and tell only what is in the buckets that differ
push     the master says when its manifest has changed
lz4      packages are made of LZ4 frames
resume   a package that was cut off goes on where it stopped
"""

from clusterd.clock import boot_us
from clusterd.errors import ClusterError
from clusterd.settings import Settings
from clusterd.sync.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import parse_caps, parse_clock
from clusterd.wire.results import dump_json

AGENTS = "agents"
DIGEST = "digest"
PUSH = "push"
LZ4 = "lz4"
RESUME = "resume"
CLOCK_ATTEMPTS = 5
CLOSE_US = 20_000
"""A measurement that took no longer is good enough: an agent needs more time to move from one worker to another."""
UNKNOWN_COMMAND = 3000
"""What the plain text `unknown command ...` is read as (wire.md 3.4)."""


def offered(settings: Settings) -> tuple[str, ...]:
    """Capabilities of this node. Each side uses what both listed."""
    return tuple(name for name in settings.clusterd.caps if name != AGENTS or settings.serves_store)


def answer_caps(peer: Peer, payload: bytes, settings: Settings) -> bytes:
    """A worker's `caps`: note that it is clusterd and answer what both can do. Raises ClusterError 1000."""
    listed = parse_caps(payload)
    peer.program = "clusterd"
    agreed = [capability for capability in offered(settings) if capability in listed]
    peer.agree(agreed)
    return dump_json(agreed)


async def offer_caps(peer: Peer, settings: Settings) -> None:
    """A worker tells its master what it can do. A stock master does not know the command; nothing waits for this."""
    try:
        agreed = parse_caps(await peer.request(commands.CAPS, dump_json(list(offered(settings)))))
    except ClusterError as refusal:
        if refusal.code == UNKNOWN_COMMAND:
            peer.program = "stock"
        peer.agree(())
        return
    peer.program = "clusterd"
    peer.agree(set(agreed).intersection(offered(settings)))


def method_for(peer: Peer) -> str:
    """How entries of packages to this peer are compressed: a word of PackPart."""
    return LZ4 if LZ4 in peer.capabilities else "zlib"


async def clock_offset_us(peer: Peer) -> int:
    """The master's boot clock less ours, right to half of the time its answer takes; asked again while that is long.

    Raises ClusterError."""
    best: tuple[int, int] | None = None
    for _ in range(CLOCK_ATTEMPTS):
        asked = boot_us()
        theirs = parse_clock(await peer.request(commands.CLOCK))
        answered = boot_us()
        measured = answered - asked, theirs - (asked + answered) // 2
        best = measured if best is None else min(best, measured)
        if best[0] <= CLOSE_US:
            break
    assert best is not None
    return best[1]

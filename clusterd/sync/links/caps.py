"""What two clusterd nodes agree to beyond the stock protocol (architecture.md, section 4).

agents   the node's agent database is our store: reports carry the moment of each agent, refused rows come back by name
digest   checks begin with the digest of a manifest, and tell only what is in the buckets that differ
push     the master says when its manifest has changed
lz4      packages are made of LZ4 frames
resume   a package that was cut off goes on where it stopped
ahead    what has changed is sent to workers that have the manifest before, without being asked
pulse    each end sends something every few seconds, so that a silent link is soon known to be lost
(clusterd/net/pulse.py)
answer   a small answer of the API is the response to the request itself
room     the worker says how much it can take
replica  the worker keeps a replica of the master's agent database (docs/ha.md)
status   each node tells the other what `status` shows: files left out, its clock, absent workers
term     the master says in which term it leads, to net (clusterd/net/terms.py)
"""

import asyncio
import contextlib

from clusterd.errors import ClusterError
from clusterd.settings import Settings
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed, NetPort
from clusterd.wire import commands
from clusterd.wire.payloads import parse_caps
from clusterd.wire.results import dump_json

AGENTS = "agents"
DIGEST = "digest"
PUSH = "push"
LZ4 = "lz4"
RESUME = "resume"
AHEAD = "ahead"
ROOM = "room"
TERM = "term"
ANSWER = "answer"
REPLICA = "replica"
STATUS = "status"
CLUSTERD = "clusterd"
STOCK = "stock"
_WORDS = ","
PAUSES_S = 0.0, 0.5, 2.0
"""How long a worker waits before each attempt to agree with its master."""
UNKNOWN_COMMAND = 3000
"""How the plain text `unknown command ...` is read (wire.md 3.4)."""


def offered(settings: Settings) -> tuple[str, ...]:
    """This node's capabilities. Each side uses those that both have listed. A master that is to give a replica and
    cannot says so when it is asked; one that has never heard of a term has nothing to say about it."""
    without = set()
    if not settings.serves_store:
        without.add(AGENTS)
    if not settings.clusterd.ha.replica or not (settings.serves_store or settings.is_master):
        without.add(REPLICA)
    if settings.is_master and settings.role is None:
        without.add(TERM)
    return tuple(name for name in settings.clusterd.caps if name not in without)


async def answer_caps(peer: Peer, payload: bytes, settings: Settings, net: NetPort) -> bytes:
    """A worker's `caps`: records that it is clusterd and answers what both can do. net keeps the result for a later
    sync process, since the worker sends it once per link. Raises ClusterError 1000."""
    listed = parse_caps(payload)
    agreed = [capability for capability in offered(settings) if capability in listed]
    before = _WORDS.join(sorted(peer.capabilities)) if peer.program == CLUSTERD else None
    peer.program = CLUSTERD
    peer.agree(agreed)
    if before is not None:
        await net.note_task(peer.link, commands.CAPS, before, is_open=False)
    await net.note_task(peer.link, commands.CAPS, _WORDS.join(sorted(agreed)), is_open=True)
    return dump_json(agreed)


def recall(peer: Peer, noted: str, settings: Settings) -> None:
    """Restores what an earlier sync process had agreed with this worker, as net kept it."""
    peer.program = CLUSTERD
    peer.agree(set(noted.split(_WORDS)).intersection(offered(settings)))


async def offer_caps(peer: Peer, settings: Settings, net: NetPort) -> None:
    """Tells the master what this worker can do. A stock master does not know the command. net is told the result, since
    it implements part of it."""
    agreed: set[str] = set()
    try:
        answer = await _answer_of_master(peer, dump_json(list(offered(settings))), net)
        if answer is not None:
            with contextlib.suppress(ClusterError):  # nonsense: then nothing is agreed
                agreed = set(parse_caps(answer)).intersection(offered(settings))
                peer.program = CLUSTERD
    finally:
        peer.agree(agreed)  # the rounds of this link wait for it
    if peer.program == CLUSTERD:
        await net.note_task(peer.link, commands.CAPS, _WORDS.join(sorted(agreed)), is_open=True)


async def _answer_of_master(peer: Peer, ours: bytes, net: NetPort) -> bytes | None:
    """None if it has none. What is agreed holds for as long as the link: a master that refuses because its sync process
    has just been restarted, or does not answer in time, is asked again, and at last over another link."""
    failure = ""
    for pause_s in PAUSES_S:
        await asyncio.sleep(pause_s)
        try:
            return await peer.request(commands.CAPS, ours)
        except LinkClosed:
            return None
        except ClusterError as refusal:
            if refusal.code == UNKNOWN_COMMAND:
                peer.program = STOCK
                return None
            failure = str(refusal)
    await net.close(peer.link, f"the master did not say what it can do: {failure}")
    return None


def asks_as_stock(peer: Peer) -> None:
    """A worker begins a check. A clusterd node sends its `caps` before anything else, so this one is stock or acts like
    it."""
    if not peer.program:
        peer.program = STOCK


def method_for(peer: Peer) -> str:
    """The compression of package entries for this peer: a word of PackPart."""
    return LZ4 if LZ4 in peer.capabilities else "zlib"

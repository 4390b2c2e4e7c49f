"""A worker's question whether it may begin a sync (wire.md 5.8)."""

from clusterd.errors import ClusterError
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.tag_log import TagLog
from clusterd.wire import commands

NO_ANSWER = 3020
QUOTED = 200


async def is_permitted(peer: Peer, command: str, log: TagLog) -> bool:
    """Asks the master with this command, and logs what it says."""
    try:
        answer = await peer.request(command)
    except ClusterError as failure:
        if failure.code == NO_ANSWER:
            log.error(f"Error asking for permission: {failure}")
        else:
            log.debug(f"Master didn't grant permission to start a new synchronization: {failure}")
        return False
    if answer != commands.PERMISSION_GRANTED:
        log.debug(f"Master didn't grant permission to start a new synchronization: {answer[:QUOTED]!r}")
        return False
    log.debug("Permission to synchronize granted.")
    return True

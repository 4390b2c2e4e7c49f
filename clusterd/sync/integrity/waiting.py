"""Waiting for a file of a peer that was given a task id for it (wire.md 3.5, 4.5)."""

from clusterd.beat import awake_timeout
from clusterd.errors import ClusterError
from clusterd.sync.links.context import Context
from clusterd.sync.links.incoming import Awaited
from clusterd.sync.links.peer import Peer, tell
from clusterd.sync.ports.tag_log import TagLog
from clusterd.wire import commands
from clusterd.wire.payloads import build_task_failure

LATE, NOT_WHOLE = 3039, 3040


async def wait_for_file(context: Context, peer: Peer, awaited: Awaited, log: TagLog | None) -> str:
    """Returns the spool path of the file, which belongs to the caller from then on.

    Raises ClusterError 3039 after `timeout_receiving_file`, 3040 when the peer has ended and the file is not there (it
    has then been told to cancel), or the peer's own error if it gave up. `log` gets the master's DEBUG line about the
    arrival."""
    timeout_s = context.settings.communication.timeout_receiving_file_s
    try:
        async with awake_timeout(timeout_s):
            file = await awaited.file
    except TimeoutError as silence:
        error = ClusterError(LATE)
        peer.incoming.forget(awaited.task_id)
        peer.spawn(tell(peer, commands.CANCEL_TASK, build_task_failure(awaited.task_id, error)))
        raise error from silence
    except ClusterError as failure:
        if failure.code == NOT_WHOLE:
            peer.spawn(tell(peer, commands.CANCEL_TASK, build_task_failure(awaited.task_id, failure)))
        raise
    if log is not None:
        log.debug(f"Received file from worker: '{context.settings.root}{file.path}'")
    return file.place

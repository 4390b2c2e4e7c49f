"""Receives a long string of database rows, the same for agent-info and agent-groups (wire.md 6.6)."""

from collections.abc import Callable
from typing import TypeVar

from clusterd.errors import ClusterError
from clusterd.messages.base import Job, Result
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from hashing.segment import Segment

R = TypeVar("R", bound=Result)
SHOWN_ID_BYTES = 64


class Unusable(Exception):
    """The string cannot be used. `text` is for the peer (`*_err`), `error` for our log."""

    def __init__(self, text: str, error: ClusterError) -> None:
        super().__init__(text)
        self.text = text
        self.error = error


async def open_rows(context: Context, peer: Peer, string_id: str, job: Callable[[Segment], Job[R]], kind: str) -> R:
    """Runs `job` on the string that a peer has sent, and removes the string afterwards. `kind`: `agent-info` or
    `agent-groups`.

    Raises Unusable; OSError when the spool fails."""
    try:
        string = await peer.incoming.strings.take(string_id)
    except ClusterError as failure:
        name = string_id.encode()[:SHOWN_ID_BYTES]
        raise Unusable(
            f"error while trying to access string under task_id {name!r}.",
            ClusterError(3035, f"it should be under task_id {name!r}, but it's empty."),
        ) from failure
    try:
        return await context.jobs.run(job(string))
    except JobError as failure:
        if failure.kind == "bad-json":
            text = f"error while trying to load JSON: {failure}"
            raise Unusable(text, ClusterError(3036, str(failure))) from failure
        text = f"error processing {kind} chunks in process pool: {failure}"
        raise Unusable(text, ClusterError(3037, str(failure))) from failure
    finally:
        context.spool.remove(string.path)

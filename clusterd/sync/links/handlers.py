"""Requests that both roles answer in the same way: files, strings, cancellations (wire.md 4.1)."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import parse_task_failure
from ipc.descriptor import Descriptor


class DeferredAnswer(NamedTuple):
    """Returned by a handler whose answer is sent later, by a request of ours: the payload of the immediate `ok` (None:
    no response at all), and the work that completes the request and reports its own failures to the asker. What it
    returns is sent as a request of ours; None: it has sent all itself."""

    first: bytes | None
    work: Callable[[], Awaitable[tuple[str, bytes] | None]]


Handler = Callable[[Peer, bytes], Awaitable[bytes | DeferredAnswer]]
"""Answers a request: returns the payload of `ok`, or DeferredAnswer, or raises (ClusterError, Refusal)."""

SealedHandler = Callable[[Peer, bytes, list[Descriptor] | None], Awaitable[bytes]]
"""The same for a request whose body stays sealed and goes to the pool unopened. Without a body the payload is in the
message."""


class CommonRequests:
    """`table` and `sealed` have these commands, for one node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.table: dict[str, Handler] = {
            commands.NEW_FILE: self.new_file,
            commands.FILE_END: self.file_end,
            commands.NEW_STR: self.new_string,
            commands.ERR_STR: self.cancel_string,
            commands.CANCEL_TASK: self.cancel_task,
        }
        self.sealed: dict[str, SealedHandler] = {
            commands.FILE_UPD: self.file_chunk,
            commands.STR_UPD: self.string_chunk,
        }

    async def file_chunk(self, peer: Peer, payload: bytes, body: list[Descriptor] | None) -> bytes:
        await peer.incoming.file_chunk(payload, body)
        return commands.FILE_UPDATED

    async def string_chunk(self, peer: Peer, payload: bytes, body: list[Descriptor] | None) -> bytes:
        await peer.incoming.strings.chunk(payload, body)
        return commands.STRING_UPDATED

    async def new_file(self, peer: Peer, payload: bytes) -> bytes:
        peer.incoming.new_file(payload)
        return commands.READY_FOR_FILE

    async def file_end(self, peer: Peer, payload: bytes) -> bytes:
        await peer.incoming.end_file(payload)
        return commands.FILE_RECEIVED

    async def new_string(self, peer: Peer, payload: bytes) -> bytes:
        return peer.incoming.strings.begin(payload).encode()

    async def cancel_string(self, peer: Peer, payload: bytes) -> bytes:
        return (await peer.incoming.strings.cancel(payload)).encode()

    async def cancel_task(self, peer: Peer, payload: bytes) -> bytes:
        """The peer has stopped waiting for a file of ours (wire.md 4.5). Unknown ids are not stored (R4)."""
        task_id, error = parse_task_failure(payload)
        tag = self._context.tag if peer.info.kind == "master" else peer.tag
        if task_id is None:
            text = f"The task was requested to be canceled but no task_id was received: {error}"
        else:
            text = f"The task was canceled due to the following error on the remote node: {error}"
            if task_id in peer.sending:
                peer.interrupted.add(task_id)
        await self._context.net.main_line("ERROR", tag, text)
        return commands.CANCEL_RECEIVED

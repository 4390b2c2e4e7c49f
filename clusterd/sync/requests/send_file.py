"""`send_file` of the local socket (dapi.md 1.9): sends a file of this node to another one, only from below
`queue/cluster/`."""

import os
import stat

from clusterd.errors import ClusterError
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import DeferredAnswer, Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire import commands
from clusterd.wire.payloads import text_of
from clusterd.wire.results import encode_failure
from hashing.segment import Segment

DIRECTORY = "queue/cluster"
OWN = ".clusterd"


class SendFile:
    """`local` is its command. The result (the number of bytes, or an exception) is sent as a long string and
    `send_f_res`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.local: dict[str, Handler] = {commands.SEND_FILE: self.send}

    async def send(self, client: Peer, payload: bytes) -> DeferredAnswer:
        """`{path} {node}`; a worker sends to its master, whatever the node. Raises ClusterError 1000, 3022, 3023, 3034,
        4000."""
        words = text_of(payload).split(" ")
        if len(words) != 2:
            raise ClusterError(1000, "send_file takes a path and a node's name, separated by one space")
        path, node = words
        target = self._target(node)
        name, size = self._checked(path)
        return DeferredAnswer(commands.FILE_TO_MASTER, lambda: self._send(client, target, name, size))

    def _target(self, node: str) -> Peer:
        roster = self._context.roster
        return roster.need_worker(node) if self._context.settings.is_master else roster.need_master()

    def _checked(self, path: str) -> tuple[str, int]:
        """Returns the file's path relative to the root, and its size."""
        root = os.path.realpath(self._context.settings.root)
        real = os.path.realpath(path)
        name = os.path.relpath(real, root)
        if not name.startswith(f"{DIRECTORY}/") or name.startswith(f"{DIRECTORY}/{OWN}/"):
            raise ClusterError(4000, f"only files below {DIRECTORY}/ are sent")
        try:
            found = os.stat(real)
        except OSError as failure:
            raise ClusterError(3034, failure.strerror) from None
        if not stat.S_ISREG(found.st_mode):
            raise ClusterError(3034, "it is no regular file")
        return name, found.st_size

    async def _send(self, client: Peer, target: Peer, name: str, size: int) -> None:
        sender = self._context.sender
        try:
            segments = [Segment(f"{self._context.settings.root}/{name}", 0, size)]
            await sender.send_file(target, f"/{name}", segments, size)
            result = str(size).encode()
        except (ClusterError, JobError, OSError) as failure:
            error = failure if isinstance(failure, ClusterError) else ClusterError(1000, str(failure))
            self._context.tag_log("Local Server", "Send file").error(f"{name} was not sent to {target.name}: {error}")
            result = encode_failure(error)
        try:
            string_id = await sender.send_string(client, result)
            await client.request(commands.SEND_F_RES, string_id.encode())
        except ClusterError:
            # The client has hung up and needs no result.
            return

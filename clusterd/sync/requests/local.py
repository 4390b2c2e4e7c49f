"""What a node answers to programs on its local socket (dapi.md 1). A worker passes questions on to its master."""

from collections.abc import Awaitable, Callable
from typing import Any

from clusterd.errors import ClusterError
from clusterd.messages.manifest import RulesetHashes
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import DeferredAnswer, Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.requests.nodes import Nodes
from clusterd.wire import commands
from clusterd.wire.results import ARGUMENT_BYTES, dump_json, encode_failure, load_json

LARGEST_ANSWER = 5242880


class LocalRequests:
    """The table of commands of the local socket. `nodes`: None on a worker, which asks its master."""

    def __init__(
        self,
        context: Context,
        nodes: Nodes | None,
        status: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._context = context
        self._nodes = nodes
        self._status = status
        self.table: dict[str, Handler] = {
            commands.STATUS: self.status,
            commands.GET_CONFIG: self.get_config,
            commands.GET_HASH: self.get_hash,
            commands.GET_NODES: self.get_nodes,
            commands.GET_HEALTH: self.get_health,
        }

    async def status(self, peer: Peer, payload: bytes) -> bytes:
        return dump_json(await self._status())

    async def get_config(self, peer: Peer, payload: bytes) -> bytes:
        return dump_json(self._context.settings.cluster.shown())

    async def get_hash(self, peer: Peer, payload: bytes) -> bytes:
        return await self.hashes()

    async def hashes(self) -> bytes:
        """Path to BLAKE2b of rules, decoders and lists, of a scan made now, as JSON (dapi.md 1.8)."""
        context = self._context
        scan = await context.manifests.scan(fresh=True)
        out = context.spool.new_path("hashes")
        try:
            packed = await context.jobs.run(RulesetHashes(context.spool.state_dir, scan.root_digest, out), lane="api")
            if packed.size > LARGEST_ANSWER:
                raise ClusterError(1000, f"the answer would have {packed.size} bytes, above {LARGEST_ANSWER}")
            with open(out, "rb") as file:
                return file.read()
        except JobError as failure:
            raise ClusterError(1000, str(failure)) from failure
        finally:
            context.spool.remove(out)

    async def get_nodes(self, peer: Peer, payload: bytes) -> bytes | DeferredAnswer:
        if self._nodes is not None:
            return dump_json(self._nodes.list(load_json(payload, limit=ARGUMENT_BYTES)))
        return self._ask_master(peer, commands.GET_NODES, payload)

    async def get_health(self, peer: Peer, payload: bytes) -> bytes | DeferredAnswer:
        if self._nodes is not None:
            return dump_json(await self._nodes.health(load_json(payload, limit=ARGUMENT_BYTES)))
        return self._ask_master(peer, commands.GET_HEALTH, payload)

    def _ask_master(self, peer: Peer, command: str, payload: bytes) -> DeferredAnswer:
        master = self._context.roster.need_master()
        return DeferredAnswer(commands.SENT_TO_MASTER, lambda: self._forward(peer, master, command, payload))

    async def _forward(self, client: Peer, master: Peer, command: str, payload: bytes) -> None:
        """The master's answer, or its refusal, goes to the client as `control_res` (dapi.md 1.6)."""
        try:
            answer = await master.request(command, payload)
        except ClusterError as failure:
            answer = encode_failure(failure)
        try:
            await client.request(commands.CONTROL_RES, answer)
        except ClusterError:
            # The client has hung up.
            return

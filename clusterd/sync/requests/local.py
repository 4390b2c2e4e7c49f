"""Answers to programs on the node's local socket (dapi.md 1)."""

from clusterd.errors import ClusterError
from clusterd.messages.manifest import RulesetHashes
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire import commands
from clusterd.wire.results import dump_json

LARGEST_ANSWER = 5242880


class LocalRequests:
    """`table` has the commands that are about this node only; `status` is core.py's."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.table: dict[str, Handler] = {
            commands.GET_CONFIG: self.get_config,
            commands.GET_HASH: self.get_hash,
        }

    async def get_config(self, peer: Peer, payload: bytes) -> bytes:
        return dump_json(self._context.settings.cluster.shown())

    async def get_hash(self, peer: Peer, payload: bytes) -> bytes:
        return await self.hashes()

    async def hashes(self) -> bytes:
        """Returns path to BLAKE2b of rules, decoders and lists, of a scan made now, as JSON (dapi.md 1.8)."""
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

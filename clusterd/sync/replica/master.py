"""A master gives candidates a replica of its state (docs/ha.md): questions go to its store, the files of the REST API
come from here."""

import asyncio
import contextlib
import json
from typing import Any

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.replica import COMPARED_S, WAIT_S, AwaitCompared, Gone, ReplicaReply, Show, Tell
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.replica.api_files import ApiSource
from clusterd.wdb.replica import ReplicaStore
from clusterd.wire import commands

SUBTAG = "Replica"
TROUBLE = "replica"
REGISTRATIONS = "registrations"
FILES_TROUBLE = "files of the REST API"
ANSWER_S = 30.0
BEGINS_S, BEGINS_POLL_S = 5.0, 0.05
"""How long, and how often, the socket of this node's store is looked for."""
SHOW_S = 0.8
NO_STORE = (
    "No replica can be given: the agent database of this master is served by another program (wazuh-db), a replica "
    "needs clusterd's own store (clusterd.store)"
)


class ReplicaMaster:
    """Answers candidates. `table`: its commands."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = ReplicaStore(context.settings.root)
        self._files = ApiSource(context.settings)
        self._asking: set[int] = set()
        log = context.tag_log(context.tag, SUBTAG)
        self._tasks = Tasks(log.error)
        self.table: dict[str, Handler] = {
            commands.GET_CHANGES: self.changes,
            commands.GET_API: self.api_files,
        }
        if context.settings.clusterd.ha.replica and not context.settings.serves_store:
            context.troubles.begin(TROUBLE, NO_STORE, log)

    async def changes(self, peer: Peer, payload: bytes) -> bytes:
        """`{AskChanges}`: what has changed since. Raises ClusterError 1000."""
        if not self._context.settings.serves_store:
            raise ClusterError(1000, NO_STORE)
        if peer.link in self._asking:
            raise ClusterError(1000, "another question of this candidate waits for its answer")
        self._asking.add(peer.link)
        try:
            found = await self._store.ask(Tell(peer.name, payload), WAIT_S + ANSWER_S)
        finally:
            self._asking.discard(peer.link)
        return msgspec.msgpack.encode(ReplicaReply(found, await self._files_digest()))

    async def _files_digest(self) -> str | None:
        """A replica does without these files while they cannot be read."""
        troubles, log = self._context.troubles, self._context.tag_log(self._context.tag, SUBTAG)
        try:
            digest = await asyncio.to_thread(self._files.digest)
        except OSError as failure:
            text = f"Candidates do not get the files of the REST API: {failure}"
            troubles.begin(FILES_TROUBLE, text, log)
            return None
        troubles.end(FILES_TROUBLE, "Candidates get the files of the REST API again.", log)
        return digest

    async def api_files(self, peer: Peer, payload: bytes) -> bytes:
        """`[digest, offset]`: a piece of the files of the REST API. Raises ClusterError 1000."""
        try:
            digest, offset = msgspec.msgpack.decode(payload, type=tuple[str, int])
        except msgspec.MsgspecError:
            raise ClusterError(1000, "not a digest and an offset") from None
        return self._files.piece(digest, offset)

    async def compared(self) -> None:
        """Waits until a candidate has shown that this master's disk was not set back, for COMPARED_S at most: its old
        files would take back on all nodes what was changed since. In an election etcd knows that."""
        settings = self._context.settings
        if not settings.has_replica or settings.has_election:
            return
        with contextlib.suppress(ClusterError, TimeoutError):
            async with asyncio.timeout(COMPARED_S + BEGINS_S):
                while not self._store.is_there:
                    await asyncio.sleep(BEGINS_POLL_S)
                await self._store.ask(AwaitCompared(), COMPARED_S + BEGINS_S)

    def left(self, peer: Peer) -> None:
        """The link of a worker has ended."""
        if self._context.settings.has_replica:
            self._tasks.spawn(self._tell_gone(peer.name))

    async def forget(self, name: str) -> None:
        """An operator says that this worker does not come back. In an election `ha forget` does."""
        settings = self._context.settings
        if settings.has_replica and not settings.has_election:
            with contextlib.suppress(ClusterError):
                await self._store.ask(Gone(name, for_good=True), SHOW_S)

    async def _tell_gone(self, name: str) -> None:
        try:
            await self._store.ask(Gone(name), ANSWER_S)
        except ClusterError:
            # The store is away and has forgotten its candidates.
            return

    async def shown(self) -> dict[str, Any] | None:
        """For `status`; None where no replica is wanted."""
        found = await shown(self._context, self._store)
        if found is not None:
            self._judge(found)
        return found

    def _judge(self, found: dict[str, Any]) -> None:
        """An election that cannot be asked who confirms keeps agents from being registered."""
        troubles, log = self._context.troubles, self._context.tag_log(self._context.tag, SUBTAG)
        if found.get("registrations") == "refused":
            text = f"Agents are neither registered nor deleted: {found.get('registrations_reason')}"
            troubles.begin(REGISTRATIONS, text)
        elif "registrations" in found:
            troubles.end(REGISTRATIONS, "Agents are registered and deleted again.", log)


async def shown(context: Context, store: ReplicaStore) -> dict[str, Any] | None:
    """What the store says of replicas; None where none is wanted."""
    settings = context.settings
    if not settings.clusterd.ha.replica:
        return None
    found: dict[str, Any] = {"role": "master" if settings.is_master else "candidate", "problem": None}
    if settings.serves_store:
        try:
            found |= json.loads(await store.ask(Show(), SHOW_S))
        except ClusterError as failure:
            found["problem"] = str(failure)
    found["problem"] = context.troubles.shown().get(TROUBLE) or found["problem"]
    return found

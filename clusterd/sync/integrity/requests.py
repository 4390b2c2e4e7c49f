"""Requests about integrity: `diff` and `sync_now`, of operators over the local socket and of a master to its
workers."""

from typing import Any

import msgspec

from clusterd.errors import ClusterError
from clusterd.sync.integrity.digest_master import DigestMaster
from clusterd.sync.integrity.digest_worker import DigestWorker
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.integrity.room import room
from clusterd.sync.integrity.rounds import IntegrityRounds
from clusterd.sync.links.caps import DIGEST
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire import commands
from clusterd.wire.payloads import text_of
from clusterd.wire.results import dump_json, load_json, shorten


class SyncNow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The argument of `sync_now`."""

    allow_delete: bool = False


def _argument(payload: bytes) -> SyncNow:
    try:
        return msgspec.convert(load_json(payload or b"{}", limit=1024), SyncNow)
    except msgspec.ValidationError as problem:
        raise ClusterError(1000, f"sync_now takes an object with allow_delete: {problem}") from None


class MasterIntegrityRequests:
    """Local commands of a master."""

    def __init__(self, context: Context, integrity: IntegrityMaster, digest: DigestMaster) -> None:
        self._context = context
        self._integrity = integrity
        self._digest = digest
        self.local: dict[str, Handler] = {commands.DIFF: self.diff, commands.SYNC_NOW: self.sync_now}

    async def diff(self, client: Peer, payload: bytes) -> bytes:
        """`{node}`. Raises ClusterError 1000, 3022."""
        return await self._digest.difference(self._context.roster.need_worker(text_of(payload)))

    async def sync_now(self, client: Peer, payload: bytes) -> bytes:
        """Scans the files now; workers that differ are told. Answers the manifest that is current then. Raises
        ClusterError."""
        if _argument(payload).allow_delete:
            await self._allow_delete()
        if await self._integrity.scan_once(everything=True) is None:
            raise ClusterError(1000, f"the scan failed: {self._context.manifests.failure}")
        scan = self._context.manifests.current
        assert scan is not None
        self._digest.manifest_changed(scan)
        found: dict[str, Any] = {
            "content_digest": scan.content_digest,
            "files": scan.files,
            "at": self._context.clock.wall(),
        }
        return dump_json(found)

    async def _allow_delete(self) -> None:
        manifests = self._context.manifests
        if manifests.current is None or not (manifests.current.withheld or manifests.current.settling):
            raise ClusterError(1000, "no deletions wait")
        try:
            await manifests.allow_delete()
        except ScanFailed as failure:
            raise ClusterError(1000, f"the scan failed: {failure}") from failure


class WorkerIntegrityRequests:
    """Local commands of a worker, and requests of its master."""

    def __init__(self, context: Context, digest: DigestWorker, rounds: IntegrityRounds) -> None:
        self._context = context
        self._digest = digest
        self._rounds = rounds
        self.local: dict[str, Handler] = {commands.DIFF: self.diff, commands.SYNC_NOW: self.sync_now}
        self.remote: dict[str, Handler] = {
            commands.GET_DIFF: self.get_diff,
            commands.SYN_CHANGED: self.master_changed,
            commands.GET_ROOM: self.get_room,
        }

    async def diff(self, client: Peer, payload: bytes) -> bytes:
        """Raises ClusterError 1000, 3022, 3023."""
        node = text_of(payload)
        if node not in ("", self._context.node_name):
            raise ClusterError(3022, f"{shorten(node)}: a worker knows only its own files; ask its master")
        return await self._difference(self._context.roster.need_master())

    async def get_diff(self, master: Peer, payload: bytes) -> bytes:
        """Raises ClusterError 1000."""
        return await self._difference(master)

    async def get_room(self, master: Peer, payload: bytes) -> bytes:
        """Raises OSError."""
        settings = self._context.settings
        places = (item.key for item in settings.rules.items)
        return str(room(self._context.spool.directory, settings.root, places, settings.clusterd.limits)).encode()

    async def _difference(self, master: Peer) -> bytes:
        if DIGEST not in master.capabilities:
            raise ClusterError(1000, "the master is a stock node, or its capability digest is off: it cannot be asked")
        try:
            return await self._digest.difference(master)
        except (ScanFailed, JobError, OSError) as failure:
            raise ClusterError(1000, str(failure)) from failure

    async def sync_now(self, client: Peer, payload: bytes) -> bytes:
        """Checks now. Raises ClusterError 1000, 3023."""
        if _argument(payload).allow_delete:
            raise ClusterError(1000, "deletions wait on the master only: run `clusterd sync --allow-delete` there")
        self._context.roster.need_master()
        try:
            await self._context.manifests.walk()
        except ScanFailed as failure:
            raise ClusterError(1000, f"the scan failed: {failure}") from failure
        self._rounds.check_now()
        return dump_json({"at": self._context.clock.wall()})

    async def master_changed(self, master: Peer, payload: bytes) -> bytes:
        """Raises ClusterError 1000."""
        self._rounds.master_changed(payload)
        return commands.THANKS

"""Ends the unpacking of a package when the link that it arrived over ends."""

import asyncio

from clusterd.errors import ClusterError
from clusterd.sync.links.caps import RESUME
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.spool import Spool
from clusterd.wire.transfer import IncomingFile


class WhileLinked:
    """From the creation of this object until `done`, the package is removed when the link ends: the jobs that read it
    look for its file now and then (clusterd/pool/wanted.py) and end. For a master that can resume transfers the package
    is kept, so that nothing is sent again.

    Files that wait to be renamed are not renamed then; a rename that has begun is not broken off."""

    def __init__(self, peer: Peer, file: IncomingFile, spool: Spool) -> None:
        self._peer = peer
        self._file = file
        self._spool = spool
        self._is_over = False
        self._waiting = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        await self._peer.gone.wait()
        self._is_over = True
        if RESUME in self._peer.capabilities:
            self._peer.incoming.keep(self._file)
        else:
            self._spool.remove(self._file.place)

    def done(self) -> None:
        """Tells that the package is no longer needed. Safe to repeat."""
        self._waiting.cancel()

    def explain(self, failure: JobError) -> Exception:
        """Returns the failure to report for a job that failed meanwhile."""
        if not self._is_over:
            return failure
        return ClusterError(1000, "the link to the master ended while its package was unpacked")

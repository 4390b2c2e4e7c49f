"""Results of comparing workers' metadata with our manifest. Equal metadata packages are compared once."""

import asyncio
import os

import msgspec

from clusterd.messages.packages import Compared, ComparePackage
from clusterd.sync.ports.pool_port import PoolPort
from clusterd.sync.ports.spool import Spool

KEPT = 64
"""Most results kept. Those for an earlier manifest are dropped at once."""
KEPT_DIFFERING = 4
"""Most results kept in which something differs. Each of these holds a difference file and, in memory, a number for each
file."""


class _Comparison(msgspec.Struct):
    """`users`: callers that have not got the difference file yet."""

    manifest: str
    running: "asyncio.Task[Compared]"
    difference: str
    users: int = 0


def _differs(known: _Comparison) -> bool:
    if known.running.cancelled() or known.running.exception() is not None:
        return False
    compared = known.running.result()
    return bool(compared.missing or compared.shared or compared.extra)


class Comparisons:
    """Results by SHA-256 of the metadata package and root digest of our manifest. Workers with the same files send the
    same package (new workers have none at all), and an unchanged worker sends the same one again."""

    def __init__(self, jobs: PoolPort, spool: Spool) -> None:
        self._jobs = jobs
        self._spool = spool
        self._known: dict[tuple[bytes, str], _Comparison] = {}

    async def compare(self, package: str, sha256: bytes, manifest: str, difference: str) -> Compared:
        """Compares the spool file `package`, which has this SHA-256, with the manifest `manifest` (root digest). A
        difference file is made unless nothing differs. Raises JobError, OSError."""
        key = sha256, manifest
        known = self._known.get(key)
        if known is None:
            self._forget_others(manifest)
            known = _Comparison(manifest, self._begin(package, manifest, own := self._spool.new_path("compared")), own)
            self._known[key] = known
        known.users += 1
        try:
            compared = await asyncio.shield(known.running)
            if compared.missing or compared.shared or compared.extra:
                os.link(known.difference, difference)
            else:
                self._spool.remove(known.difference)
            return compared
        except Exception:  # else only this caller has gone
            if self._known.get(key) is known:
                del self._known[key]
            raise
        finally:
            known.users -= 1
            self._remove_unused(key, known)

    def _begin(self, package: str, manifest: str, difference: str) -> "asyncio.Task[Compared]":
        # The package is removed when the link of the worker that sent it ends; other workers may wait for the same
        # result.
        own = self._spool.new_path("package")
        os.link(package, own)

        async def run() -> Compared:
            try:
                job = ComparePackage(own, self._spool.state_dir, manifest, difference)
                return await self._jobs.run(job)
            finally:
                self._spool.remove(own)

        running = asyncio.create_task(run())
        running.add_done_callback(lambda task: task.cancelled() or task.exception())
        return running

    def _forget_others(self, manifest: str) -> None:
        """Drops results for other manifests, then the oldest ones."""
        ended = [(key, known) for key, known in self._known.items() if known.running.done()]
        differing = sum(_differs(known) for _, known in ended)
        for key, known in ended:
            is_too_much = len(self._known) >= KEPT or (differing >= KEPT_DIFFERING and _differs(known))
            if known.manifest != manifest or is_too_much:
                differing -= _differs(known)
                del self._known[key]
                self._remove_unused(key, known)

    def _remove_unused(self, key: tuple[bytes, str], known: _Comparison) -> None:
        """Removes the file of a result that nobody will ask for again, when all have it who have waited for it."""
        if not known.users and self._known.get(key) is not known:
            self._spool.remove(known.difference)

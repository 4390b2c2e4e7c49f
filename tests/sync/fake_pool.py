"""A pool that runs seal and package jobs in the test's own process, and a sync process that uses only this pool."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from clusterd.clock import Clock
from clusterd.messages.pool import AnyJob, JobFailed
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Secret, Settings
from clusterd.sync.links.context import Context
from clusterd.sync.ports.pool_port import JobError, PoolPort
from clusterd.sync.ports.spool import Spool
from ipc.arena import Arena
from tests.fakes.made_files import only_what_it_declares

KEY = b"k" * 32


class FakePool:
    """Replaces `run` of a PoolPort. `jobs`: the jobs that ran, in order. While `gate` is clear jobs wait."""

    size = 2

    def __init__(self, root: str, arena: Arena) -> None:
        settings = Settings(root=root, cluster=ClusterBlock(key=Secret(KEY), nodes=("n",)))
        self._workshop = JobRunner(settings, arena, lambda: None)
        self.settings = settings
        self.jobs: list[AnyJob] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: type[Any] | None = None

    async def run(self, job: AnyJob, *, urgent: bool = False, lane: str = "bulk", begin_by: float | None = None) -> Any:
        self.jobs.append(job)
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.fails is type(job):
            raise JobError("disk", "no room")
        with only_what_it_declares(job):
            found = self._workshop.do(job)
        if isinstance(found, JobFailed):
            raise JobError(found.kind, found.text)
        return found

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(job, kind) for job in self.jobs)


def port(pool: FakePool) -> PoolPort:
    return cast(PoolPort, pool)


def context(root: Path, pool: FakePool) -> Context:
    spool = Spool(str(root), 1)
    spool.prepare()
    return cast(Context, SimpleNamespace(jobs=pool, spool=spool, settings=pool.settings, clock=Clock()))

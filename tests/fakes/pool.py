"""The pool without processes: jobs run in the caller's process, each by the next of a few workshops, so that no job can
rely on what an earlier one left in memory."""

from itertools import cycle
from typing import Any, TypeVar, cast

from clusterd.messages.base import Job, Result
from clusterd.messages.pool import AnyJob, JobFailed
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Secret, Settings
from clusterd.sync.ports.pool_port import JobError
from tests.fakes.made_files import only_what_it_declares

R = TypeVar("R", bound=Result)


class InlinePool:
    """Takes the place of PoolPort. `done`: the requested jobs, in order."""

    def __init__(self, settings: Settings, size: int = 2) -> None:
        keyed = Settings(settings.root, cluster=ClusterBlock(key=Secret(b"k" * 32)), rules=settings.rules)
        self._workshops = cycle([JobRunner(keyed, cast(Any, None), lambda: None) for _ in range(size)])
        self.done: list[AnyJob] = []
        self.size = size
        self.hurries = 0

    def hurry(self) -> None:
        """No job outlives its call."""
        self.hurries += 1

    async def run(self, job: Job[R], *, urgent: bool = False, lane: str = "bulk", begin_by: float | None = None) -> R:
        self.done.append(job)
        with only_what_it_declares(cast(AnyJob, job)):
            outcome = next(self._workshops).do(job)
        if isinstance(outcome, JobFailed):
            raise JobError(outcome.kind, outcome.text)
        assert isinstance(outcome, job.result_type())
        return cast(R, outcome)

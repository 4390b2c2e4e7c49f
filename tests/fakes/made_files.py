"""Jobs that run in the test's own process make no file in the spool that they do not declare."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterd.messages.pool import AnyJob
from clusterd.supervisor.sweep import SPOOL


@contextmanager
def only_what_it_declares(job: AnyJob, root: str) -> Iterator[None]:
    """Surrounds the run of a job. Whoever gives it up meanwhile removes what its `makes` names, and nothing else."""
    before = _files(root)
    yield
    undeclared = _files(root) - before - {getattr(job, name) for name in job.makes}
    assert not undeclared, f"`makes` of {type(job).__name__} does not name {', '.join(sorted(undeclared))}"


def _files(root: str) -> set[str]:
    return {str(path) for path in (Path(root) / SPOOL).glob("*")}

"""Jobs that run in the test's own process make no file that they do not declare."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from clusterd.messages.pool import AnyJob


@contextmanager
def only_what_it_declares(job: AnyJob) -> Iterator[None]:
    """Surrounds the run of a job. Whoever gives it up meanwhile removes what its `makes` names, and nothing else. Looks
    where any of its paths is: in the spool, as a rule."""
    before = _files(job)
    yield
    undeclared = _files(job) - before - {getattr(job, name) for name in job.makes}
    assert not undeclared, f"`makes` of {type(job).__name__} does not name {', '.join(sorted(undeclared))}"


def _files(job: AnyJob) -> set[str]:
    values = [getattr(job, field.name) for field in msgspec.structs.fields(job)]
    places = {Path(value).parent for value in values if isinstance(value, str) and value.startswith("/")}
    return {str(path) for place in places if place.is_dir() for path in place.iterdir() if path.is_file()}

"""Jobs that run in the test's own process make no file that they do not declare."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from clusterd.messages.pool import AnyJob


@contextmanager
def only_what_it_declares(job: AnyJob) -> Iterator[None]:
    """Surrounds the run of a job. Whoever gives it up meanwhile removes what its `makes` names, and nothing else. Looks
    where any of its files is: in the spool, as a rule."""
    before = _files(job)
    yield
    undeclared = _files(job) - before - {getattr(job, name) for name in job.makes}
    assert not undeclared, f"`makes` of {type(job).__name__} does not name {', '.join(sorted(undeclared))}"


def _files(job: AnyJob) -> set[str]:
    values = [getattr(job, field.name) for field in msgspec.structs.fields(job)]
    paths = [value for value in values if isinstance(value, str) and value.startswith("/")]
    # Not beside directories: the root of a test is one of thousands that pytest has made.
    places = {os.path.dirname(path) for path in paths if not os.path.isdir(path)}
    return {one.path for place in places if os.path.isdir(place) for one in os.scandir(place) if one.is_file()}

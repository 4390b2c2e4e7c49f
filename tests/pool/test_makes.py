"""What a job makes is named in its `makes`: sync removes just that when nobody waits for the job any more. Tests of
sync look at the jobs that they run themselves (tests/fakes/made_files.py)."""

from typing import Any, get_args

import msgspec
import pytest

from clusterd.messages.packages import ApplyPlan, UnpackRange
from clusterd.messages.pool import AnyJob

MADE = {"out", "index", "changes", "plan"}
"""Names of fields with the path of a file that a job makes."""
READ = {(ApplyPlan, "plan"), (UnpackRange, "plan")}
JOBS = get_args(AnyJob)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_every_file_that_a_job_makes_is_declared(job: type[Any]) -> None:
    fields = {field.name for field in msgspec.structs.fields(job) if field.type is str}
    assert set(job.makes) == {name for name in fields & MADE if (job, name) not in READ}


def test_there_are_jobs() -> None:
    assert len(JOBS) > 20

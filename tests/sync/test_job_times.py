"""How long jobs take, by kind."""

from clusterd.sync.ports.job_times import BOUNDS_S, JobTimes


def test_jobs_are_counted_by_kind_and_length() -> None:
    times = JobTimes()
    for seconds in (0.0005, 0.001, 0.3, 100.0):
        times.took("ScanShard", seconds, failed=seconds > 1)
    times.took("OpenBody", 0.002, failed=False)
    shown = times.shown()
    assert shown["bounds_s"] == list(BOUNDS_S)
    assert list(shown["kinds"]) == ["OpenBody", "ScanShard"]
    scans = shown["kinds"]["ScanShard"]
    assert (scans["count"], scans["failed"], scans["seconds"]) == (4, 1, 100.3015)
    assert scans["buckets"] == [2, 0, 0, 0, 1, 0, 0, 0, 1]

"""The project's numeric goals, and the result of a run for each."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.suite import job_checks, job_fanout
from benchmarks.suite.results import Row


@dataclass(frozen=True)
class Goal:
    """`measured`: the value for people, empty when the run does not have it. `is_reached`: None then."""

    job: str
    to_reach: str
    measured: str
    is_reached: bool | None


Check = tuple[str, str, Callable[[list[Row], dict[str, float]], tuple[str, bool] | None]]
Found = tuple[str, bool] | None


def _figure(rows: list[Row], job: str, key: str, size: str = "", variant: str = "") -> list[float]:
    """clusterd's values of one figure, in the order of the rows."""
    return [
        row.figures[key]
        for row in rows
        if row.implementation == "clusterd"
        and row.job == job
        and row.variant == variant
        and key in row.figures
        and size in row.size
    ]


def _least_ratio(ratios: dict[str, float], start: str, end: str, least: float) -> Found:
    found = [value for name, value in ratios.items() if name.startswith(start) and name.endswith(end)]
    return (f"{min(found):.1f} times", min(found) >= least) if found else None


def _most(values: list[float], limit: float, unit: str, scale: float = 1.0) -> Found:
    if not values:
        return None
    shown = " - ".join(dict.fromkeys(f"{value * scale:.3g}" for value in (min(values), max(values))))
    return f"{shown} {unit}".strip(), max(values) * scale <= limit


def _share(rows: list[Row], size: str, least: float) -> Found:
    found = _figure(rows, "first manifest", "share_of_blake2b_limit", size)
    return (f"{found[0]:.0%}", found[0] >= least) if found else None


CHECKS: list[Check] = [
    ("first manifest, 20,000 files", "60 % of cores x BLAKE2b", lambda rows, _: _share(rows, "20000 files", 0.6)),
    (
        "first manifest, 1,000 files of 1 MiB",
        "90 % of cores x BLAKE2b",
        lambda rows, _: _share(rows, "1000 files", 0.9),
    ),
    ("first manifest", "2.5 times the reference", lambda _, r: _least_ratio(r, "first manifest, 20", "seconds", 2.5)),
    (
        "repeat manifest, full walk",
        "5 times the reference",
        lambda _, r: _least_ratio(r, "repeat manifest, 20", "full walk, seconds", 5),
    ),
    (
        "repeat manifest, with events",
        "no walk (under 1 ms)",
        lambda rows, _: _most(_figure(rows, "repeat manifest", "seconds", variant="with events"), 1, "ms", 1000),
    ),
    (
        "idle check, clusterd worker",
        "under 0.5 ms of CPU, any number of files",
        lambda rows, _: _most(_figure(rows, job_checks.PER_CHECK, "cpu_ms", variant="digest"), 0.5, "ms"),
    ),
    (
        "idle check, stock worker",
        "no loop stall over 5 ms",
        lambda rows, _: _most(_figure(rows, job_checks.PER_CHECK, "echo_max_ms", variant="stock worker"), 5, "ms"),
    ),
    (
        "fan-out, 5 fresh workers",
        "3 times the reference",
        lambda _, r: _least_ratio(r, "fan-out, 20000 files, 5 workers", "seconds", 3),
    ),
    (
        "each further worker",
        "under 10 % of the first's CPU",
        lambda rows, _: _most(_figure(rows, job_fanout.FURTHER, "cpu_share_of_first"), 10, "%", 100),
    ),
    (
        "change to all of 10 workers",
        "p50 under 150 ms",
        lambda rows, _: _most(_figure(rows, job_fanout.CHANGE, "p50_ms", "10 workers"), 150, "ms"),
    ),
    (
        "change to all of 10 workers",
        "p99 under 500 ms",
        lambda rows, _: _most(_figure(rows, job_fanout.CHANGE, "p99_ms", "10 workers"), 500, "ms"),
    ),
    (
        "echo during fan-out",
        "p99 under 2 ms",
        lambda rows, _: _most(_figure(rows, job_fanout.FAN_OUT, "echo_p99_ms"), 2, "ms"),
    ),
    (
        "echo during fan-out",
        "max under 15 ms",
        lambda rows, _: _most(_figure(rows, job_fanout.FAN_OUT, "echo_max_ms"), 15, "ms"),
    ),
    (
        "200 simulated workers, 100,000 files, idle",
        "under 25 % of one core",
        lambda rows, _: _most(_figure(rows, job_checks.IDLE, "cores", "100000", "digest"), 25, "%", 100),
    ),
    (
        "memory, each further worker",
        "under 2 MB of USS",
        lambda rows, _: _most(_figure(rows, job_fanout.MEMORY_FURTHER, "peak_uss_mb"), 2, "MB"),
    ),
]


def judge(rows: list[Row], ratios: dict[str, float]) -> list[Goal]:
    """Every goal, in order."""
    found = []
    for job, to_reach, check in CHECKS:
        value = check(rows, ratios)
        found.append(Goal(job, to_reach, value[0] if value else "", value[1] if value else None))
    return found

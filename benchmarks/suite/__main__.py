"""The commands of the suite: run, micro, all, render, compare. See the package's text."""

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.suite import compare, job_checks, job_fanout, job_manifest, limits, plots, tables
from benchmarks.suite.bench import Bench
from benchmarks.suite.cluster import PROJECT, JobFailed
from benchmarks.suite.results import LATEST, MICRO, micro_ratios, save
from tools.rig.guard import end_in_order, guarded

JOBS = {
    "manifest": job_manifest.run,
    "checks": job_checks.run,
    "fanout": job_fanout.run,
    "memory": job_fanout.run_memory,
}
SLOW_JOBS = ("memory",)
LONGEST = ("bench_agents.py",)
"""Four minutes; run by name, see docs/benchmarks.md."""
LONG = (*LONGEST, "bench_api.py", "bench_echo.py")
PAGE = PROJECT / "docs" / "benchmarks.md"


def run(options: argparse.Namespace) -> int:
    """Measures; returns exit code 1 when a job failed (the others are still measured)."""
    with guarded("clusterd-bench-", options.dir) as base:
        return _measure(options, Bench(base, options.quick))


def _measure(options: argparse.Namespace, bench: Bench) -> int:
    failed = False
    skipped = SLOW_JOBS if options.quick else ()
    print("limits of the machine")
    bench.limits = limits.measure(bench.lognormal(2000 if options.quick else 20_000))
    print("  " + "  ".join(f"{name} {value:.4g}" for name, value in bench.limits.items()))
    for name in options.jobs.split(",") if options.jobs else [name for name in JOBS if name not in skipped]:
        began = time.monotonic()
        print(name, flush=True)
        try:
            JOBS[name](bench)
        except (JobFailed, ConnectionError) as failure:
            failed = True
            print(f"  FAILED: {failure}", file=sys.stderr)
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    report = save(options.out, bench.rows, bench.limits, "quick" if options.quick else "full", options.dir)
    print("times as good as the reference")
    for name, value in report["ratios"].items():
        print(f"  {value:8.2f}  {name}")
    return int(failed)


def micro(options: argparse.Namespace) -> int:
    """Runs the single pieces through pytest-benchmark, without those that take minutes; a quick run leaves out more."""
    MICRO.parent.mkdir(parents=True, exist_ok=True)
    line = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "-o",
        "python_files=bench_*.py",
        "--benchmark-only",
        "-p",
        "no:randomly",
        "-q",
    ]
    line += ["--benchmark-columns=min,median,max,rounds", f"--benchmark-json={MICRO}"]
    line += [f"--ignore=benchmarks/{name}" for name in (LONG if options.quick else LONGEST)]
    if options.quick:
        line.append("--benchmark-max-time=0.2")
    return subprocess.run(line, cwd=PROJECT, env=os.environ | {"TMPDIR": options.dir}, check=False).returncode


def render(options: argparse.Namespace) -> int:
    """Writes tables and plots into the page."""
    report = json.loads(options.out.read_text())
    single = json.loads(MICRO.read_text()) if MICRO.exists() else None
    drawn = plots.draw(report, PAGE.parent / "benchmarks", "benchmarks")
    tables.put_between_marks(PAGE, tables.render(report, single, drawn))
    print(f"rendered to {PAGE}")
    return 0


def judge(options: argparse.Namespace) -> int:
    """Returns exit code 1 when a ratio is worse than the baseline's beyond the tolerance, or when nothing can be
    compared."""
    current: dict[str, float] = {}
    if options.out.exists():
        current |= json.loads(options.out.read_text())["ratios"]
    if MICRO.exists():
        current |= micro_ratios(json.loads(MICRO.read_text()))
    if options.save:
        compare.save(options.baseline, current)
        print(f"saved {len(current)} ratios to {options.baseline}")
        return 0
    verdict = compare.compare(compare.load(options.baseline), current, options.tolerance)
    for name, before, now in verdict.worse:
        print(f"WORSE  {now:.2f} instead of {before:.2f}  {name}")
    for word, names in (("not measured", verdict.missing), ("not in the baseline", verdict.new)):
        for name in names:
            print(f"{word}: {name}")
    print(f"{verdict.compared} ratios compared, {len(verdict.worse)} worse by more than {options.tolerance:.0%}")
    return int(not verdict.is_good)


def everything(options: argparse.Namespace) -> int:
    """Does the work of `make bench`. A quick run is not rendered: its sizes are not those of the page."""
    failed = micro(options) | run(options)
    return failed if options.quick else failed | render(options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.suite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, do, text in (
        ("run", run, "measure whole jobs"),
        ("micro", micro, "measure single pieces"),
        ("all", everything, "both, and render"),
        ("render", render, "tables and plots of the last run into docs/benchmarks.md"),
        ("compare", judge, "compare the last run's ratios with the baseline"),
    ):
        one = commands.add_parser(name, help=text)
        one.set_defaults(do=do)
        one.add_argument("--out", type=Path, default=LATEST, help="file of the whole jobs' results")
        if name in ("run", "micro", "all"):
            one.add_argument("--quick", action="store_true", help="small sizes: under two minutes")
            one.add_argument("--jobs", default="", help=f"some of the whole jobs: {', '.join(JOBS)}")
            one.add_argument("--dir", default="/dev/shm", help="where the trees are; default: memory")
            one.add_argument("--lock", type=Path, help="hold this file's lock meanwhile")
        if name == "compare":
            one.add_argument("--baseline", type=Path, default=compare.BASELINE)
            one.add_argument("--tolerance", type=float, default=compare.TOLERANCE)
            one.add_argument("--save", action="store_true", help="make this run the baseline")
    options = parser.parse_args()
    end_in_order()
    with contextlib.ExitStack() as stack:
        if getattr(options, "lock", None):
            fcntl.flock(stack.enter_context(options.lock.open("a")), fcntl.LOCK_EX)
        return int(options.do(options))


if __name__ == "__main__":
    sys.exit(main())

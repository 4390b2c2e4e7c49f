"""The commands of the suite: run, render, compare. See the package's text."""

import argparse
import contextlib
import fcntl
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.suite import job_checks, job_fanout, job_manifest, limits
from benchmarks.suite.bench import Bench
from benchmarks.suite.cluster import JobFailed
from benchmarks.suite.results import LATEST, save

JOBS = {"manifest": job_manifest.run, "checks": job_checks.run, "fanout": job_fanout.run}


def run(options: argparse.Namespace) -> int:
    """Measure; exit code 1 when a job failed (the others are measured all the same)."""
    base = Path(tempfile.mkdtemp(prefix="clusterd-bench-", dir=options.dir))
    base.chmod(0o711)
    bench = Bench(base, options.quick)
    failed = False
    try:
        print("limits of the machine")
        bench.limits = limits.measure(bench.lognormal(2000 if options.quick else 20_000))
        print("  " + "  ".join(f"{name} {value:.4g}" for name, value in bench.limits.items()))
        for name in options.jobs.split(",") if options.jobs else JOBS:
            began = time.monotonic()
            print(name, flush=True)
            try:
                JOBS[name](bench)
            except JobFailed as failure:
                failed = True
                print(f"  FAILED: {failure}", file=sys.stderr)
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    report = save(options.out, bench.rows, bench.limits, "quick" if options.quick else "full", options.dir)
    print("times as good as the reference")
    for name, value in report["ratios"].items():
        print(f"  {value:8.2f}  {name}")
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.suite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="measure whole jobs")
    one.add_argument("--quick", action="store_true", help="small sizes: under two minutes")
    one.add_argument("--jobs", default="", help=f"some of them: {', '.join(JOBS)}")
    one.add_argument("--dir", default="/dev/shm", help="where the trees are; default: memory")
    one.add_argument("--out", type=Path, default=LATEST)
    one.add_argument("--lock", type=Path, help="hold this file's lock meanwhile, for machines that others measure on")
    one.set_defaults(do=run)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if getattr(options, "lock", None):
            fcntl.flock(stack.enter_context(options.lock.open("a")), fcntl.LOCK_EX)
        return int(options.do(options))


if __name__ == "__main__":
    sys.exit(main())

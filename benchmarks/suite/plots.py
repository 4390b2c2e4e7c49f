"""Plots of a run as SVG files that are the same for the same figures."""

from pathlib import Path
from typing import Any

from benchmarks.suite import job_checks, job_fanout
from benchmarks.suite.results import Row, load_rows

COLOURS = {"reference": "#999999", "clusterd": "#1f6fb4", "peer": "#c0504d"}
Series = dict[str, list[tuple[float, float]]]


def draw(report: dict[str, Any], directory: Path, relative: str) -> list[tuple[str, str]]:
    """Write the plots that the rows allow; returns title and path as seen from the page."""
    rows = load_rows(report)
    plots = [
        (
            "CPU of the master per idle check, by number of files",
            "check_by_files",
            _series(rows, job_checks.PER_CHECK, "cpu_ms", 0, fixed=(1, 10)),
            ("files", "ms"),
        ),
        (
            "CPU of the master per idle check, by number of workers",
            "check_by_workers",
            _series(rows, job_checks.PER_CHECK, "cpu_ms", 1, fixed=(0, 20_000)),
            ("workers", "ms"),
        ),
        (
            "Fan-out of all files to fresh workers",
            "fanout",
            _series(rows, job_fanout.FAN_OUT, "seconds", 1),
            ("workers", "s"),
        ),
        (
            "Echo during the fan-out, p99",
            "fanout_echo",
            _series(rows, job_fanout.FAN_OUT, "echo_p99_ms", 1),
            ("workers", "ms"),
        ),
    ]
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for title, name, series, labels in plots:
        if any(len(points) > 1 for points in series.values()):
            _draw(directory / f"{name}.svg", title, series, labels)
            made.append((title, f"{relative}/{name}.svg"))
    return made


def _series(rows: list[Row], job: str, key: str, axis: int, fixed: tuple[int, int] | None = None) -> Series:
    """Points by who; a row's size is `F files, W workers`: `axis` 0 is files, 1 workers; `fixed`: axis and its only
    value."""
    found: Series = {}
    for row in rows:
        if row.job != job or key not in row.figures:
            continue
        sizes = [int(part.split()[0]) for part in row.size.split(", ")]
        if fixed is not None and sizes[fixed[0]] != fixed[1]:
            continue
        name = row.implementation + (f", {row.variant}" if row.variant else "")
        found.setdefault(name, []).append((sizes[axis], row.figures[key]))
    return found


def _draw(path: Path, title: str, series: Series, labels: tuple[str, str]) -> None:
    import matplotlib  # here: only this command needs it

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "clusterd"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, points in series.items():
        style = "--" if name.endswith("stock worker") else "-"
        axes.plot(*zip(*sorted(points), strict=True), style, marker="o", label=name, color=COLOURS[name.split(",")[0]])
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if y > 0]
    if max(xs) > 20 * min(xs):
        axes.set_xscale("log")
    if ys and max(ys) > 20 * min(ys):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})

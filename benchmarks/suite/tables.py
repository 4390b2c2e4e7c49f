"""A run's results as Markdown, put between two marks of a page; what stands outside the marks is never touched."""

from pathlib import Path
from typing import Any

from benchmarks.suite.goals import judge
from benchmarks.suite.results import REFERENCE_NAME, Row, load_rows, ratio_name

BEGIN = "<!-- bench: made by `make bench`, do not edit from here -->"
END = "<!-- bench: to here -->"
LIMITS = {
    "blake2b_mb_s": "BLAKE2b in memory, one core, MB/s",
    "blake2b_all_cores_mb_s": "BLAKE2b in memory, all cores, MB/s",
    "stat_us": "`os.stat` of a file, us",
    "zlib1_mb_s": "zlib level 1 of text, MB/s",
    "lz4_mb_s": "LZ4 frame of text, MB/s",
    "fernet_seal_5mib_ms": "Fernet, 5 MiB sealed, ms",
    "fernet_open_5mib_ms": "Fernet, 5 MiB opened, ms",
    "memcpy_gb_s": "memcpy of 5 MiB, GB/s",
    "zmq_ipc_round_trip_us": "ZeroMQ ipc round trip, us",
}
FIGURES = {
    "seconds": "s",
    "master_cpu_s": "CPU of the master, s",
    "cpu_ms": "CPU of the master per check, ms",
    "cores": "cores",
    "share_of_blake2b_limit": "of cores x BLAKE2b",
    "echo_p50_ms": "echo p50, ms",
    "echo_p99_ms": "echo p99, ms",
    "echo_max_ms": "echo max, ms",
    "peak_uss_mb": "peak USS, MB",
    "peak_pss_mb": "peak PSS, MB",
    "uss_mb": "USS, MB",
    "pss_mb": "PSS, MB",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "changes": "changes",
    "cpu_share_of_first": "CPU, share of the first",
    "checks": "checks",
    "keepalive_p99_ms": "keepalive p99, ms",
    "keepalive_max_ms": "keepalive max, ms",
}


def put_between_marks(page: Path, text: str) -> None:
    """Raises ValueError for a page without the two marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def render(report: dict[str, Any], micro: dict[str, Any] | None, plots: list[tuple[str, str]]) -> str:
    """`plots`: title and path, relative to the page."""
    rows = load_rows(report)
    where = report["machine"]
    parts = [
        f"Run of {report['made']} ({report['mode']}): {where['cores']} cores ({where['cpu']}), Linux "
        f"{where['kernel']}, Python {where['python']}, trees in {report['place']}.",
        "### Goals",
        _table(
            ["job", "to reach", "measured", ""],
            [
                [
                    goal.job,
                    goal.to_reach,
                    goal.measured,
                    {True: "reached", False: "not reached", None: "not measured"}[goal.is_reached],
                ]
                for goal in judge(rows, report["ratios"])
            ],
        ),
    ]
    parts += [f"![{title}]({path})" for title, path in plots]
    for job in dict.fromkeys(row.job for row in rows):
        parts += [
            f"### {job[0].upper()}{job[1:]}",
            _job_table([row for row in rows if row.job == job], report["ratios"]),
        ]
    if micro:
        parts += ["### Single pieces", _micro_table(micro)]
    limits = [[text, _number(report["limits"][name])] for name, text in LIMITS.items() if name in report["limits"]]
    parts += ["### Limits of the machine in the same run", _table(["what", "measured"], limits)]
    return "\n\n".join(parts)


def _job_table(rows: list[Row], ratios: dict[str, float]) -> str:
    """One line a row, the reference of a size before the others; the last column is how many times better than it."""
    keys = [key for key in FIGURES if any(key in row.figures for row in rows)]
    lines = []
    for size in dict.fromkeys(row.size for row in rows):
        for row in rows:
            if row.size != size:
                continue
            who = row.implementation + (f", {row.variant}" if row.variant else "")
            figures = [_number(row.figures[key]) if key in row.figures else "" for key in keys]
            better = "" if row.implementation == REFERENCE_NAME else _ratio_of(row, ratios)
            lines.append([row.size, who, *figures, row.skipped or better])
    return _table(["size", "who", *(FIGURES[key] for key in keys), "times the reference"], lines)


def _ratio_of(row: Row, ratios: dict[str, float]) -> str:
    value = ratios.get(ratio_name(row, row.keys[0])) if row.keys else None
    return "" if value is None else _number(value)


def _micro_table(micro: dict[str, Any]) -> str:
    """pytest-benchmark's groups, limits last in each."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in micro["benchmarks"]:
        groups.setdefault(one["group"] or one["name"], []).append(one)
    lines = []
    for group, members in groups.items():
        for one in sorted(members, key=lambda one: one["name"].startswith("test_limit_")):
            name = one["name"].removeprefix("test_").replace("_", " ")
            lines.append([group, name, *(_number(one["stats"][stat] * 1000) for stat in ("min", "median"))])
    return _table(["group", "what", "min, ms", "median, ms"], lines)


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1g}"

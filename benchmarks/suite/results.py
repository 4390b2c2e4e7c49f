"""The findings of a run: rows of figures, the limits of the machine, and the ratios that are compared between runs."""

import json
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
LATEST = RESULTS / "latest.json"
MICRO = RESULTS / "micro.json"
REFERENCE_NAME = "reference"


@dataclass
class Row:
    """One measurement. `variant` tells several ways of one implementation apart. `keys`: the figures, smaller is
    better, of which a ratio to the reference's is made. `skipped`: why there are no figures."""

    job: str
    size: str
    implementation: str
    figures: dict[str, float] = field(default_factory=dict)
    variant: str = ""
    keys: tuple[str, ...] = ()
    skipped: str = ""


def ratio_name(row: Row, key: str) -> str:
    """Made of what was measured, so that runs of another size are never compared."""
    who = "" if row.implementation == "clusterd" else row.implementation
    return ", ".join(part for part in (row.job, row.size, row.variant, who, key) if part)


def ratios(rows: list[Row]) -> dict[str, float]:
    """Returns the reference's figure divided by ours, for each key of each row that has both: how many times better we
    are."""
    found: dict[str, float] = {}
    reference = {(row.job, row.size): row.figures for row in rows if row.implementation == REFERENCE_NAME}
    for row in rows:
        theirs = reference.get((row.job, row.size), {})
        if row.implementation == REFERENCE_NAME:
            continue
        for key in row.keys:
            if row.figures.get(key) and theirs.get(key):
                found[ratio_name(row, key)] = theirs[key] / row.figures[key]
    return found


def micro_ratios(report: dict[str, Any]) -> dict[str, float]:
    """From pytest-benchmark's JSON: the limit's minimum divided by ours, for each group with one test named
    test_limit_*."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in report["benchmarks"]:
        groups.setdefault(one["group"] or "", []).append(one)
    found: dict[str, float] = {}
    for group, members in groups.items():
        limits = [one for one in members if one["name"].startswith("test_limit_")]
        for one in members if len(limits) == 1 else []:
            if one is not limits[0]:
                found[f"micro, {group}, {one['name']}"] = limits[0]["stats"]["min"] / one["stats"]["min"]
    return found


def machine() -> dict[str, Any]:
    model = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": model[0] if model else platform.machine(),
        "cores": len(model) or 1,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def save(path: Path, rows: list[Row], limits: dict[str, float], mode: str, place: str) -> dict[str, Any]:
    """Write a run's results; returns them."""
    report = {
        "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        "mode": mode,
        "place": place,
        "machine": machine(),
        "limits": limits,
        "rows": [asdict(row) for row in rows],
        "ratios": ratios(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    return report


def load_rows(report: dict[str, Any]) -> list[Row]:
    return [Row(**(row | {"keys": tuple(row["keys"])})) for row in report["rows"]]

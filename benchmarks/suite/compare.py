"""Compares two sets of ratios: which got worse. Only ratios: seconds of another machine mean nothing, and a noisy
machine is noisy for both."""

import json
from dataclasses import dataclass
from pathlib import Path

BASELINE = Path(__file__).resolve().parent.parent / "baseline.json"
TOLERANCE = 0.3
"""How much smaller than the baseline's a ratio may be: 0.3 is 30 %."""


@dataclass(frozen=True)
class Verdict:
    """`worse`: name, ratio of the baseline, ratio now. `missing`: in the baseline, not in this run; `new`: the
    reverse."""

    worse: list[tuple[str, float, float]]
    compared: int
    missing: list[str]
    new: list[str]

    @property
    def is_good(self) -> bool:
        """Whether nothing got worse, and there was something to compare."""
        return bool(self.compared) and not self.worse


def compare(baseline: dict[str, float], current: dict[str, float], tolerance: float = TOLERANCE) -> Verdict:
    """Compares the ratios that both have."""
    common = sorted(baseline.keys() & current.keys())
    worse = [
        (name, baseline[name], current[name]) for name in common if current[name] < baseline[name] * (1 - tolerance)
    ]
    return Verdict(
        worse, len(common), sorted(baseline.keys() - current.keys()), sorted(current.keys() - baseline.keys())
    )


def load(path: Path) -> dict[str, float]:
    """A baseline's ratios; raises OSError, ValueError."""
    found: dict[str, float] = json.loads(path.read_text())
    return found


def save(path: Path, current: dict[str, float]) -> None:
    """Adds a run's ratios to a baseline, replacing those of the same name: quick and full runs share one file."""
    known = load(path) if path.exists() else {}
    merged = {name: round(value, 3) for name, value in sorted((known | current).items())}
    path.write_text(json.dumps(merged, indent=1) + "\n")

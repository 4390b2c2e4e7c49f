"""What every job gets: its directory, its sizes, the implementations to measure; and trees that are made once."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.suite import trees
from benchmarks.suite.cluster import CLUSTERD as CLUSTERD
from benchmarks.suite.cluster import REFERENCE as REFERENCE
from benchmarks.suite.cluster import Cluster, Implementation, JobFailed, peer_from_environment
from benchmarks.suite.results import Row

START_TIMEOUT_S = 120.0
NEVER_S = 100_000


@dataclass
class Bench:
    """`base`: a directory of this run, removed by the caller. `is_quick`: smaller sizes, fewer rounds."""

    base: Path
    is_quick: bool
    say: Callable[[str], None] = print
    rows: list[Row] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    _stages: dict[str, Path] = field(default_factory=dict)

    @property
    def implementations(self) -> list[Implementation]:
        """The reference is first, because all others are compared with it."""
        peer = peer_from_environment()
        return [REFERENCE, CLUSTERD, *([peer] if peer else [])]

    def lognormal(self, files: int) -> Path:
        """A stage with the design document's shape of files: 10,450 bytes on average."""
        return self._stage(f"lognormal{files}", lambda stage: trees.lognormal_tree(stage, files, 10_450))

    def flat(self, files: int, size: int) -> Path:
        return self._stage(f"flat{files}x{size}", lambda stage: trees.flat_tree(stage, files, size))

    def drop(self, stage: Path) -> None:
        """Frees the memory of a stage that no other job uses."""
        self._stages = {name: path for name, path in self._stages.items() if path != stage}
        for cluster_place in trees.PLACES:
            trees.remove(stage / cluster_place)

    def cluster(self, implementation: Implementation, settings: dict[str, Any], workers: int = 0) -> Cluster:
        return Cluster(implementation, Path(tempfile.mkdtemp(dir=self.base, prefix="c")), settings, workers=workers)

    def add(self, row: Row) -> None:
        """Keeps a row and prints it."""
        self.rows.append(row)
        shown = row.skipped or "  ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
        self.say(f"  {row.implementation:10} {row.variant:12} {row.size:34} {shown}")

    def _stage(self, name: str, fill: Callable[[Path], None]) -> Path:
        if name not in self._stages:
            stage = self.base / name
            stage.mkdir(exist_ok=True)
            fill(stage)
            self._stages[name] = stage
        return self._stages[name]


def intervals(*, scan_s: float = 8, check_s: float = 9, retry_s: float = 10, **clusterd: Any) -> dict[str, Any]:
    """A cluster.json; the defaults are stock's. `clusterd`: our own section, which others ignore."""
    found: dict[str, Any] = {
        "intervals": {
            "master": {"recalculate_integrity": scan_s},
            "worker": {"sync_integrity": check_s, "connection_retry": retry_s},
        }
    }
    # Nodes of one machine cannot share a monitoring port.
    return found | {"clusterd": {"monitor": {"enabled": False}} | clusterd}


def must_equal(master: Path, workers: list[Path]) -> None:
    """Raises JobFailed when a worker does not hold what its master holds."""
    if not trees.is_equal(master, workers):
        raise JobFailed("the workers do not hold what the master holds")

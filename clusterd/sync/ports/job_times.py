"""How long the jobs of the pool take, by kind of job: a histogram of each, for `status` and metrics."""

from bisect import bisect_left
from typing import Any

BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Upper bounds of the buckets; one more bucket holds the rest."""


class JobTimes:
    """Measures from the moment a job is given to a process until its result arrives. One histogram for each kind of
    job."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._failed: dict[str, int] = {}

    def took(self, kind: str, seconds: float, *, failed: bool) -> None:
        buckets = self._kinds.setdefault(kind, [0] * (len(BOUNDS_S) + 1))
        buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._failed[kind] = self._failed.get(kind, 0) + failed

    def shown(self) -> dict[str, Any]:
        """Returns the part of `status`: `bounds_s`, and by kind `count`, `failed`, `seconds` in all and `buckets`, the
        number of jobs in each bucket."""
        return {
            "bounds_s": list(BOUNDS_S),
            "kinds": {
                kind: {
                    "count": sum(buckets),
                    "failed": self._failed[kind],
                    "seconds": round(self._seconds[kind], 6),
                    "buckets": list(buckets),
                }
                for kind, buckets in sorted(self._kinds.items())
            },
        }

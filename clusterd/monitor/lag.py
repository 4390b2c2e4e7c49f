"""How far each worker lagged, for the heat map: one value every fifteen seconds for an hour, in memory."""

import math
from array import array
from datetime import UTC, datetime
from typing import Any

STEP_S = 15
STEPS = 240
MOST_WORKERS = 200


class LagHistory:
    """A ring of STEPS values for each worker: seconds, 0 for a worker that is equal, none for one that was away or at
    which nobody looked."""

    def __init__(self) -> None:
        self._rings: dict[str, array[float]] = {}
        self._step: int | None = None
        self._at = 0.0

    def record(self, now: float, wall: float, status: dict[str, Any] | None) -> None:
        """`status`: of a master, None if it did not answer. `now`: monotonic seconds; `wall`: wall-clock seconds."""
        step = int(now // STEP_S)
        for missed in range(max((self._step if self._step is not None else step) + 1, step - STEPS + 1), step):
            self._put(missed, {})
        self._step, self._at = step, wall
        lags: dict[str, float] = {}
        if status is not None:
            known = {row["name"]: row["state"] for row in status["workers"]}
            self._rings = {name: ring for name, ring in self._rings.items() if name in known}
            results = status["results"]
            for name, state in known.items():
                if state == "connected" and name in results:
                    lags[name] = results[name].get("lag_s") or 0.0
        self._put(step, lags)

    def _put(self, step: int, lags: dict[str, float]) -> None:
        for name in lags:
            if name not in self._rings and len(self._rings) < MOST_WORKERS:
                self._rings[name] = array("f", [math.nan]) * STEPS
        for name, ring in self._rings.items():
            ring[step % STEPS] = lags.get(name, math.nan)

    def shown(self, minutes: float) -> dict[str, Any]:
        """Returns the last minutes: `step_s`, `from` (moment of the first value), `workers`: values by name, the oldest
        first."""
        count = max(1, min(STEPS, int(minutes * 60 / STEP_S)))
        if self._step is None:
            return {"step_s": STEP_S, "from": None, "workers": {}}
        steps = range(self._step - count + 1, self._step + 1)
        begin = datetime.fromtimestamp(self._at - (count - 1) * STEP_S, UTC)
        return {
            "step_s": STEP_S,
            "from": begin.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "workers": {
                name: [None if math.isnan(ring[step % STEPS]) else round(ring[step % STEPS], 1) for step in steps]
                for name, ring in sorted(self._rings.items())
            },
        }

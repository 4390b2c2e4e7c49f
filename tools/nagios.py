"""The state of a node as the output of a Nagios plugin: pure, from the facts of clusterd/status/status.py.

One line: `CLUSTERD WARNING - text | label=value;warn;crit ...`. Codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
"""

import math
from typing import Any, NamedTuple

from clusterd.status.verdict import span, verdict

OK, WARNING, CRITICAL, UNKNOWN = range(4)
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class NagiosLine(NamedTuple):
    """`line` has no line break."""

    code: int
    line: str


def unknown(text: str) -> NagiosLine:
    """Returns line and code where nothing can be found out."""
    return NagiosLine(UNKNOWN, f"CLUSTERD {WORDS[UNKNOWN]} - {' '.join(text.split()).replace('|', '/')}")


def check(status: dict[str, Any], *, warn_s: float, crit_s: float, expect: int | None) -> NagiosLine:
    """Returns line and code. `status`: as StatusReader.read returns it, also of a node whose processes hang: the board
    then stands in for the supervisor."""
    found = verdict(status, lag_s=math.inf)  # the lag is judged here, by the bounds that were given
    code = {"OK": OK, "DEGRADED": WARNING, "DOWN": CRITICAL}[found.level]
    text = found.reason
    data: list[str] = []
    if status["peers"] is not None:
        lags = {name: row.get("lag_s") or 0.0 for name, row in status["results"].items()}
        worst = max(lags, key=lambda name: lags[name], default=None)
        lag_s = lags[worst] if worst is not None else 0.0
        lag_code = CRITICAL if lag_s >= crit_s else WARNING if lag_s >= warn_s else OK
        if lag_code > code:
            code, text = lag_code, f"{worst} has been behind for {span(lag_s)}"
        if status["node"]["type"] == "master":
            data.append(f"lag={lag_s:.1f}s;{warn_s:g};{crit_s:g};0")  # a worker does not know its own
            connected = sum(row["state"] == "connected" for row in status["workers"])
            known = len(status["workers"])
            if expect is not None and connected < expect:
                code, text = CRITICAL, f"{connected} of {expect} workers are connected; {text}"
            data.append(f"workers={connected};;{'' if expect is None else expect};0;{known}")
        manifest = status["manifest"] or {}
        data.append(f"files={manifest.get('files', 0)};;;0")
        data.append(f"processes={sum(row['state'] == 'ready' for row in status['processes'])};;;0")
    line = " ".join(text.split())
    return NagiosLine(
        code, f"CLUSTERD {WORDS[code]} - {line.replace('|', '/')}" + (f" | {' '.join(data)}" if data else "")
    )

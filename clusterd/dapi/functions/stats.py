"""Statistics from the files that analysisd writes (dapi.md 5.5)."""

import datetime
from pathlib import Path
from typing import Any

from clusterd.dapi.protocol.actions import THIS_NODE
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, NoArguments, Registry
from clusterd.wire.results import BAD_REQUEST, WireException

registry = Registry()
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
HOURS = 24
MOST_BYTES = 16 * 1024 * 1024
MESSAGES = (
    "Statistical information for each node was successfully read",
    "Could not read statistical information for some nodes",
    "Could not read statistical information for any node",
)


class Totals(Arguments, frozen=True):
    date: datetime.datetime | None = None


@registry.function("wazuh.stats", "totals", checks_daemons=False, needs=(THIS_NODE,))
def totals(call: Call, given: Totals) -> Items:
    """Returns events and alerts of one day by hour. Raises WireException 1308 without a file, 1309 for a damaged
    one."""
    day = given.date or datetime.datetime.now()
    name = f"stats/totals/{day.year}/{MONTHS[day.month - 1]}/ossec-totals-{day.day:02d}.log"
    try:
        with Path(call.root, name).open("rb") as file:
            text = file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        raise WireException(1308, name, wire_class=BAD_REQUEST) from None
    hours: list[dict[str, Any]] = []
    alerts: list[dict[str, int]] = []
    try:
        for line in text.splitlines():
            parts = line.split("--")
            if len(parts) == 5:
                hour, total, events, syscheck, firewall = map(int, parts)
                hours.append(
                    {
                        "hour": hour,
                        "alerts": alerts,
                        "totalAlerts": total,
                        "events": events,
                        "syscheck": syscheck,
                        "firewall": firewall,
                    }
                )
                alerts = []
            elif len(fields := line.split("-")) == 4:
                _, rule, level, times = map(int, fields)
                alerts.append({"sigid": rule, "level": level, "times": times})
    except ValueError:
        raise WireException(1309, name) from None
    return Items(*MESSAGES, affected=hours, sort_fields=["hour"], sort_casting=["int"])


@registry.function("wazuh.stats", "hourly", checks_daemons=False, needs=(THIS_NODE,))
def hourly(call: Call, given: NoArguments) -> Items:
    """Returns the averages of the hours of a day."""
    directory = Path(call.root, "stats/hourly-average")
    item = {
        "averages": [_number(directory / str(hour)) for hour in range(HOURS)],
        "interactions": _number(directory / "24"),
    }
    return Items(*MESSAGES, affected=[item])


@registry.function("wazuh.stats", "weekly", checks_daemons=False, needs=(THIS_NODE,))
def weekly(call: Call, given: NoArguments) -> Items:
    """Returns the same for each day of the week."""
    found = []
    for number, day in enumerate(DAYS):
        directory = Path(call.root, "stats/weekly-average", str(number))
        hours = [_number(directory / str(hour)) for hour in range(HOURS)]
        found.append({day: {"hours": hours, "interactions": _number(directory / "24")}})
    return Items(*MESSAGES, affected=found)


def _number(path: Path) -> int:
    """Returns the whole number in a file; 0 where there is no file."""
    try:
        with path.open("rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0

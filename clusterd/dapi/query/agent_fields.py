"""Agents as the API shows them: fields, their columns, and rows as objects (dapi.md 6.5)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

COLUMNS: Mapping[str, str] = {
    "id": "id",
    "name": "name",
    "ip": "coalesce(ip, register_ip)",
    "registerIP": "register_ip",
    "status": "connection_status",
    "os.name": "os_name",
    "os.version": "os_version",
    "os.platform": "os_platform",
    "os.codename": "os_codename",
    "os.major": "os_major",
    "os.minor": "os_minor",
    "os.uname": "os_uname",
    "os.arch": "os_arch",
    "os.build": "os_build",
    "version": "version",
    "manager": "manager_host",
    "node_name": "node_name",
    "dateAdd": "date_add",
    "lastKeepAlive": "last_keepalive",
    "disconnection_time": "disconnection_time",
    "group": '"group"',
    "mergedSum": "merged_sum",
    "configSum": "config_sum",
    "group_config_status": "group_config_status",
    "status_code": "status_code",
}
"""Field to SQL. The key of an agent is not a field, so it cannot be selected, sorted, filtered or searched."""
DATES = frozenset({"dateAdd", "lastKeepAlive", "disconnection_time"})
NUMBERS = frozenset({"id", "status_code"})
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
NEVER_S = 253402300799
OS = "os."


def agent_object(row: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Returns a row (columns named `f0`, `f1`... in the order of `fields`) as the API shows it; null values are left
    out."""
    shown: dict[str, Any] = {}
    system: dict[str, Any] = {}
    for column, kind, name in _places(tuple(fields)):
        value = row.get(column)
        if value is None:
            continue
        if kind == "plain":
            shown[name] = value
        elif kind == "os":
            system[name] = value
        elif kind == "date":
            if value or name != "disconnection_time":
                shown[name] = moment_of(value)
        elif kind == "id":
            shown["id"] = f"{value:03d}"
        else:
            shown["group"] = str(value).split(",") if value else []
    return {"os": system} | shown if system else shown


@lru_cache(maxsize=64)
def _places(fields: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    """Returns column, kind and name of each field. Cached, because a page has thousands of fields."""
    places = []
    for number, field in enumerate(fields):
        kind = "date" if field in DATES else "os" if field.startswith(OS) else "plain"
        if field in ("id", "group"):
            kind = field
        places.append((f"f{number}", kind, field.removeprefix(OS) if kind == "os" else field))
    return tuple(places)


def moment_of(value: Any) -> datetime:
    """Converts a database's seconds since 1970. A value that is not a number becomes 1970; one beyond the calendar
    becomes its end."""
    seconds = value if isinstance(value, int | float) else 0
    return NEVER if seconds >= NEVER_S else datetime.fromtimestamp(max(0, seconds), UTC)

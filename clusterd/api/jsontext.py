"""Writes values of the distributed API as the JSON of the REST API (dapi.md 4.3, 5.1)."""

import json
from datetime import UTC, date, datetime
from typing import Any

from clusterd.wire.results import WireException, WireResult

INDENT = 3


def dump(value: object, *, pretty: bool = False) -> bytes:
    """Returns UTF-8. Dates are written as ISO-8601 with offset; a date without one is in UTC. A number that is none
    (NaN, Infinity), which a function of stock may have computed, is null."""
    try:
        return _dump(value, pretty)
    except ValueError:
        # Reading what Python wrote finds them at any depth, also within results.
        text = json.dumps(value, default=_special, ensure_ascii=False)
        return _dump(json.loads(text, parse_constant=lambda _: None), pretty)


def _dump(value: object, pretty: bool) -> bytes:
    text = json.dumps(
        value,
        default=_special,
        ensure_ascii=False,
        allow_nan=False,
        indent=INDENT if pretty else None,
        separators=(",", ": ") if pretty else (", ", ": "),
    )
    return text.encode("utf-8", "replace")


def _special(value: object) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, WireResult):
        # Merged results may contain other results (dapi.md 4.3).
        return value.fields.get("result", value.fields)
    if isinstance(value, WireException):
        return {"code": value.code, "message": value.message}
    raise TypeError(f"{type(value).__name__} has no JSON form")

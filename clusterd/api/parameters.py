"""Parameters of an endpoint's path and query: each one's syntax, the keywords it becomes, its schema (dapi.md 5.1,
6.1).

Patterns list their characters one by one, so that they mean the same here and in the OpenAPI document.
"""

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from clusterd.api.problem import Refused

Kind = Literal["text", "whole", "boolean", "texts", "sort", "search", "date"]
Form = Literal["objects", "words"]
"""How a list function takes sort and search: as objects `sort` and `search`, or as single keywords (dapi.md 6.1)."""

LARGEST_LIMIT = 100_000
LARGEST_OFFSET = 2**31 - 1
MOST_TEXTS = 1000
_TRUE, _FALSE = "true", "false"
_FIELD = r"[A-Za-z0-9_.%-]{1,64}"
SELECT = f"^{_FIELD}$"
# A plus that a program did not escape arrives as a space.
SORT = r"^[+ -]?[A-Za-z0-9_.-]{1,64}(,[A-Za-z0-9_.-]{1,64}){0,15}$"
SEARCH = r"^[^;|&^*>\u0000-\u001f\u007f]{1,1024}$"
QUERY = r"^[^\u0000-\u001f\u007f]{1,2048}$"
NAME = r"^[A-Za-z0-9._-]{1,255}$"
AGENT = r"^[0-9]{3,9}$"
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter. `keyword`: the function's keyword for it, "" for its own name; `group`: the object of keywords
    that contains it, "" for none. `default`: what the function gets if the request lacks it, None for nothing.
    `is_listed`: the function takes a list, with this one value. `absent`: a value that means the same as leaving the
    parameter out. `is_lowered`: case is ignored."""

    name: str
    about: str
    place: Literal["query", "path"] = "query"
    kind: Kind = "text"
    keyword: str = ""
    group: str = ""
    pattern: str = ""
    choices: tuple[str, ...] = ()
    lowest: int = 0
    highest: int = 0
    default: Any = None
    is_required: bool = False
    is_listed: bool = False
    is_lowered: bool = False
    absent: str = ""
    form: Form = "objects"

    def keywords(self, raw: str | None, today: Callable[[], datetime.date]) -> dict[str, Any]:
        """Returns the function's keywords for this parameter; `raw` is None when the request lacks it. Raises
        Refused."""
        if raw is None:
            if self.is_required:
                raise Refused(400, f"the parameter {self.name} is missing")
            raw = self.default
            if raw is None:
                return {}
        value = raw if not isinstance(raw, str) else _READERS[self.kind](self, raw)
        if callable(value):
            value = value(today)
        if self.absent and (value == self.absent or (isinstance(value, list) and self.absent in value)):
            return {}
        if self.kind == "sort":
            return _sort_keywords(self, value)
        if self.kind == "search":
            return _search_keywords(self, value)
        return {self.keyword or self.name: [value] if self.is_listed else value}

    def refusal(self, allowed: str, *, error: int | None = None) -> Refused:
        """The value itself is not repeated, because it may be anything."""
        return Refused(400, f"{self.name} must be {allowed}", error=error)

    def schema(self) -> dict[str, Any]:
        """Returns the schema as OpenAPI 3.1 defines it."""
        match self.kind:
            case "whole":
                schema: dict[str, Any] = {"type": "integer", "minimum": self.lowest, "maximum": self.highest}
            case "boolean":
                schema = {"type": "boolean"}
            case "texts":
                schema = {
                    "type": "array",
                    "items": self._text_schema(),
                    "minItems": 1,
                    "maxItems": MOST_TEXTS,
                }
            case "date":
                schema = {"type": "string", "format": "date", "pattern": DATE}
            case _:
                schema = self._text_schema()
        if self.default is not None and not callable(self.default):
            schema["default"] = self.default
        return schema

    def _text_schema(self) -> dict[str, Any]:
        if self.choices:
            return {"type": "string", "enum": list(self.choices)}
        return {"type": "string", "pattern": self.pattern}


# ---- readers: text of a request to a value ---------------------------------------------------------------------------


def _read_text(parameter: Parameter, raw: str) -> Any:
    value = raw.lower() if parameter.is_lowered else raw
    if parameter.choices:
        if value not in parameter.choices:
            raise parameter.refusal(f"one of {', '.join(parameter.choices)}")
        return value
    if _matcher(parameter.pattern).fullmatch(value) is None:
        raise parameter.refusal(f"of the form {parameter.pattern}")
    return value


_LIMIT_CODES = {"limit": (1401, 1405), "offset": (1400, 1400)}


def _read_whole(parameter: Parameter, raw: str) -> Any:
    allowed = f"a whole number from {parameter.lowest} to {parameter.highest}"
    below, above = _LIMIT_CODES.get(parameter.name, (None, None))
    if re.fullmatch(r"-?[0-9]{1,12}", raw) is None:
        raise parameter.refusal(allowed)
    value = int(raw)
    if value < parameter.lowest:
        raise parameter.refusal(allowed, error=1406 if parameter.name == "limit" and value == 0 else below)
    if value > parameter.highest:
        raise parameter.refusal(allowed, error=above)
    return value


def _read_boolean(parameter: Parameter, raw: str) -> Any:
    # Programs in Python send True and False.
    word = raw.lower()
    if word not in (_TRUE, _FALSE):
        raise parameter.refusal("true or false")
    return word == _TRUE


def _read_texts(parameter: Parameter, raw: str) -> Any:
    parts = raw.split(",")
    if len(parts) > MOST_TEXTS:
        raise parameter.refusal(f"at most {MOST_TEXTS} values")
    return [_read_text(parameter, part) for part in parts]


def _read_date(parameter: Parameter, raw: str) -> Any:
    """Converts a day to the datetime of its start (dapi.md 5.2)."""
    allowed = "a day like 2025-11-23"
    if re.fullmatch(DATE, raw) is None:
        raise parameter.refusal(allowed)
    try:
        day = datetime.date.fromisoformat(raw)
    except ValueError:
        raise parameter.refusal(allowed) from None
    return datetime.datetime(day.year, day.month, day.day)


_READERS: Mapping[Kind, Callable[[Parameter, str], Any]] = {
    "text": _read_text,
    "whole": _read_whole,
    "boolean": _read_boolean,
    "texts": _read_texts,
    "sort": _read_text,
    "search": _read_text,
    "date": _read_date,
}


def _sort_keywords(parameter: Parameter, value: str) -> dict[str, Any]:
    """The sign applies to all fields."""
    ascending = not value.startswith("-")
    fields = (value[1:] if value[0] in "+ -" else value).split(",")
    if parameter.form == "words":
        return {"sort_by": fields, "sort_ascending": ascending}
    return {"sort": {"fields": fields, "order": "asc" if ascending else "desc"}}


def _search_keywords(parameter: Parameter, value: str) -> dict[str, Any]:
    """A leading minus negates."""
    negated = value.startswith("-")
    text = value[1:] if negated else value
    if parameter.form == "words":
        return {"search_text": text, "complementary_search": negated}
    return {"search": {"value": text, "negation": negated}}


_MATCHERS: dict[str, re.Pattern[str]] = {}


def _matcher(pattern: str) -> re.Pattern[str]:
    compiled = _MATCHERS.get(pattern)
    if compiled is None:
        compiled = _MATCHERS[pattern] = re.compile(pattern)
    return compiled


def today_at_midnight(today: Callable[[], datetime.date]) -> datetime.datetime:
    """Computes a default that is known only at the time of the request."""
    day = today()
    return datetime.datetime(day.year, day.month, day.day)


# ---- parameters that many endpoints have -----------------------------------------------------------------------------

PRETTY = Parameter(name="pretty", kind="boolean", about="Indent the answer for people.")
WAIT = Parameter(name="wait_for_complete", kind="boolean", about="Do not limit how long the function runs.")
COMMON = (PRETTY, WAIT)
RAW = Parameter(name="raw", kind="boolean", about="The file itself instead of JSON.")
OFFSET = Parameter(
    name="offset", kind="whole", highest=LARGEST_OFFSET, default=0, about="First element to return, from 0."
)
LIMIT = Parameter(
    name="limit", kind="whole", lowest=1, highest=LARGEST_LIMIT, default=500, about="Most elements to return."
)
SELECT_FIELDS = Parameter(
    name="select", kind="texts", pattern=SELECT, about="Fields to return, comma separated; a dot descends."
)
Q = Parameter(name="q", pattern=QUERY, about="Conditions, like status=active;name~web: `;` is and, `,` is or.")
DISTINCT = Parameter(name="distinct", kind="boolean", default=False, about="Leave out equal elements.")
NODES = Parameter(name="nodes_list", kind="texts", pattern=NAME, about="Names of nodes, comma separated.")
NODE = Parameter(name="node_id", place="path", pattern=NAME, about="A node's name.")
AGENT_ID = Parameter(
    name="agent_id", place="path", pattern=AGENT, keyword="agent_list", is_listed=True, about="An agent's id."
)
AGENTS = Parameter(
    name="agents_list", kind="texts", pattern=AGENT, keyword="agent_list", about="Ids of agents, comma separated."
)
GROUP_ID = Parameter(
    name="group_id", place="path", pattern=NAME, keyword="group_list", is_listed=True, about="A group's name."
)


def sorting(form: Form, default: str | None = None) -> Parameter:
    return Parameter(
        name="sort",
        kind="sort",
        pattern=SORT,
        form=form,
        default=default,
        about="Fields to sort by, comma separated; a sign before the first, + or -, says the direction of all.",
    )


def searching(form: Form) -> Parameter:
    return Parameter(
        name="search",
        kind="search",
        pattern=SEARCH,
        form=form,
        about="Text to look for; a minus before it: to be without.",
    )


def list_parameters(form: Form, *, sort: str | None = None, limit: Parameter = LIMIT) -> tuple[Parameter, ...]:
    """Returns offset, limit, sort, search, select, q, distinct. `sort`: the order when the request has none."""
    return (OFFSET, limit, sorting(form, sort), searching(form), SELECT_FIELDS, Q, DISTINCT)

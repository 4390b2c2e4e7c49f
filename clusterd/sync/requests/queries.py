"""Answers about the nodes of the cluster: get_nodes and get_health (wire.md 8, dapi.md 1.6, 1.7). Pure functions."""

from collections.abc import Callable, Iterable
from typing import Any

from clusterd.wire.results import shorten

NODE_FIELDS = ("name", "type", "version", "ip")
ARGUMENTS = ("filter_node", "filter_type", "select", "search", "sort", "offset", "limit", "distinct")
MAX_LIMIT = 100_000
Row = dict[str, str]


class QueryRefused(Exception):
    """A query whose arguments are wrong: the class, code and fields of the exception that the peer gets."""

    def __init__(self, wire_class: str, code: int, extra: str | None = None, remediation: str | None = None) -> None:
        self.wire_class = wire_class
        self.code = code
        self.extra = None if extra is None else shorten(extra)
        self.remediation = remediation
        super().__init__(f"{code} {self.extra or ''}".strip())


def _bad_argument(name: str, allowed: str) -> QueryRefused:
    return QueryRefused("WazuhInternalError", 1000, f"get_nodes: {name} must be {allowed}")


def _checked(arguments: object) -> dict[str, Any]:
    if not isinstance(arguments, dict):
        raise QueryRefused("WazuhInternalError", 1000, "get_nodes: the arguments must be a JSON object")
    for name in arguments:
        if name not in ARGUMENTS:
            raise QueryRefused("WazuhInternalError", 1000, f"get_nodes() got an unexpected keyword argument '{name}'")
    merged: dict[str, Any] = {
        "filter_node": None,
        "filter_type": "all",
        "select": None,
        "search": None,
        "sort": None,
        "offset": 0,
        "limit": 500,
        "distinct": False,
    }
    merged.update(arguments)
    nodes = merged["filter_node"]
    if isinstance(nodes, str):
        merged["filter_node"] = [nodes]
    elif nodes is not None and not _is_text_list(nodes):
        raise _bad_argument("filter_node", "a name, a list of names or null")
    if merged["select"] is not None and not _is_text_list(merged["select"]):
        raise _bad_argument("select", "a list of field names or null")
    if merged["search"] is not None and not (
        isinstance(merged["search"], dict) and isinstance(merged["search"].get("value"), str)
    ):
        raise _bad_argument("search", 'an object with "value" and "negation", or null')
    if merged["sort"] is not None and not (
        isinstance(merged["sort"], dict) and _is_text_list(merged["sort"].get("fields"))
    ):
        raise _bad_argument("sort", 'an object with "fields" and "order", or null')
    for number in ("offset", "limit"):
        if merged[number] is not None and type(merged[number]) is not int:
            raise _bad_argument(number, "a whole number or null")
    return merged


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def get_nodes(rows: list[Row], arguments: object) -> dict[str, Any]:
    """`rows`: the master first, then workers in order of connection. Returns {"items", "totalItems"}.

    Order of work: filter, select, sort, search, distinct, cut (wire.md 8.2). Raises QueryRefused."""
    wanted = _checked(arguments)
    names = wanted["filter_node"]
    if names is not None:
        known = {row["name"] for row in rows}
        if any(name not in known for name in names):
            raise QueryRefused("WazuhResourceNotFound", 1730)
    if wanted["filter_type"] not in ("all", "worker", "master"):
        raise QueryRefused("WazuhError", 1728)
    chosen = [
        row for row in rows if (names is None or row["name"] in names) and wanted["filter_type"] in ("all", row["type"])
    ]
    if not chosen:
        return {"items": [], "totalItems": 0}
    items = _select(chosen, wanted["select"])
    if wanted["sort"] is not None:
        items = _sort(items, wanted["sort"])
    if wanted["search"] is not None:
        items = _search(items, wanted["search"])
    if wanted["distinct"]:
        items = [item for place, item in enumerate(items) if item not in items[:place]]
    return {"items": _cut(items, wanted["offset"] or 0, wanted["limit"]), "totalItems": len(items)}


def _select(rows: Iterable[Row], select: list[str] | None) -> list[Row]:
    fields = list(select) if select is not None else list(NODE_FIELDS)
    wrong = [field for field in fields if field not in NODE_FIELDS]
    if wrong:
        raise QueryRefused("WazuhError", 1724, ", ".join(wrong), ", ".join(NODE_FIELDS))
    return [{field: row[field] for field in fields} for row in rows]


def _sort(items: list[Row], sort: dict[str, Any]) -> list[Row]:
    fields: list[str] = sort["fields"]
    wrong = [field for field in fields if field not in NODE_FIELDS]
    if wrong:
        raise QueryRefused(
            "WazuhError", 1403, f"Allowed sort fields: {', '.join(NODE_FIELDS)}. Fields: {', '.join(wrong)}"
        )
    key: Callable[[Row], tuple[str, ...]] = lambda item: tuple(item.get(field, "").lower() for field in fields)  # noqa: E731
    return sorted(items, key=key, reverse=sort.get("order", "asc") == "desc")


def _search(items: list[Row], search: dict[str, Any]) -> list[Row]:
    text = search["value"].lower()
    negated = bool(search.get("negation", False))
    return [item for item in items if any(text in value.lower() for value in item.values()) != negated]


def _cut(items: list[Row], offset: int, limit: int | None) -> list[Row]:
    if limit is None:
        return items
    if limit > MAX_LIMIT:
        raise QueryRefused("WazuhError", 1405, str(limit))
    if limit == 0:
        raise QueryRefused("WazuhError", 1406)
    if limit < 0:
        raise QueryRefused("WazuhError", 1401)
    if offset < 0:
        raise QueryRefused("WazuhError", 1400)
    return items[offset : offset + limit]


def health_names(names: list[str], wanted: object, master: str) -> tuple[list[str], bool]:
    """Which workers, and whether the master, belong into a get_health answer (wire.md 8.1, dapi.md 1.7).

    A text is taken as a list of one name (dapi.md 1.7: ours). Raises QueryRefused for other JSON."""
    if wanted is None:
        return names, True
    if isinstance(wanted, str):
        wanted = [wanted]
    if isinstance(wanted, dict) and not wanted:
        return names, False
    if isinstance(wanted, dict | list):
        chosen = {item for item in wanted if isinstance(item, str)}
        return [name for name in names if name in chosen], master in chosen
    raise QueryRefused("WazuhInternalError", 1000, "get_health: the filter must be null, an object, a list or a text")

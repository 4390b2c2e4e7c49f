"""Answers about the nodes of the cluster: get_nodes and get_health (wire.md 8, dapi.md 1.6, 1.7). Pure functions."""

from typing import Any

from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list, selected
from clusterd.wire.results import WireException, shorten

NODE_FIELDS = ("name", "type", "version", "ip")
ARGUMENTS = ("filter_node", "filter_type", "select", "search", "sort", "offset", "limit", "distinct")
_SHAPE = Shape(NODE_FIELDS, NODE_FIELDS)
Row = dict[str, str]


def _bad_argument(name: str, allowed: str) -> WireException:
    return _malformed(f"get_nodes: {name} must be {allowed}")


def _malformed(text: str) -> WireException:
    return WireException(1000, shorten(text))


def _checked(arguments: object) -> dict[str, Any]:
    if not isinstance(arguments, dict):
        raise _malformed("get_nodes: the arguments must be a JSON object")
    for name in arguments:
        if name not in ARGUMENTS:
            raise _malformed(f"get_nodes() got an unexpected keyword argument '{name}'")
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

    Order of work: filter, select, sort, search, distinct, cut (wire.md 8.2). Raises WireException."""
    wanted = _checked(arguments)
    names = None if wanted["filter_node"] is None else frozenset(wanted["filter_node"])
    if names is not None:
        known = {row["name"] for row in rows}
        if any(name not in known for name in names):
            raise WireException(1730)
    if wanted["filter_type"] not in ("all", "worker", "master"):
        raise WireException(1728)
    chosen = [
        row for row in rows if (names is None or row["name"] in names) and wanted["filter_type"] in ("all", row["type"])
    ]
    if wanted["select"] is not None:
        chosen = selected(chosen, wanted["select"], _SHAPE)
    sort, search = wanted["sort"] or {}, wanted["search"] or {}
    items, total = cut_list(
        chosen,
        ListArguments(
            offset=wanted["offset"] or 0,
            limit=wanted["limit"],
            sort_by=sort.get("fields"),
            sort_ascending=sort.get("order", "asc") != "desc",
            search_text=search.get("value"),
            complementary_search=bool(search.get("negation", False)),
            distinct=bool(wanted["distinct"]),
        ),
        _SHAPE,
    )
    return {"items": items, "totalItems": total}


def health_names(names: list[str], wanted: object, master: str) -> tuple[list[str], bool]:
    """Returns which workers belong into a get_health answer, and whether the master does (wire.md 8.1, dapi.md 1.7).

    A text is taken as a list of one name (dapi.md 1.7: ours). Raises WireException for other JSON."""
    if wanted is None:
        return names, True
    if isinstance(wanted, str):
        wanted = [wanted]
    if isinstance(wanted, dict) and not wanted:
        return names, False
    if isinstance(wanted, dict | list):
        chosen = {item for item in wanted if isinstance(item, str)}
        return [name for name in names if name in chosen], master in chosen
    raise _malformed("get_health: the filter must be null, an object, a list or a text")

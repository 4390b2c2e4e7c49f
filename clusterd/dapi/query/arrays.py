"""Pagination, sort, search, q, select and distinct over lists in memory (dapi.md 6.1 to 6.4). Pure functions."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from clusterd.dapi.protocol.registry import Arguments
from clusterd.dapi.query.array_query import matcher
from clusterd.wire.results import BAD_REQUEST, WireException, shorten

MOST = 100_000


class ListArguments(Arguments, frozen=True):
    """The arguments of stock's list functions (dapi.md 5.1, "List args"), in their most frequent form.
    `search_in_fields`: the fields that are searched, None for all."""

    offset: int = 0
    limit: int | None = 500
    sort_by: list[str] | None = None
    sort_ascending: bool = True
    search_text: str | None = None
    complementary_search: bool = False
    search_in_fields: list[str] | None = None
    q: str | None = None
    select: list[str] | None = None
    distinct: bool = False


class Shape(msgspec.Struct, frozen=True):
    """The fields that a list of one kind allows. `sort_fields`, `select_fields`: None for all fields of the elements.
    `required`: fields that `select` cannot leave out. `default_sort`: sort fields of a request that names none."""

    sort_fields: Sequence[str] | None = None
    select_fields: Sequence[str] | None = None
    required: Sequence[str] = ()
    default_sort: Sequence[str] = ()


ANY = Shape()


def cut_list(elements: list[Any], arguments: ListArguments, shape: Shape = ANY) -> tuple[list[Any], int]:
    """Returns the elements of the requested page, and the number of elements in all pages. Steps and errors
    (WireException 1400 to 1409, 1724) as dapi.md 6.2; an empty input gives an empty page before any check."""
    if not elements:
        return [], 0
    found = elements
    sort_by = list(dict.fromkeys(arguments.sort_by or shape.default_sort))
    if sort_by:
        found = _sorted(found, sort_by, shape.sort_fields, ascending=arguments.sort_ascending)
    if arguments.search_text:
        text, fields = arguments.search_text.lower(), arguments.search_in_fields
        found = [one for one in found if _contains(one, text, fields) != arguments.complementary_search]
    if arguments.q:
        matches = matcher(arguments.q)
        found = [one for one in found if matches(one)]
    if arguments.select:
        found = selected(found, arguments.select, shape, with_required=not arguments.distinct)
    if arguments.distinct:
        found = _distinct(found)
    return cut(found, arguments.offset, arguments.limit), len(found)


def cut(elements: list[Any], offset: int, limit: int | None) -> list[Any]:
    """Returns one page. Raises as check_page."""
    check_page(offset, limit)
    return elements if limit is None else elements[offset : offset + limit]


def check_page(offset: int, limit: int | None) -> None:
    """Checks offset and limit. Raises WireException 1400, 1401, 1405, 1406. Without a limit the offset is ignored."""
    if limit is None:
        return
    if limit > MOST:
        raise _wrong(1405, str(limit))
    if limit <= 0:
        raise _wrong(1406 if limit == 0 else 1401)
    if offset < 0:
        raise _wrong(1400)


def _wrong(code: int, extra: str | None = None, remediation: str | None = None) -> WireException:
    return WireException(
        code, None if extra is None else shorten(extra), wire_class=BAD_REQUEST, remediation=remediation
    )


# ---- sort ------------------------------------------------------------------------------------------------------------


def _sorted(elements: list[Any], fields: Sequence[str], allowed: Sequence[str] | None, *, ascending: bool) -> list[Any]:
    if list(fields) == [""]:
        return _by_keys(elements, [(_lowered(one),) for one in elements], ascending=ascending)
    first = elements[0]
    known = allowed if allowed is not None else (list(first) if isinstance(first, dict) else [])
    wrong = [field for field in fields if field not in known]
    if wrong:
        raise _wrong(1403, f"Allowed sort fields: {', '.join(known)}. Fields: {', '.join(wrong)}")
    return _by_keys(
        elements, [tuple(_lowered(value_at(one, field)) for field in fields) for one in elements], ascending=ascending
    )


def _by_keys(elements: list[Any], keys: list[tuple[Any, ...]], *, ascending: bool) -> list[Any]:
    """Sorts by the keys. If they cannot be compared, elements without a missing key stay a block, which is last when
    ascending."""
    places = range(len(elements))
    try:
        return [elements[place] for place in sorted(places, key=keys.__getitem__, reverse=not ascending)]
    except TypeError:
        block = [elements[place] for place in places if None not in keys[place]]
        others = [elements[place] for place in places if None in keys[place]]
        try:
            whole = [key for key in keys if None not in key]
            block = [block[place] for place in sorted(range(len(block)), key=whole.__getitem__, reverse=not ascending)]
        except TypeError:
            pass  # of different types: they keep their order
        return others + block if ascending else block + others


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def value_at(element: Any, path: str) -> Any:
    """Returns the value at a dotted path, None if there is none."""
    if isinstance(element, dict) and path in element:
        return element[path]
    for name in path.split("."):
        if not isinstance(element, dict):
            return None
        element = element.get(name)
    return element


# ---- search ----------------------------------------------------------------------------------------------------------


def _contains(element: Any, text: str, fields: Sequence[str] | None) -> bool:
    """Tells whether the text is in the element. A field that an element lacks contains nothing; elements that are not
    objects have no fields."""
    if fields is not None and isinstance(element, dict):
        found = [value_at(element, field) for field in fields]
        element = [value for value in found if value is not None]
    return any(text in str(leaf).lower() for leaf in _leaves(element))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


# ---- select, distinct ------------------------------------------------------------------------------------------------


def selected(
    elements: Iterable[Any], select: Sequence[str], shape: Shape = ANY, *, with_required: bool = True
) -> list[Any]:
    """Returns the selected fields of each element, in the order of `select`. Raises WireException 1724."""
    allowed = shape.select_fields
    if allowed is not None:
        wrong = [field for field in select if field not in allowed and field.partition(".")[0] not in allowed]
        if wrong:
            raise _wrong(1724, ", ".join(wrong), ", ".join(allowed))
    wanted = list(dict.fromkeys([*(shape.required if with_required else ()), *select]))
    found = []
    for element in elements:
        picked: dict[str, Any] = {}
        if isinstance(element, dict):
            for field in wanted:
                _copy(element, picked, field)
        if not picked and allowed is None:
            raise _wrong(1724, ", ".join(select), ", ".join(element) if isinstance(element, dict) else None)
        found.append(picked)
    return found


def _copy(element: dict[str, Any], picked: dict[str, Any], field: str) -> None:
    """Copies one field and the objects around it; a missing field is left out."""
    if field in element:
        picked[field] = element[field]
        return
    value = value_at(element, field)
    if value is None:
        return
    *outer, last = field.split(".")
    for name in outer:
        inner = picked.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        picked = inner
    picked[last] = value


def _distinct(elements: Iterable[Any]) -> list[Any]:
    seen: set[str] = set()
    found = []
    for element in elements:
        key = repr(element)
        if key not in seen:
            seen.add(key)
            found.append(element)
    return found

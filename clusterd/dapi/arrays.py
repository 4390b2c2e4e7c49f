"""Pagination, sort, search, q, select and distinct over lists in memory (dapi.md 6.1 to 6.4). Pure functions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from clusterd.dapi.registry import Arguments


class ListArguments(Arguments, frozen=True):
    """What the list functions of stock take (dapi.md 5.1, "List args"), in the form that most of them use."""

    offset: int = 0
    limit: int | None = 500
    sort_by: list[str] | None = None
    sort_ascending: bool = True
    search_text: str | None = None
    complementary_search: bool = False
    q: str | None = None
    select: list[str] | None = None
    distinct: bool = False


class Shape(msgspec.Struct, frozen=True):
    """What a list of one kind allows. `sort_fields`, `select_fields`: None for whatever the elements have. `required`: fields
    that `select` cannot leave out. `default_sort`: fields when the request names none."""

    sort_fields: Sequence[str] | None = None
    select_fields: Sequence[str] | None = None
    required: Sequence[str] = ()
    default_sort: Sequence[str] = ()


def cut_list(elements: list[Any], arguments: ListArguments, shape: Shape = Shape()) -> tuple[list[Any], int]:  # noqa: B008
    """The elements of the page that was asked for, and how many there are in all pages. Steps and errors (WireException 1400 to
    1409, 1724) as dapi.md 6.2; an empty input gives an empty page before any check."""
    raise NotImplementedError

"""One parser of `q` for lists and tables (dapi.md 6.4, 6.6): the meaning of a text, with AND shown as `&` and OR as
`|`."""

from collections.abc import Sequence

import pytest

from clusterd.dapi.query.parser import OF_LISTS, OF_TABLES, Clause, Grammar, parse_query
from clusterd.wire.results import WireException


def shown(text: str, grammar: Grammar) -> str:
    def joined(mark: str, parts: Sequence[str]) -> str:
        return f"({mark.join(parts)})"

    def clause(found: Clause) -> str:
        return " ".join(found)

    return parse_query(text, grammar, clause, lambda parts: joined("&", parts), lambda parts: joined("|", parts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", "a = 1"),
        ("a.b!=x y", "a.b != x y"),
        ("a=1;b<2,c>3", "((a = 1&b < 2)|c > 3)"),
        ("a=1,b~2;c=3", "(a = 1|(b ~ 2&c = 3))"),
        ("a=(x) y", "a = (x) y"),
        ("a!=<b>", "a != <b>"),
    ],
)
@pytest.mark.parametrize("grammar", [OF_LISTS, OF_TABLES], ids=["lists", "tables"])
def test_lists_and_tables_understand_the_same(text: str, expected: str, grammar: Grammar) -> None:
    assert shown(text, grammar) == expected


@pytest.mark.parametrize(
    ("text", "in_lists", "in_tables"),
    [
        ("(a=1,b=2);c=3", "(a = 1|(b = 2&c = 3))", "((a = 1|b = 2)&c = 3)"),
        ("(a=1", "a = 1", 1407),
        ("((a=1))", 1407, "a = 1"),
        ("a=1$", "a = 1", "a = 1$"),
        ("a=[1,2]", 1407, "a = [1,2]"),
    ],
)
def test_parentheses_and_brackets_join_in_tables_only(text: str, in_lists: str | int, in_tables: str | int) -> None:
    for grammar, expected in ((OF_LISTS, in_lists), (OF_TABLES, in_tables)):
        try:
            found: str | int = shown(text, grammar)
        except WireException as refusal:
            found = refusal.code
        assert found == expected


@pytest.mark.parametrize(
    ("text", "code"), [("", 1407), ("a", 1407), ("a=", 1407), ("a==1", 1409), ("a!1", 1409), ("a=1;", 1407)]
)
@pytest.mark.parametrize("grammar", [OF_LISTS, OF_TABLES], ids=["lists", "tables"])
def test_what_is_no_query_is_refused_alike(text: str, code: int, grammar: Grammar) -> None:
    with pytest.raises(WireException) as refused:
        shown(text, grammar)
    assert refused.value.code == code

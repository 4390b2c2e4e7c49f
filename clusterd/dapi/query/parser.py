"""`q`: parses a text into conditions joined by `;`, which is AND and binds tighter, and `,`, which is OR (dapi.md 6.4,
6.6).

The caller decides what a condition becomes: SQL (sql_condition.py) or a predicate (array_query.py).
"""

import re
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from clusterd.wire.results import WireException, shorten

LONGEST = 8192
DEEPEST = 30
OPERATORS = frozenset({"=", "!=", "<", ">", "~"})
T = TypeVar("T")
_FIELD = re.compile(r"\w+(?:\.\w+)*", re.ASCII)
_OPERATOR = re.compile(r"!=|[=!<>~]+")
_TO_SEPARATOR = re.compile(r"[^,;]*")
_PLAIN = r"[\w \-.:?\\/'\"=@%<>{}\[\]]"


class Clause(NamedTuple):
    """`field operator value`."""

    field: str
    operator: str
    value: str


class Grammar(NamedTuple):
    """The differences between `q` of databases and `q` of lists. `value`: the pattern of a value. `groups`: parentheses
    group and nest, and the whole text must be valid; otherwise one parenthesis before a clause, and any text behind its
    value, are ignored."""

    value: "re.Pattern[str]"
    groups: bool


OF_TABLES = Grammar(re.compile(r"(?:[\w \-.:?\\/'\"=@%<>{}$*+|^!&~#]|\[[^\[\]]*\]|\([^()]*\))+"), groups=True)
OF_LISTS = Grammar(re.compile(rf"(?:{_PLAIN}|\({_PLAIN}*\))+", re.ASCII), groups=False)


def parse_query(
    text: str,
    grammar: Grammar,
    clause: Callable[[Clause], T],
    all_of: Callable[[Sequence[T]], T],
    any_of: Callable[[Sequence[T]], T],
) -> T:
    """Builds a value from a query. Raises WireException 1407 for an invalid query, 1409 for an invalid operator, and
    whatever `clause` raises."""
    if len(text) > LONGEST:
        raise _malformed(text)
    parser = _Parser(text, grammar, clause, all_of, any_of)
    found = parser.alternatives(0)
    if not parser.is_at_end:
        raise _malformed(text)
    return found


def unknown_field(field: str, allowed: str) -> WireException:
    """Returns the error that a `clause` raises for an unknown field. `allowed`: text that lists the known fields."""
    return WireException(1408, shorten(field, 100), remediation=allowed)


class _Parser(Generic[T]):
    def __init__(
        self,
        text: str,
        grammar: Grammar,
        clause: Callable[[Clause], T],
        all_of: Callable[[Sequence[T]], T],
        any_of: Callable[[Sequence[T]], T],
    ) -> None:
        self._text = text
        self._place = 0
        self._grammar = grammar
        self._clause = clause
        self._all_of = all_of
        self._any_of = any_of

    @property
    def is_at_end(self) -> bool:
        return self._place == len(self._text)

    def alternatives(self, depth: int) -> T:
        """Parses parts joined by `,`."""
        parts = [self._together(depth)]
        while self._take(","):
            parts.append(self._together(depth))
        return parts[0] if len(parts) == 1 else self._any_of(parts)

    def _together(self, depth: int) -> T:
        parts = [self._part(depth)]
        while self._take(";"):
            parts.append(self._part(depth))
        return parts[0] if len(parts) == 1 else self._all_of(parts)

    def _part(self, depth: int) -> T:
        has_parenthesis = self._take("(")
        if not self._grammar.groups:
            found = self._one()
            self._match(_TO_SEPARATOR)
            return found
        if not has_parenthesis:
            return self._one()
        if depth >= DEEPEST:
            raise _malformed(self._text)
        found = self.alternatives(depth + 1)
        if not self._take(")"):
            raise _malformed(self._text)
        return found

    def _one(self) -> T:
        field, operator = self._match(_FIELD), self._match(_OPERATOR)
        if operator not in OPERATORS:
            raise WireException(1409, shorten(f"{field}{operator}", 100))
        return self._clause(Clause(field, operator, self._match(self._grammar.value)))

    def _match(self, pattern: "re.Pattern[str]") -> str:
        found = pattern.match(self._text, self._place)
        if found is None:
            raise _malformed(self._text)
        self._place = found.end()
        return found[0]

    def _take(self, character: str) -> bool:
        if self._text[self._place : self._place + 1] != character:
            return False
        self._place += 1
        return True


def _malformed(text: str) -> WireException:
    return WireException(1407, shorten(text, 100))

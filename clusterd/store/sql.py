"""`global sql`: a client's own statement (wdb.md 3.23). Readers run statements that only read, the writer the
others."""

import re
import sqlite3
from typing import Any

from clusterd.store.bounds import StatementWatch, authorize
from clusterd.store.engine import Session
from clusterd.store.jsontext import ANSWER_BYTES, encode

READ_ONLY = "attempt to write a readonly database"
_NUMBERS = frozenset({int, float})
READ_S = 60.0
WRITE_S = 10.0
"""A statement is interrupted after this time: an endless one would block a reader, or all writes."""

_PARTS = re.compile(r"""'[^']*'?|"[^"]*"?|`[^`]*`?|\[[^\]]*\]?|--[^\n]*|/\*.*?(?:\*/|\Z)|;""", re.DOTALL)
"""Where a semicolon may end a statement, and what may contain others: looking at each of those took a second."""
MOST_TRIES = 100
"""Only in a trigger does a semicolon end no statement, and no client may make one."""


class Writes(Exception):
    """The statement changes the database and belongs to the writer."""


def first_statement(text: str) -> str:
    """The text up to the first semicolon that ends a statement, or up to a NUL, which ends a string in C; the rest is
    not executed."""
    text = text.partition("\0")[0]
    ends = [found.end() for found in _PARTS.finditer(text) if found[0] == ";"]
    for end in ends[:MOST_TRIES]:
        if sqlite3.complete_statement(text[:end]):
            return text[:end]
    return text[: ends[0]] if len(ends) > MOST_TRIES else text


def run_read(db: sqlite3.Connection, text: str, watch: StatementWatch) -> bytes:
    """Runs the statement on a reader's connection and returns its rows as JSON. Raises Writes, sqlite3.Error."""
    try:
        return run(db, text, watch, READ_S)
    except sqlite3.OperationalError as failure:
        if str(failure) == READ_ONLY:
            raise Writes from None
        raise


def run_write(session: Session, text: str, watch: StatementWatch) -> bytes:
    """The same in the writer. Afterwards the sequence of group hashes is read again, since the statement may have
    changed it."""
    session.db.set_authorizer(authorize)
    try:
        return run(session.db, text, watch, WRITE_S)
    finally:
        session.db.set_authorizer(None)
        session.load_hashes()


def run(db: sqlite3.Connection, text: str, watch: StatementWatch, longest_s: float) -> bytes:
    """Runs the first statement of the text on a connection with `authorize`; returns its rows as JSON. Raises
    sqlite3.Error."""
    with watch.bounded(db, longest_s):
        cursor = db.execute(first_statement(text))
        try:
            if cursor.description is None:
                return b"[]"
            names = [column[0] for column in cursor.description]
            parts, size = [], 0
            for row in cursor:
                parts.append(encode(_row(names, row)))
                size += len(parts[-1]) + 1
                if size > ANSWER_BYTES:
                    # The answer is cut at this size anyway (wdb.md 2.3).
                    break
            return b"[" + b",".join(parts) + b"]"
        finally:
            cursor.close()


def _row(names: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    """Values are cut at the size of an answer: anything beyond would never be sent."""
    return {
        name: value if value.__class__ in _NUMBERS or len(value) <= ANSWER_BYTES else value[:ANSWER_BYTES]
        for name, value in zip(names, row, strict=True)
        if value is not None
    }

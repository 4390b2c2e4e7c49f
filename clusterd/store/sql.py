"""`global sql`: a client's own statement (wdb.md 3.23). Readers take what only reads; the writer the rest."""

import sqlite3
from typing import Any

from clusterd.store.bounds import Watch, authorize
from clusterd.store.engine import Session
from clusterd.store.jsontext import ANSWER_BYTES, encode

READ_ONLY = "attempt to write a readonly database"
READ_S = 60.0
WRITE_S = 10.0
"""A statement is broken off after so long: one that never ends would keep a reader, or everybody who writes, for ever."""


class Writes(Exception):
    """The statement changes the database: it is for the writer."""


def first_statement(text: str) -> str:
    """Up to the first semicolon that ends a statement, or to a NUL, where the text ends for whoever wrote it in C; anything
    behind it is not executed."""
    text = text.partition("\0")[0]
    at = text.find(";")
    while at >= 0:
        if sqlite3.complete_statement(text[: at + 1]):
            return text[: at + 1]
        at = text.find(";", at + 1)
    return text


def run_read(db: sqlite3.Connection, text: str, watch: Watch) -> bytes:
    """The rows as JSON, on a reader's connection. Raises Writes, sqlite3.Error."""
    try:
        return run(db, text, watch, READ_S)
    except sqlite3.OperationalError as failure:
        if str(failure) == READ_ONLY:
            raise Writes from None
        raise


def run_write(session: Session, text: str, watch: Watch) -> bytes:
    """The same in the writer. Whatever it changed, the sequence of group hashes is read again."""
    session.db.set_authorizer(authorize)
    try:
        return run(session.db, text, watch, WRITE_S)
    finally:
        session.db.set_authorizer(None)
        session.load_hashes()


def run(db: sqlite3.Connection, text: str, watch: Watch, longest_s: float) -> bytes:
    """The first statement of a text, on a connection with `authorize`: its rows as JSON. Raises sqlite3.Error."""
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
                    # The answer is cut there anyway (wdb.md 2.3).
                    break
            return b"[" + b",".join(parts) + b"]"
        finally:
            cursor.close()


def _row(names: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    """Values are cut where the answer is at the latest: nothing behind that is given out, and need not be encoded."""
    return {
        name: value[:ANSWER_BYTES] if isinstance(value, str | bytes) else value
        for name, value in zip(names, row, strict=True)
        if value is not None
    }

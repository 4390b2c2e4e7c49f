"""`global sql`: a client's own statement (wdb.md 3.23). Readers take what only reads; the writer the rest."""

import sqlite3
import time
from typing import Any

from clusterd.store.engine import Session, authorize
from clusterd.store.jsontext import ANSWER_BYTES, encode

READ_ONLY = "attempt to write a readonly database"
READ_S = 60.0
WRITE_S = 10.0
"""A statement is broken off after so long: one that never ends would keep a reader, or everybody who writes, for ever."""
LOOK_EVERY = 100_000
"""Steps of SQLite's machine between two looks at the clock, a few milliseconds."""


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


def run_read(db: sqlite3.Connection, text: str) -> bytes:
    """The rows as JSON. Raises Writes, sqlite3.Error."""
    try:
        return _run_for(db, text, READ_S)
    except sqlite3.OperationalError as failure:
        if str(failure) == READ_ONLY:
            raise Writes from None
        raise


def run_write(session: Session, text: str) -> bytes:
    """The same in the writer. Whatever it changed, the sequence of group hashes is read again."""
    session.db.set_authorizer(authorize)
    try:
        return _run_for(session.db, text, WRITE_S)
    finally:
        session.db.set_authorizer(None)
        session.load_hashes()


def _run_for(db: sqlite3.Connection, text: str, longest_s: float) -> bytes:
    until = time.monotonic() + longest_s
    db.set_progress_handler(lambda: time.monotonic() > until, LOOK_EVERY)
    try:
        return _run(db, text)
    except sqlite3.OperationalError as failure:
        if time.monotonic() > until and failure.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise sqlite3.OperationalError(f"the statement was broken off after {longest_s:g} s") from None
        raise
    finally:
        db.set_progress_handler(None, 0)


def _run(db: sqlite3.Connection, text: str) -> bytes:
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
    return {name: value for name, value in zip(names, row, strict=True) if value is not None}

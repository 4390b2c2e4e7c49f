"""`global sql`: a client's own statement (wdb.md 3.23). Readers take what only reads; the writer the rest."""

import sqlite3
from typing import Any

from clusterd.store.engine import Session, authorize
from clusterd.store.jsontext import ANSWER_BYTES, encode

READ_ONLY = "attempt to write a readonly database"


class Writes(Exception):
    """The statement changes the database: it is for the writer."""


def first_statement(text: str) -> str:
    """Up to the first semicolon that ends a statement; anything behind it is not executed."""
    at = text.find(";")
    while at >= 0:
        if sqlite3.complete_statement(text[: at + 1]):
            return text[: at + 1]
        at = text.find(";", at + 1)
    return text


def run_read(db: sqlite3.Connection, text: str) -> bytes:
    """The rows as JSON. Raises Writes, sqlite3.Error."""
    try:
        return _run(db, text)
    except sqlite3.OperationalError as failure:
        if str(failure) == READ_ONLY:
            raise Writes from None
        raise


def run_write(session: Session, text: str) -> bytes:
    """The same in the writer. Whatever it changed, the sequence of group hashes is read again."""
    session.db.set_authorizer(authorize)
    try:
        return _run(session.db, text)
    finally:
        session.db.set_authorizer(None)
        session.load_hashes()


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

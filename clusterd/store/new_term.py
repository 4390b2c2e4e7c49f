"""A worker reports all agents again to the master of a new term: what the one before had confirmed may not have reached
the candidate that leads now (docs/ha.md)."""

import functools
import sqlite3

from clusterd.store.engine import Engine, Session

PIECE = 1000
"""Agents of a transaction: keepalives come in between."""
_KIND = "term"


async def report_again(engine: Engine, key: str) -> int:
    """Marks every agent that this node has heard of itself, once for each `key` (a term and its master); returns how
    many. A kill in between begins anew: marking twice does no harm. Raises sqlite3.Error."""
    if await engine.read(_noted) == key:
        return 0
    after: int | None = 0
    count = 0
    while after is not None:
        marked, after = await engine.write_piece(functools.partial(_mark, after=after))
        count += marked
    await engine.write(lambda session: _note(session, key), durable=True)
    return count


def _noted(db: sqlite3.Connection) -> str | None:
    row = db.execute("select name from clusterd_seen where kind = ?", (_KIND,)).fetchone()
    return None if row is None else str(row[0])


def _note(session: Session, key: str) -> None:
    session.db.execute("delete from clusterd_seen where kind = ?", (_KIND,))
    session.db.execute("insert into clusterd_seen (kind, name) values (?, ?)", (_KIND, key))


def _mark(session: Session, *, after: int) -> tuple[int, int | None]:
    """Marks the next PIECE of those that were heard of here. What another node has reported is that one's to repeat."""
    found = session.db.execute(
        "select id from clusterd_event where id > ? and node = '' order by id limit ?", (after, PIECE)
    ).fetchall()
    if not found:
        return 0, None
    last = found[-1][0]
    count = session.db.execute(
        "update agent set sync_status = 'syncreq' where id > ? and id <= ? and sync_status != 'syncreq'"
        " and exists (select 1 from clusterd_event e where e.id = agent.id and e.node = '')",
        (after, last),
    ).rowcount
    return count, last

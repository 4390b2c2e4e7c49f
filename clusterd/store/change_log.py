"""The change log: which agents and groups have changed since a position (docs/ha.md). Triggers of the database write it
in the transaction of the change itself, whichever statement makes it; it exists only where a replica is wanted.

A *unit* is an agent with all that belongs to it, or a group. The log has one row for each unit, with the position of
its last change, so it never grows beyond the units there are and have been.
"""

import secrets
import sqlite3

from clusterd.agent_keys import GREATEST_ID

AGENT, GROUP = 1, 2
"""Kinds of units."""
LIFE = 0
"""Kind of the row that each start of the store adds: `id` is the last position before it, `seq` its own. No position
between the two exists. A power failure may have taken back changes whose positions a replica has already seen; they
were in that gap or before it, so they are never given to other changes."""
GAP = 1_000_000
KEPT_DELETIONS = 100_000
"""A replica that was away while more units than this were deleted is copied anew."""
EPOCH, GREATEST, FLOOR, BOOT = "epoch", "greatest_id", "floor", "boot"
"""Names of marks. `epoch`: which log it is; positions of different logs cannot be compared. `greatest_id`: the highest
agent id ever given. `floor`: deletions up to this position are forgotten. `boot`: the boot of the machine on which the
log began: a later one has changed the moments of all agents."""
MARKS, REPLICA_MARKS = "clusterd_mark", "clusterd_replica"
"""Tables of marks: of a change log, and of a replica. A replica that becomes a node's own database has the second one,
so that nothing of the earlier master's log is taken for its own but the highest id."""
TABLES = (MARKS, REPLICA_MARKS)
TRIGGER = "clusterd_log_"
"""How the names of the triggers begin."""

_TABLES = (
    """create table if not exists clusterd_change (
        seq integer primary key not null, kind integer not null, id integer not null)""",
    "create unique index if not exists clusterd_change_unit on clusterd_change (kind, id)",
    "create table if not exists clusterd_mark (name text primary key, value) without rowid",
)
# No trigger relies on `or replace`, `or ignore` or an upsert: the conflict clause of the statement that fires it would
# take their place. A unit keeps its row, so that the highest position always has one and is never given again.
_AGAIN = (
    " update clusterd_change set seq = (select max(seq) + 1 from clusterd_change) where kind = {kind} and id = {id};"
)
_FIRST = (
    " insert into clusterd_change (seq, kind, id) select (select ifnull(max(seq), 0) + 1 from clusterd_change), {kind},"
    " {id} where {id} > 0 and not exists (select 1 from clusterd_change where kind = {kind} and id = {id});"
)
_WATCHED = (
    ("agent", AGENT, "{}.id", ""),
    ("labels", AGENT, "{}.id", ""),
    ("belongs", AGENT, "{}.id_agent", ""),
    ("clusterd_seen", AGENT, "cast({}.name as integer)", "{}.kind = 'key'"),
    ('"group"', GROUP, "{}.id", ""),
)
"""Table, kind and id of the unit that a row belongs to, and which rows matter. `clusterd_event` is written beside the
row of its agent, so only its deletions are watched; `begin_log` knows about the other exception, the carrying over of
moments at the first start after a boot."""


def begin_log(db: sqlite3.Connection) -> None:
    """Turns the log on, or begins its next life. A new log has all that there is as changed. Inside a transaction."""
    for statement in _TABLES:
        db.execute(statement)
    (boot,) = db.execute("select max(name) from clusterd_seen where kind = 'boot'").fetchone()
    if mark(db, EPOCH) is None or mark(db, BOOT) != boot:
        _drop_triggers(db)
        db.execute("delete from clusterd_change")
        db.execute(
            "insert into clusterd_change (seq, kind, id)"
            " select row_number() over (order by kind, id), kind, id from ("
            f'  select {GROUP} as kind, id from "group" union select {AGENT}, id from agent where id > 0'
            f"  union select {AGENT}, cast(name as integer) from clusterd_seen where kind = 'key'"
            "   and cast(name as integer) > 0)"
        )
        (greatest,) = db.execute("select ifnull(max(id), 0) from agent where id <= ?", (GREATEST_ID,)).fetchone()
        set_mark(db, GREATEST, max(greatest, greatest_id(db)))
        set_mark(db, BOOT, boot)
        set_mark(db, FLOOR, 0)
        set_mark(db, EPOCH, secrets.token_hex(8))
    _make_triggers(db)
    _prune(db)
    last = head(db)
    db.execute("insert into clusterd_change (seq, kind, id) values (?, ?, ?)", (last + GAP, LIFE, last))


def end_log(db: sqlite3.Connection) -> None:
    """Turns the log off: nothing of it is left. Inside a transaction."""
    _drop_triggers(db)
    db.execute("drop table if exists clusterd_change")
    db.execute("drop table if exists clusterd_mark")


def _make_triggers(db: sqlite3.Connection) -> None:
    for table, kind, place, condition in _WATCHED:
        name = f"{TRIGGER}{table.strip(chr(34))}"
        new, old = place.format("new"), place.format("old")
        events = (
            ("insert", "insert", _AGAIN + _FIRST, new, condition.format("new")),
            ("delete", "delete", _AGAIN, old, condition.format("old")),
            ("update", "update", _AGAIN, old, condition.format("old")),
            # A row that belongs to another unit from now on.
            (
                "move",
                "update",
                _AGAIN + _FIRST,
                new,
                " and ".join(filter(None, (f"{new} is not {old}", condition.format("new")))),
            ),
        )
        for word, event, body, unit, matters in events:
            when = f"when {matters}" if matters else ""
            db.execute(
                f"create trigger if not exists {name}_{word} after {event} on {table} {when}"
                f" begin {body.format(kind=kind, id=unit)} end"
            )
    db.execute(
        f"create trigger if not exists {TRIGGER}event_delete after delete on clusterd_event"
        f" begin {_AGAIN.format(kind=AGENT, id='old.id')} end"
    )
    db.execute(
        f"create trigger if not exists {TRIGGER}greatest after insert on agent when new.id <= {GREATEST_ID} begin"
        f" update clusterd_mark set value = new.id where name = '{GREATEST}' and value < new.id; end"
    )


def _drop_triggers(db: sqlite3.Connection) -> None:
    names = db.execute("select name from sqlite_master where type = 'trigger' and name like ?", (f"{TRIGGER}%",))
    for (name,) in names.fetchall():
        db.execute(f'drop trigger "{name}"')


def _prune(db: sqlite3.Connection) -> None:
    """Forgets the oldest deletions."""
    gone = (
        f"(kind = {AGENT} and not exists (select 1 from agent a where a.id = clusterd_change.id)"
        " and not exists (select 1 from clusterd_seen s where s.kind = 'key' and s.name = cast(clusterd_change.id as"
        f' text)) or kind = {GROUP} and not exists (select 1 from "group" g where g.id = clusterd_change.id))'
    )
    row = db.execute(
        f"select seq from clusterd_change where {gone} order by seq desc limit 1 offset ?", (KEPT_DELETIONS,)
    ).fetchone()
    if row is not None:
        db.execute(f"delete from clusterd_change where seq <= ? and {gone}", (row[0],))
        set_mark(db, FLOOR, row[0])


# ---- reading ---------------------------------------------------------------------------------------------------------


def mark(db: sqlite3.Connection, name: str, table: str = MARKS) -> str | int | None:
    """A mark's value, None where there is none. The table exists."""
    row = db.execute(f"select value from {table} where name = ?", (name,)).fetchone()
    value = None if row is None else row[0]
    return value.decode() if isinstance(value, bytes) else value


def set_mark(db: sqlite3.Connection, name: str, value: str | int | None, table: str = MARKS) -> None:
    db.execute(f"insert or replace into {table} (name, value) values (?, ?)", (name, value))


def _has(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("select 1 from sqlite_master where type = 'table' and name = ?", (table,)).fetchone() is not None


def is_on(db: sqlite3.Connection) -> bool:
    return _has(db, MARKS) and mark(db, EPOCH) is not None


def greatest_id(db: sqlite3.Connection) -> int:
    """The highest agent id ever given, as far as this database remembers; 0 where it has neither a log nor was a
    replica."""
    return max((int(mark(db, GREATEST, table) or 0) for table in (MARKS, REPLICA_MARKS) if _has(db, table)), default=0)


def head(db: sqlite3.Connection) -> int:
    """The position of the last change."""
    return int(db.execute("select ifnull(max(seq), 0) from clusterd_change").fetchone()[0])


def last_change(db: sqlite3.Connection) -> int:
    """The position of the last change, without the gap that a start of the store leaves: whoever has it has
    everything."""
    return int(db.execute(f"select ifnull(max(seq), 0) from clusterd_change where kind != {LIFE}").fetchone()[0])


def earlier(db: sqlite3.Connection) -> int:
    """The last position before the store was started."""
    found = db.execute(f"select ifnull(max(id), 0) from clusterd_change where kind = {LIFE}")
    return int(found.fetchone()[0])


def is_known(db: sqlite3.Connection, epoch: str, position: int) -> bool:
    """Whether what has changed since this position can be told. Position 0 of this log always can."""
    if epoch != mark(db, EPOCH) or position < 0 or position > head(db):
        return False
    floor = mark(db, FLOOR)
    if 0 < position < int(floor or 0):
        return False
    gap = db.execute(
        f"select 1 from clusterd_change where kind = {LIFE} and id < ? and seq > ? limit 1", (position, position)
    ).fetchone()
    return gap is None


def changed_since(db: sqlite3.Connection, position: int, most: int) -> list[tuple[int, int, int]]:
    """(position, kind, id) of the units that have changed last after `position`, the oldest first."""
    return db.execute(
        "select seq, kind, id from clusterd_change where seq > ? order by seq limit ?", (position, most)
    ).fetchall()


def behind(db: sqlite3.Connection, position: int) -> int:
    """How many units have changed since."""
    found = db.execute(f"select count(*) from clusterd_change where seq > ? and kind != {LIFE}", (position,))
    return int(found.fetchone()[0])

"""The change log: which agents and groups have changed since a position (docs/ha.md). Triggers of the database write it
in the transaction of the change itself, whichever statement makes it; it exists only where a replica is wanted.

A *unit* is an agent with all that belongs to it, or a group. The log has one row for each unit, with the position of
its last change, so it never grows beyond the units there are and have been.

Each start of the store begins a *life* of the log with an epoch of its own: what a power failure takes back, or a
backup that is put in place, must not be taken for what came later under the same positions. Positions go on from life
to life, from node to node, too: a candidate that becomes the master goes on with the log that its replica followed. The
list of lives that are over says what two databases have in common, as the timelines of PostgreSQL do."""

import secrets
import sqlite3
import sys
from collections.abc import Sequence
from typing import NamedTuple

from clusterd.agent_keys import GREATEST_ID

AGENT, GROUP = KINDS = 1, 2
"""Kinds of units."""
KEPT_DELETIONS = 100_000
"""A replica that was away while more units than this were deleted is copied anew."""
KEPT_LIVES = 64
"""A replica of a life that is longer ago is copied anew."""
EPOCH, GREATEST, FLOOR, SETTLED = "epoch", "greatest_id", "floor", "settled"
"""Names of marks. `epoch`: which life of the log it is. `greatest_id`: the highest agent id ever given. `floor`:
deletions up to this position are forgotten. `settled` (of a replica): the last position at which it was equal to the
log."""
MARKS, REPLICA_MARKS = "clusterd_mark", "clusterd_replica"
"""Tables of marks: of a change log, and of a replica. A replica that becomes a node's own database has the second one:
its log goes on from there."""
LIVES, TOLD = "clusterd_life", "clusterd_told"
"""The lives of a log that are over; and of a replica, up to which position it was told of each unit, with the digest of
those parts of it that seldom change (units.py; null: not known)."""
TABLES = (MARKS, REPLICA_MARKS, LIVES, TOLD)
MOVED, UNKNOWN = "moved", "unknown"
"""Kind of a row in clusterd_seen: by how many microseconds all moments of agents were moved since the log had its last
life (schema.py)."""
TRIGGER = "clusterd_log_"
"""How the names of the triggers begin."""


class LogLife(NamedTuple):
    """A life of the log that is over: what it had up to position `ended` the later ones have, too. `moved`: then all
    moments of agents were moved by so many microseconds (another machine's boot clock counts from there on)."""

    epoch: str
    ended: int
    moved: int = 0


_TABLES = (
    """create table if not exists clusterd_change (
        seq integer primary key not null, kind integer not null, id integer not null)""",
    "create unique index if not exists clusterd_change_unit on clusterd_change (kind, id)",
    "create table if not exists clusterd_mark (name text primary key, value) without rowid",
)
_LIVES = f"""create table if not exists {LIVES} (
    number integer primary key, epoch text not null, ended integer not null, moved integer not null)"""
_TOLD = f"""create table if not exists {TOLD} (
    kind integer not null, id integer not null, at integer not null, parts integer, primary key (kind, id))
    without rowid"""
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
    """Turns the log on, or begins its next life. A new log has all that there is as changed; that of a database which
    was a replica goes on where the replica was. Inside a transaction."""
    for statement in _TABLES:
        db.execute(statement)
    make_replica_tables(db)
    moved = _take_moved(db)
    epoch, settled = mark(db, EPOCH), mark(db, SETTLED, REPLICA_MARKS)
    if epoch is not None:
        ended = last_change(db)
        db.execute("delete from clusterd_change where kind not in (?, ?)", (AGENT, GROUP))  # of an earlier version
    elif settled is not None:
        epoch, ended = mark(db, EPOCH, REPLICA_MARKS), int(settled)
        _take_over(db)
        ended = min(ended, head(db))  # what comes now must lie behind it
    if epoch is None or moved is None:
        db.execute("delete from clusterd_change")
        db.execute(f"delete from {LIVES}")
        set_mark(db, FLOOR, 0)
    else:
        end_life(db, LogLife(str(epoch), ended, moved))
    _note_missing(db)
    (greatest,) = db.execute("select ifnull(max(id), 0) from agent where id <= ?", (GREATEST_ID,)).fetchone()
    set_mark(db, GREATEST, max(greatest, greatest_id(db)))
    set_mark(db, EPOCH, secrets.token_hex(8))
    _forget_replica(db)
    _make_triggers(db)
    _prune(db)


def make_replica_tables(db: sqlite3.Connection) -> None:
    """Those that a replica and a log have."""
    db.execute(f"create table if not exists {REPLICA_MARKS} (name text primary key, value) without rowid")
    db.execute(_LIVES)
    db.execute(_TOLD)
    if not db.execute(f"select 1 from pragma_table_info('{TOLD}') where name = 'parts'").fetchone():
        db.execute(f"alter table {TOLD} add column parts integer")  # of an earlier version


def has_moved(db: sqlite3.Connection) -> bool:
    """Whether moments were moved in this life, which its replicas have not heard of."""
    return db.execute("select 1 from clusterd_seen where kind = ?", (MOVED,)).fetchone() is not None


def _take_moved(db: sqlite3.Connection) -> int | None:
    """By how much moments were moved since the last life; None: that is not known."""
    row = db.execute("select name from clusterd_seen where kind = ?", (MOVED,)).fetchone()
    db.execute("delete from clusterd_seen where kind = ?", (MOVED,))
    if row is None:
        return 0
    text = row[0].decode() if isinstance(row[0], bytes) else row[0]
    return None if text == UNKNOWN else int(text)


def _take_over(db: sqlite3.Connection) -> None:
    """The log of a replica: each unit at the position up to which it was told, or behind it. Whoever has less of it is
    told too much then, never too little."""
    db.execute("delete from clusterd_change")
    db.execute(
        "insert into clusterd_change (seq, kind, id)"
        " select max(at - place) over (order by place) + place, kind, id from"
        f" (select kind, id, at, row_number() over (order by at, kind, id) as place from {TOLD})"
    )
    set_mark(db, FLOOR, int(mark(db, FLOOR, REPLICA_MARKS) or 0))


def _note_missing(db: sqlite3.Connection) -> None:
    """Units that the log does not know count as changed."""
    db.execute(
        "insert into clusterd_change (seq, kind, id)"
        " select (select ifnull(max(seq), 0) from clusterd_change) + row_number() over (order by kind, id), kind, id"
        " from ("
        f'  select {GROUP} as kind, id from "group" union select {AGENT}, id from agent where id > 0'
        f"  union select {AGENT}, cast(name as integer) from clusterd_seen where kind = 'key'"
        "   and cast(name as integer) > 0) as unit where not exists"
        " (select 1 from clusterd_change c where c.kind = unit.kind and c.id = unit.id)"
    )


def _forget_replica(db: sqlite3.Connection) -> None:
    """Nothing of it counts twice."""
    db.execute(f"delete from {REPLICA_MARKS} where name != ?", (GREATEST,))
    db.execute(f"delete from {TOLD}")


def end_log(db: sqlite3.Connection) -> None:
    """Turns the log off: nothing of it is left, nor of a replica but the highest id. Inside a transaction."""
    drop_log(db)
    for table in (LIVES, TOLD):
        db.execute(f"drop table if exists {table}")
    if has_table(db, REPLICA_MARKS):
        db.execute(f"delete from {REPLICA_MARKS} where name != ?", (GREATEST,))
        if mark(db, GREATEST, REPLICA_MARKS) is None:
            db.execute(f"drop table {REPLICA_MARKS}")


def drop_log(db: sqlite3.Connection) -> None:
    """The log alone, not the lives that are over, nor what a replica has."""
    _drop_triggers(db)
    for table in ("clusterd_change", MARKS):
        db.execute(f"drop table if exists {table}")


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


def mark_end(db: sqlite3.Connection) -> None:
    """Moves the end of the log by one: who has it then has asked after this. Inside a transaction."""
    db.execute("update clusterd_change set seq = seq + 1 where seq = (select max(seq) from clusterd_change)")


# ---- reading ---------------------------------------------------------------------------------------------------------


def mark(db: sqlite3.Connection, name: str, table: str = MARKS) -> str | int | None:
    """A mark's value, None where there is none. The table exists."""
    row = db.execute(f"select value from {table} where name = ?", (name,)).fetchone()
    value = None if row is None else row[0]
    return value.decode() if isinstance(value, bytes) else value


def set_mark(db: sqlite3.Connection, name: str, value: str | int | None, table: str = MARKS) -> None:
    db.execute(f"insert or replace into {table} (name, value) values (?, ?)", (name, value))


def has_table(db: sqlite3.Connection, table: str) -> bool:
    return db.execute("select 1 from sqlite_master where type = 'table' and name = ?", (table,)).fetchone() is not None


def is_on(db: sqlite3.Connection) -> bool:
    return has_table(db, MARKS) and mark(db, EPOCH) is not None


def has_traces(db: sqlite3.Connection) -> bool:
    """Whether there is something for `end_log`."""
    return any(has_table(db, table) for table in (MARKS, LIVES, TOLD))


def greatest_id(db: sqlite3.Connection) -> int:
    """The highest agent id ever given, as far as this database remembers; 0 where it has neither a log nor was a
    replica."""
    return max(
        (int(mark(db, GREATEST, table) or 0) for table in (MARKS, REPLICA_MARKS) if has_table(db, table)), default=0
    )


def head(db: sqlite3.Connection) -> int:
    """The position of the last change."""
    return int(db.execute("select ifnull(max(seq), 0) from clusterd_change").fetchone()[0])


def last_change(db: sqlite3.Connection) -> int:
    """The same, without what an earlier version of this program noted beside changes."""
    found = db.execute("select ifnull(max(seq), 0) from clusterd_change where kind in (?, ?)", (AGENT, GROUP))
    return int(found.fetchone()[0])


def lives(db: sqlite3.Connection) -> list[LogLife]:
    """The lives that are over, the oldest first. None of a replica that an earlier version has made."""
    if not has_table(db, LIVES):
        return []
    found = db.execute(f"select epoch, ended, moved from {LIVES} order by number")
    return [
        LogLife(epoch.decode() if isinstance(epoch, bytes) else epoch, ended, moved) for epoch, ended, moved in found
    ]


def end_life(db: sqlite3.Connection, life: LogLife) -> None:
    """Adds it to those that are over; the oldest are forgotten."""
    db.execute(f"insert into {LIVES} (epoch, ended, moved) values (?, ?, ?)", life)
    db.execute(f"delete from {LIVES} where number <= (select max(number) from {LIVES}) - ?", (KEPT_LIVES,))


def earlier(db: sqlite3.Connection) -> int:
    """Up to where this log is that of an earlier life: all up to there may have been answered by somebody."""
    past = lives(db)
    return past[-1].ended if past else head(db)


def floor(db: sqlite3.Connection, table: str = MARKS) -> int:
    return int(mark(db, FLOOR, table) or 0)


def is_known(db: sqlite3.Connection, epoch: str, position: int) -> bool:
    """Whether what has changed since this position can be told. Deletions are forgotten only when a life begins, before
    anybody has a position of it: a full copy may have any up to the end."""
    return epoch == mark(db, EPOCH) and 0 <= position <= head(db)


class Joined(NamedTuple):
    """How a replica of one life becomes one of another: equal up to `position`; then all moments are moved, by each of
    `moved` in turn."""

    position: int
    moved: tuple[int, ...]


def joined(own: Sequence[LogLife], theirs: Sequence[LogLife]) -> Joined | None:
    """What a replica has in common with a log. The last of `own` is the life that it follows, `ended` at its settled
    position; the last of `theirs` has not ended. None: nothing, or nothing that can be told."""
    places = {life.epoch: place for place, life in enumerate(theirs)}
    for number in range(len(own) - 1, -1, -1):
        place = places.get(own[number].epoch)
        if place is None:
            continue
        if any(life.moved for life in own[number:-1]):
            return None  # its moments were moved on another way
        ended = [own[number].ended, *([] if place == len(theirs) - 1 else [theirs[place].ended])]
        return Joined(min(ended), tuple(life.moved for life in theirs[place:-1] if life.moved))
    return None


def changed_since(db: sqlite3.Connection, position: int, most: int) -> list[tuple[int, int, int]]:
    """(position, kind, id) of the units that have changed last after `position`, the oldest first."""
    return db.execute(
        "select seq, kind, id from clusterd_change where seq > ? order by seq limit ?", (position, most)
    ).fetchall()


def behind(db: sqlite3.Connection, position: int, upto: int = sys.maxsize) -> int:
    """How many units have changed since, up to a position."""
    found = db.execute("select count(*) from clusterd_change where seq > ? and seq <= ?", (position, upto))
    return int(found.fetchone()[0])

"""One database file of a candidate's replica, with its position."""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from clusterd.database_copy import copy_database
from clusterd.messages.replica import Changes
from clusterd.open_database import OpenDatabase
from clusterd.rundir import COPY_FILE, REPLICA_FILE
from clusterd.store import change_log, schema
from clusterd.store.change_log import (
    AGENT,
    EPOCH,
    FLOOR,
    GREATEST,
    LIVES,
    REPLICA_MARKS,
    SETTLED,
    TOLD,
    Joined,
    LogLife,
    end_life,
    floor,
    joined,
    lives,
    mark,
    set_mark,
)
from clusterd.store.replica_source import unpack_units
from clusterd.store.table import UNANSWERED
from clusterd.store.units import Unit, parts_of, write_units
from hashing.atomic import sync_path

POSITION, WHOLE, HEARD, CHECKED, EQUAL = "position", "whole", "heard", "checked", "equal"
"""Names of marks, beside those of the change log. Wall-clock seconds: at which the copy was whole, the master was
heard, digests were compared. `equal`: 1 if they were."""
TELLER, OLD, NEW, NEW_AT = "teller", "old", "new", "new_at"
"""Names of marks: Changes.teller; a settled position that is at least OLD_S old; a newer one, and its moment."""
OLD_S = 300
"""What a master has told so long ago is on its disk, however its power ended: not in a snapshot from before."""


class ReplicaDb:
    """`epoch`, `position`: up to where it was told of which log; `settled`: see change_log.py."""

    def __init__(self, root: str, name: str) -> None:
        """Creates it if it is missing. Raises sqlite3.Error, OSError, StartFailure."""
        self.path = Path(root) / name
        is_new = not self.path.exists()
        self._written: set[int] | None = set() if is_new else None
        """Agents of which this file has something; None: not known, since it was begun by another process."""
        db = schema.connect(root, name=name)
        try:
            self.path.chmod(0o600)
            db.execute("pragma journal_mode = wal").fetchone()
            # A membership may come before its group.
            db.execute("pragma foreign_keys = off")
            if name == REPLICA_FILE:
                # The master is told that this replica holds a change: then it must be on the disk.
                db.execute("pragma synchronous = full")
            schema.make(db, str(self.path), is_copy=True)
            if is_new and name == COPY_FILE:
                schema.drop_indexes(db)
            self._make_tables(db)
            db.text_factory = bytes
            self.epoch = str(mark(db, EPOCH, REPLICA_MARKS) or "")
            self.position = int(mark(db, POSITION, REPLICA_MARKS) or 0)
            settled = mark(db, SETTLED, REPLICA_MARKS)
            self.settled = None if settled is None else int(settled)
            """The last position at which it was equal to the master's; None: of an earlier version, or not whole
            yet."""
            self.whole_at = float(mark(db, WHOLE, REPLICA_MARKS) or 0)
            self.file = OpenDatabase(str(self.path))
        except BaseException:
            db.close()
            raise
        self.db = db

    @staticmethod
    def _make_tables(db: sqlite3.Connection) -> None:
        """An earlier version did not note which units it was told of: nothing is known of those before now."""
        db.execute("begin immediate")
        with db:
            is_noted = change_log.has_table(db, TOLD)
            change_log.make_replica_tables(db)
            if not is_noted:
                set_mark(db, FLOOR, int(mark(db, POSITION, REPLICA_MARKS) or 0), REPLICA_MARKS)

    def write(self, changes: Changes) -> list[Unit]:
        """Applies the changes and returns their units. Raises sqlite3.Error, ValueError: nothing is changed."""
        with self._transaction():
            if changes.epoch != self.epoch:
                self._set_past(changes)
            units = self._put(changes)
        self._is_now(changes)
        return units

    def join(self, found: Joined, offer: Changes, answers: Sequence[Changes]) -> None:
        """Makes it a replica of another log, all or nothing: `offer` says what that has in common, `answers` are all
        that is different. Raises sqlite3.Error, ValueError: nothing is changed."""
        with self._transaction():
            for by_us in found.moved:
                schema.move_moments(self.db, by_us)
            self._set_past(offer)
            for name in (OLD, NEW):
                if (self.moment(name) or 0) > found.position:
                    set_mark(self.db, name, found.position, REPLICA_MARKS)
            for changes in answers:
                self._put(changes)
        self._is_now(answers[-1])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        db = self.db
        if db.in_transaction:
            db.execute("rollback")
        db.execute("begin immediate")
        with db:
            yield

    def _set_past(self, changes: Changes) -> None:
        """Records the past lives of the log that it follows from here on."""
        self.db.execute(f"delete from {LIVES}")
        for life in changes.past:
            end_life(self.db, LogLife(*life))
        # It can tell others only of changes that it was told of itself.
        set_mark(self.db, FLOOR, max(changes.floor, floor(self.db, REPLICA_MARKS)), REPLICA_MARKS)

    def _put(self, changes: Changes) -> list[Unit]:
        """Inside a transaction."""
        units = unpack_units(changes.units)
        db, written = self.db, self._written
        unknown = set[int]()
        if written is not None:
            unknown = {unit.id for unit in units if unit.kind == AGENT and unit.id not in written}
        # In a full copy there is nothing to compare with.
        parts = {unit.id: parts_of(unit) for unit in units if unit.kind == AGENT} if written is None else {}
        write_units(db, units, unknown, self._with_these_parts(parts))
        # Each at the position of its change or behind it; no two at the same one, as far as there are so many.
        first, least = changes.upto - len(units) + 1, changes.since + 1
        told = [(unit.kind, unit.id, max(first + place, least)) for place, unit in enumerate(units)]
        if parts:
            with_parts = [(*one, parts.get(one[1]) if one[0] == AGENT else None) for one in told]
            db.executemany(f"insert or replace into {TOLD} (kind, id, at, parts) values (?, ?, ?, ?)", with_parts)
        else:
            db.executemany(f"insert or replace into {TOLD} (kind, id, at) values (?, ?, ?)", told)
        for kind, name in (("boot", changes.boot), ("wall", changes.wall)):
            db.execute("delete from clusterd_seen where kind = ?", (kind,))
            db.execute("insert into clusterd_seen (kind, name) values (?, ?)", (kind, name))
        db.execute("delete from clusterd_seen where kind = ?", (UNANSWERED,))
        names = [(UNANSWERED, str(one)) for one in changes.unanswered]
        db.executemany("insert or ignore into clusterd_seen (kind, name) values (?, ?)", names)
        set_mark(db, EPOCH, changes.epoch, REPLICA_MARKS)
        set_mark(db, POSITION, changes.upto, REPLICA_MARKS)
        set_mark(db, HEARD, int(time.time()), REPLICA_MARKS)
        set_mark(db, TELLER, changes.teller, REPLICA_MARKS)
        set_mark(db, GREATEST, max(changes.greatest, int(mark(db, GREATEST, REPLICA_MARKS) or 0)), REPLICA_MARKS)
        if changes.behind == 0:
            set_mark(db, SETTLED, changes.upto, REPLICA_MARKS)
            self._note_age(changes.upto)
            if not self.whole_at:
                set_mark(db, WHOLE, int(time.time()), REPLICA_MARKS)
        if written is not None:
            written |= unknown
        return units

    def _note_age(self, position: int) -> None:
        now = int(time.time())
        if abs(now - (self.moment(NEW_AT) or 0.0)) >= OLD_S:
            for name, value in ((OLD, int(self.moment(NEW) or 0)), (NEW, position), (NEW_AT, now)):
                set_mark(self.db, name, value, REPLICA_MARKS)

    def _with_these_parts(self, parts: dict[int, int]) -> set[int]:
        """Returns the agents that were last told of with these parts."""
        if not parts:
            return set()
        found = self.db.execute(
            f"select id, parts from {TOLD} where kind = {AGENT} and id in (select value from json_each(?))",
            (json.dumps([*parts]),),
        )
        return {one for one, there in found if there == parts[one]}

    def _is_now(self, changes: Changes) -> None:
        self.epoch, self.position = changes.epoch, changes.upto
        if changes.behind == 0:
            self.settled = changes.upto
        self.whole_at = float(mark(self.db, WHOLE, REPLICA_MARKS) or 0)

    def joined(self, offer: Changes) -> Joined | None:
        """Returns what the replica has in common with the log of an offer; None if that cannot be known. Raises
        sqlite3.Error."""
        if self.settled is None:
            return None
        own = [*lives(self.db), LogLife(self.epoch, self.settled)]
        found = joined(own, [*(LogLife(*life) for life in offer.past), LogLife(offer.epoch, 0)])
        lowest = max(1, offer.floor, floor(self.db, REPLICA_MARKS))
        return found if found is not None and found.position >= lowest else None

    def told_since(self, position: int) -> list[tuple[int, int]]:
        """The units (kind, id) that were told after it. Raises sqlite3.Error."""
        return self.db.execute(f"select kind, id from {TOLD} where at > ?", (position,)).fetchall()

    def lost_by(self, offer: Changes, found: Joined) -> int:
        """How many units the master of this offer lacks that it told of itself long ago: its disk was set back. 0: it
        lacks none, another master has told of them, or only what a power failure may take. Raises sqlite3.Error."""
        teller = mark(self.db, TELLER, REPLICA_MARKS)
        if not offer.teller or offer.teller != teller or found.position >= (self.moment(OLD) or 0):
            return 0
        return len(self.told_since(found.position))

    @property
    def past(self) -> list[LogLife]:
        return lives(self.db)

    def make_whole(self) -> None:
        """Ends a full copy. Raises sqlite3.Error."""
        self.db.execute("begin immediate")
        with self.db:
            schema.make_indexes(self.db)

    def note_compared(self, is_equal: bool) -> None:
        """Raises sqlite3.Error."""
        self.db.execute("begin immediate")
        with self.db:
            set_mark(self.db, CHECKED, int(time.time()), REPLICA_MARKS)
            set_mark(self.db, EQUAL, int(is_equal), REPLICA_MARKS)

    def moment(self, name: str) -> float | None:
        value = mark(self.db, name, REPLICA_MARKS)
        return None if value is None else float(value)

    @property
    def is_equal(self) -> bool | None:
        """What the last comparison said; None before the first."""
        value = mark(self.db, EQUAL, REPLICA_MARKS)
        return None if value is None else value == 1

    def close(self) -> None:
        """What was written is in the file itself afterwards, and no journal stays beside it."""
        self.db.close()


# ---- of a node that leads no more ------------------------------------------------------------------------------------


def own_as_replica(root: str) -> str:
    """Makes a replica of a former master's agent database, up to the last change of its time. So the node goes on with
    the next master's log from the position that both have in common, instead of copying everything. Replaces what is in
    the way; nobody else may use either file. Returns what was done. Raises OSError, sqlite3.Error: nothing is
    changed."""
    own, new = Path(root) / schema.DATABASE, Path(root) / f"{REPLICA_FILE}.own"
    if not own.is_file():
        return "there is no agent database"
    new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_file(new)
    with contextlib.closing(schema.connect(root)) as db:
        if not change_log.is_on(db) or change_log.has_moved(db):
            return "its agent database has no change log to go on from: all agents are copied"
    copy_database(own, new, 0o600)
    with contextlib.closing(schema.connect(root, name=f"{REPLICA_FILE}.own")) as db:
        db.execute("begin immediate")
        with db:
            _make_replica(db)
        db.execute("pragma wal_checkpoint(truncate)").fetchone()
    if Path(f"{new}-wal").exists():
        raise OSError(f"{new}-wal stays behind: another program uses the file")
    sync_path(new)
    remove_file(Path(root) / COPY_FILE)
    for left in ("-wal", "-shm"):
        Path(f"{root}/{REPLICA_FILE}{left}").unlink(missing_ok=True)
    os.replace(new, Path(root) / REPLICA_FILE)
    sync_path(new.parent)
    return "its agent database is the replica from which it goes on"


def _make_replica(db: sqlite3.Connection) -> None:
    """Inside a transaction, of a database with a change log."""
    change_log.make_replica_tables(db)
    now, last = int(time.time()), change_log.head(db)
    marks = {name: mark(db, name) for name in (EPOCH, GREATEST, FLOOR)}
    db.execute(f"delete from {TOLD}")
    db.execute(f"insert into {TOLD} (kind, id, at) select kind, id, seq from clusterd_change")
    db.execute(f"delete from {REPLICA_MARKS}")
    for name, value in (marks | {POSITION: last, SETTLED: last, WHOLE: now, HEARD: now}).items():
        set_mark(db, name, value, REPLICA_MARKS)
    change_log.drop_log(db)


def remove_file(path: Path) -> None:
    """A database file and what SQLite keeps beside it."""
    for part in ("-wal", "-shm", ""):
        Path(f"{path}{part}").unlink(missing_ok=True)

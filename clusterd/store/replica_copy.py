"""A candidate's side of a replica: `queue/cluster/.clusterd/replica/replica.db`, a copy of the master's agent database
in a file of its own, beside the agent database that this node works with.

The file is always a whole replica at the position that it says. A full copy is made in `copy.db`, which takes the
replica's place when it is whole; both go on where they stopped, whoever was killed when.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from clusterd.errors import StartFailure
from clusterd.messages.replica import AskChanges, Changes
from clusterd.rundir import COPY_FILE, REPLICA_DIR, REPLICA_FILE
from clusterd.store import schema
from clusterd.store.change_log import AGENT, EPOCH, GREATEST, REPLICA_MARKS, mark, set_mark
from clusterd.store.replica_source import SLICES, unpack_units
from clusterd.store.units import Unit, UnitDigest, digest_of, write_units

T = TypeVar("T")
POSITION, WHOLE, HEARD, CHECKED, EQUAL = "position", "whole", "heard", "checked", "equal"
"""Names of marks, beside those of the change log. Wall-clock seconds: at which the copy was whole, the master was
heard, digests were compared. `equal`: 1 if they were."""
DIGEST_S = 60.0
DOUBT_S = 600.0
"""A replica that differs is copied anew at once, and again only after this time."""
COPYING, FOLLOWING = "copying", "following"
_MARKS = f"create table if not exists {REPLICA_MARKS} (name text primary key, value) without rowid"


class _ReplicaDb:
    """One database file with its position."""

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
                # What is answered as held is on the disk.
                db.execute("pragma synchronous = full")
            schema.make(db, str(self.path), is_copy=True)
            if is_new and name == COPY_FILE:
                schema.drop_indexes(db)
            db.execute(_MARKS)
            db.text_factory = bytes
            self.epoch = str(mark(db, EPOCH, REPLICA_MARKS) or "")
            self.position = int(mark(db, POSITION, REPLICA_MARKS) or 0)
            self.whole_at = float(mark(db, WHOLE, REPLICA_MARKS) or 0)
        except BaseException:
            db.close()
            raise
        self.db = db

    def write(self, changes: Changes) -> list[Unit]:
        """Applies them; which units there were. Raises sqlite3.Error, ValueError: nothing is changed."""
        units = unpack_units(changes.units)
        db, written = self.db, self._written
        unknown = set[int]()
        if written is not None:
            unknown = {unit.id for unit in units if unit.kind == AGENT and unit.id not in written}
        if db.in_transaction:
            db.execute("rollback")
        db.execute("begin immediate")
        with db:
            write_units(db, units, unknown)
            for kind, name in (("boot", changes.boot), ("wall", changes.wall)):
                db.execute("delete from clusterd_seen where kind = ?", (kind,))
                db.execute("insert into clusterd_seen (kind, name) values (?, ?)", (kind, name))
            set_mark(db, EPOCH, changes.epoch, REPLICA_MARKS)
            set_mark(db, POSITION, changes.upto, REPLICA_MARKS)
            set_mark(db, HEARD, int(time.time()), REPLICA_MARKS)
            set_mark(db, GREATEST, max(changes.greatest, int(mark(db, GREATEST, REPLICA_MARKS) or 0)), REPLICA_MARKS)
            if changes.behind == 0 and not self.whole_at:
                set_mark(db, WHOLE, int(time.time()), REPLICA_MARKS)
        if written is not None:
            written |= unknown
        self.epoch, self.position = changes.epoch, changes.upto
        self.whole_at = float(mark(db, WHOLE, REPLICA_MARKS) or 0)
        return units

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


class ReplicaCopy:
    """Owns the files and the thread that uses them. Methods raise sqlite3.Error, OSError, ValueError, StartFailure."""

    def __init__(
        self, root: str, *, say: Callable[[str, str], None], digest_s: float = DIGEST_S, priority: int = 0
    ) -> None:
        """`priority`: in an election; 0: this node takes no part in one."""
        self._root = root
        self._priority = priority
        self._say = say
        self._digest_s = digest_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-replica")
        self._replica: _ReplicaDb | None = None
        self._copy: _ReplicaDb | None = None
        self._is_open = False
        self._digest: UnitDigest | None = None
        self._slice = 0
        self._is_closing = False
        self._compare_at = 0.0
        self._doubted_at = -DOUBT_S
        self._behind = 0

    def close(self) -> None:
        self._is_closing = True
        self._thread.shutdown()
        self._close_files()

    def _close_files(self) -> None:
        for file in (self._replica, self._copy):
            if file is not None:
                file.close()
        self._replica = self._copy = None
        self._is_open = False

    async def first(self) -> AskChanges:
        """What to ask on a new link."""
        return await self._run(self._first)

    async def apply(self, changes: Changes) -> AskChanges:
        """Writes them; what to ask next."""
        return await self._run(self._apply, changes)

    async def shown(self) -> dict[str, Any]:
        return await self._run(self._shown)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # ---- in the thread -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._is_open:
            return
        (Path(self._root) / REPLICA_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._replica = self._opened(REPLICA_FILE)
        self._copy = self._opened(COPY_FILE)
        self._is_open = True

    def _opened(self, name: str) -> _ReplicaDb | None:
        path = Path(self._root) / name
        if not path.exists():
            return None
        try:
            return _ReplicaDb(self._root, name)
        except (sqlite3.DatabaseError, StartFailure) as failure:
            if isinstance(failure, sqlite3.Error) and not schema.is_damage(failure):
                raise
            # Damaged, or of another version: it is worth nothing, the master has everything.
            self._say("WARNING", f"{path} is made anew: {failure}")
            _remove(path)
            return None

    @property
    def _target(self) -> _ReplicaDb | None:
        return self._copy or self._replica

    def _first(self) -> AskChanges:
        self._open()
        return self._ask()

    def _ask(self) -> AskChanges:
        target, replica = self._target, self._replica
        held = replica.position if replica is not None and target is not None and replica.epoch == target.epoch else 0
        due = self._copy is None and replica is not None and time.monotonic() >= self._compare_at
        return AskChanges(
            "" if target is None else target.epoch,
            0 if target is None else target.position,
            held,
            due,
            FOLLOWING if self._copy is None and replica is not None else COPYING,
            None if replica is None else replica.moment(CHECKED),
            None if replica is None else replica.is_equal,
            self._priority,
        )

    def _apply(self, changes: Changes) -> AskChanges:
        self._open()
        target = self._target
        if target is None or (changes.epoch, changes.since) != (target.epoch, target.position):
            if changes.since:
                # An answer to another question: ask again.
                return self._ask()
            is_new = self._copy is not None and not self._copy.epoch
            target = self._copy if is_new and self._copy is not None else self._begin_copy()
        try:
            written = target.write(changes)
        except sqlite3.DatabaseError as failure:
            if schema.is_damage(failure):
                self._close_files()
                _remove(target.path)
            raise
        self._behind = changes.behind
        if target is self._copy:
            if changes.behind == 0:
                self._end_copy(target)
        elif self._digest is not None:
            for unit in written:
                self._digest.put((unit.kind, unit.id), digest_of(unit))
        if changes.digest and self._copy is None:
            self._compare(changes.digest)
        return self._ask()

    def _begin_copy(self) -> _ReplicaDb:
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        _remove(Path(self._root) / COPY_FILE)
        self._copy = _ReplicaDb(self._root, COPY_FILE)
        self._say("INFO", "A full copy of the master's agent database begins.")
        return self._copy

    def _end_copy(self, copy: _ReplicaDb) -> None:
        """The copy takes the replica's place."""
        copy.make_whole()
        self._close_files()
        for left in (f"{copy.path}-wal", f"{self._root}/{REPLICA_FILE}-wal"):
            if os.path.exists(left):
                # Its changes are not in the file: begin anew.
                _remove(copy.path)
                raise OSError(f"{left} stays behind: another program uses the file")
        _on_disk(copy.path)
        os.replace(copy.path, Path(self._root) / REPLICA_FILE)
        _on_disk(copy.path.parent)
        self._digest, self._compare_at = None, 0.0
        self._open()
        assert self._replica is not None
        (count,) = self._replica.db.execute("select count(*) from agent where id > 0").fetchone()
        self._say("INFO", f"The replica is whole: {count} agents.")

    def _compare(self, theirs: str) -> None:
        assert self._replica is not None
        db = self._replica.db
        if self._digest is None:
            digest = UnitDigest(lambda: self._is_closing)
            digest.read_all(db)
            self._digest = digest
        else:
            self._slice = (self._slice + 1) % SLICES
            self._digest.read_again(db, self._digest.slice(self._slice, SLICES))
        is_equal, was_equal = theirs == self._digest.text, self._replica.is_equal
        self._replica.note_compared(is_equal)
        self._compare_at = time.monotonic() + self._digest_s
        if is_equal:
            return
        again_s = max(0.0, self._doubted_at + DOUBT_S - time.monotonic())
        if not again_s or was_equal is not False:
            when = f"in {again_s:.0f} s" if again_s else "now"
            self._say("WARNING", f"The replica differs from the master's agent database. It is copied anew {when}.")
        if not again_s:
            self._doubted_at = time.monotonic()
            self._begin_copy()

    def _shown(self) -> dict[str, Any]:
        self._open()
        replica, target = self._replica, self._target
        reason = ""
        if replica is None:
            reason = "the replica is not whole yet"
        elif self._copy is not None:
            reason = "the replica is copied anew"
        elif replica.is_equal is False:
            reason = "its digest differed"
        return {
            "role": "candidate",
            "state": COPYING if replica is None or self._copy is not None else FOLLOWING,
            "epoch": None if target is None else target.epoch,
            "position": None if replica is None else replica.position,
            "copied": None if self._copy is None else self._copy.position,
            "lag": None if target is None else self._behind,
            "greatest_id": None if replica is None else mark(replica.db, GREATEST, REPLICA_MARKS),
            "whole_at": None if replica is None else replica.whole_at or None,
            "heard_at": None if replica is None else replica.moment(HEARD),
            "digest_at": None if replica is None else replica.moment(CHECKED),
            "digest_equal": None if replica is None else replica.is_equal,
            "may_not_lead": reason or None,
        }


def _remove(path: Path) -> None:
    for part in ("-wal", "-shm", ""):
        Path(f"{path}{part}").unlink(missing_ok=True)


def _on_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""A candidate's side of a replica: `queue/cluster/.clusterd/replica/replica.db`, a copy of the master's agent database
in a file of its own, beside the agent database that this node works with.

The file is always a whole replica at the position that it says. A full copy is made in `copy.db`, which takes the
replica's place when it is whole; both go on where they stopped, if this process was killed. Where the master's log is
another one that has something in common with the replica's (change_log.py), what differs is collected in memory and
written in one transaction.
"""

import asyncio
import itertools
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from clusterd.errors import StartFailure
from clusterd.messages.replica import MOST_AGAIN, AskChanges, Changes
from clusterd.rundir import COPY_FILE, REPLICA_DIR, REPLICA_FILE
from clusterd.store import schema
from clusterd.store.change_log import GREATEST, REPLICA_MARKS, Joined, mark
from clusterd.store.first_digest import FirstDigest, is_small
from clusterd.store.replica_db import CHECKED, HEARD, ReplicaDb, remove_file
from clusterd.store.replica_source import KEPT_PAST, SLICES, unpack_units
from clusterd.store.units import UnitDigest, digest_of
from hashing.atomic import sync_path

T = TypeVar("T")
DIGEST_S = 60.0
DOUBT_S = 600.0
"""A replica that differs is copied anew at once, and again only after this time."""
COPYING, FOLLOWING = "copying", "following"
MOST_JOIN_BYTES = 8 * 1024 * 1024
"""Of compressed units that wait in memory: who lacks more copies everything, beside the replica."""
DIFFERED = "its digest differed"
OBJECTION_S = 10.0
"""What this node's election said last counts for so long."""


class _Join(msgspec.Struct):
    """A replica becomes one of another log: what that offered, what both have in common, `answers` up to `upto`, which
    wait in memory; and the units that this replica alone was told of and that have to come again."""

    offer: Changes
    found: Joined
    upto: int
    again: dict[tuple[int, int], None]
    answers: list[Changes] = []
    size: int = 0

    @property
    def next_again(self) -> tuple[tuple[int, int], ...]:
        return tuple(itertools.islice(self.again, MOST_AGAIN))


class ReplicaCopy:
    """Owns the files and the thread that uses them. Methods raise sqlite3.Error, OSError, ValueError, StartFailure."""

    def __init__(
        self,
        root: str,
        *,
        say: Callable[[str, str], None],
        digest_s: float = DIGEST_S,
        priority: int = 0,
    ) -> None:
        """`priority`: in an election; 0: this node takes no part in one."""
        self._root = root
        self._priority = priority
        self._objection, self._objected_at = "its election has not said yet that it may lead", float("-inf")
        self._say = say
        self._digest_s = digest_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-replica")
        self._replica: ReplicaDb | None = None
        self._copy: ReplicaDb | None = None
        self._is_open = False
        self._digest: UnitDigest | None = None
        self._first_digest: FirstDigest | None = None
        self._first_failed = False
        """It is read at once then, so that each round fails until it can be read."""
        self._slice = 0
        self._is_closing = False
        self._compare_at = 0.0
        self._doubted_at = -DOUBT_S
        self._behind = 0
        self._join: _Join | None = None
        self._lacking = "", 0
        """As AskChanges.lacking and lost."""
        self._joins = True
        """Whether an offer is wanted; not after one that could not be used, until the copy has begun."""

    def close(self) -> None:
        self._is_closing = True
        self._thread.shutdown()
        self._close_files()

    def _close_files(self) -> None:
        self._give_up_digest()
        for file in (self._replica, self._copy):
            if file is not None:
                file.close()
        self._replica = self._copy = self._join = None
        self._is_open = False

    async def first(self) -> AskChanges:
        """What to ask on a new link."""
        return await self._run(self._first)

    async def apply(self, changes: Changes) -> AskChanges:
        """Writes them; what to ask next."""
        return await self._run(self._apply, changes)

    def object(self, why: str) -> None:
        """This node's election says whether it may lead; empty: it may. It has to say so again and again."""
        self._objection, self._objected_at = why, time.monotonic()

    async def shown(self) -> dict[str, Any]:
        return await self._run(self._shown)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # ---- in the thread -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._let_go_of_moved()
        if self._is_open:
            return
        (Path(self._root) / REPLICA_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._replica = self._opened(REPLICA_FILE)
        self._copy = self._opened(COPY_FILE)
        self._is_open = True

    def _let_go_of_moved(self) -> None:
        """A file that another program has removed or replaced is no replica, whatever is written into it."""
        for file in (self._replica, self._copy):
            what = "" if file is None else file.file.look()
            if file is not None and what:
                self._say("WARNING", f"Another program has {what} {file.path} while it was in use.")
                self._close_files()
                file.file.remove_journal()
                self._digest, self._compare_at = None, 0.0
                return

    def _opened(self, name: str) -> ReplicaDb | None:
        path = Path(self._root) / name
        if not path.exists():
            return None
        try:
            return ReplicaDb(self._root, name)
        except (sqlite3.DatabaseError, StartFailure) as failure:
            if isinstance(failure, sqlite3.Error) and not schema.is_damage(failure):
                raise
            # Damaged, or of another version: it is worth nothing, the master has everything.
            self._say("WARNING", f"{path} is made anew: {failure}")
            remove_file(path)
            return None

    @property
    def _target(self) -> ReplicaDb | None:
        return self._copy or self._replica

    def _first(self) -> AskChanges:
        self._open()
        return self._ask()

    def _ask(self) -> AskChanges:
        self._open()  # what is said to be held is in the file of that name
        target, replica, join = self._target, self._replica, self._join
        is_whole = self._copy is None and replica is not None
        held = 0
        if replica is not None and target is not None and replica.epoch == target.epoch and join is None:
            held = replica.settled or 0
        objection = self._objection_now()
        ask = AskChanges(
            "" if target is None else target.epoch,
            0 if target is None else target.position,
            held,
            is_whole and join is None and time.monotonic() >= self._compare_at and self._has_digest(),
            FOLLOWING if is_whole and join is None else COPYING,
            None if replica is None else replica.moment(CHECKED),
            None if replica is None else replica.is_equal,
            0 if objection else self._priority,
            objection,
            joins=is_whole and self._joins and replica is not None and replica.settled is not None,
            lacking=self._lacking[0],
            lost=self._lacking[1],
        )
        if join is not None:
            ask = msgspec.structs.replace(ask, epoch=join.offer.epoch, since=join.upto, again=join.next_again)
        return ask

    def _objection_now(self) -> str:
        if not self._priority:
            return ""
        if self._replica is not None and self._replica.is_equal is False:
            return DIFFERED
        is_old = time.monotonic() > self._objected_at + OBJECTION_S
        return self._objection or ("its election says nothing" if is_old else "")

    def _apply(self, changes: Changes) -> AskChanges:
        self._open()
        if changes.is_offer:
            self._consider(changes)
            return self._ask()
        if self._join is not None and self._joined(self._join, changes):
            return self._ask()
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
            self._give_up_if_damaged(target, failure)
            raise
        self._behind = changes.behind
        if target is self._copy:
            if changes.behind == 0:
                self._end_copy(target)
        elif self._digest is not None or self._first_digest is not None:
            put = self._digest.put if self._digest is not None else self._first_digest.note  # type: ignore[union-attr]
            for unit in written:
                put((unit.kind, unit.id), digest_of(unit))
        if changes.digest and self._copy is None and self._first_digest is None:
            self._compare(changes.digest)
        return self._ask()

    def _give_up_if_damaged(self, target: ReplicaDb, failure: sqlite3.DatabaseError) -> None:
        if schema.is_damage(failure):
            self._close_files()
            remove_file(target.path)

    # ---- another log -------------------------------------------------------------------------------------------------

    def _consider(self, offer: Changes) -> None:
        """The master's log is another one: what has the replica in common with it?"""
        replica, self._join = self._replica, None
        found = None if replica is None or self._copy is not None else replica.joined(offer)
        if replica is None or found is None:
            self._joins = False
            return
        again = replica.told_since(found.position)
        lost = replica.lost_by(offer, found)
        self._lacking = (offer.epoch, lost) if lost else ("", 0)
        if lost:
            return  # this replica may be all that there is of them
        self._join = _Join(offer, found, found.position, dict.fromkeys(again))

    def _joined(self, join: _Join, changes: Changes) -> bool:
        """Takes an answer to `_ask` while joining; whether it was one. With the last one the replica is another's."""
        if (changes.epoch, changes.since) != (join.offer.epoch, join.upto):
            self._join = None
            return False
        for unit in unpack_units(changes.units) if join.again else ():
            join.again.pop((unit.kind, unit.id), None)
        join.answers.append(changes)
        join.size += len(changes.units)
        join.upto = changes.upto
        if join.size > MOST_JOIN_BYTES:
            self._joins, self._join = False, None
        elif changes.behind == 0 and not join.again:
            self._end_join(join)
        return True

    def _end_join(self, join: _Join) -> None:
        replica, self._join = self._replica, None
        assert replica is not None
        try:
            replica.join(join.found, join.offer, join.answers)
        except sqlite3.DatabaseError as failure:
            self._give_up_if_damaged(replica, failure)
            raise
        self._give_up_digest()
        self._digest, self._compare_at, self._behind = None, 0.0, 0
        text = f"The replica goes on with the log of the master of now, from position {join.found.position} on."
        self._say("INFO", text)

    def _begin_copy(self) -> ReplicaDb:
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        remove_file(Path(self._root) / COPY_FILE)
        self._copy = ReplicaDb(self._root, COPY_FILE)
        self._joins, self._join = True, None
        self._say("INFO", "A full copy of the master's agent database begins.")
        return self._copy

    def _end_copy(self, copy: ReplicaDb) -> None:
        """The copy takes the replica's place."""
        copy.make_whole()
        self._close_files()
        for left in (f"{copy.path}-wal", f"{self._root}/{REPLICA_FILE}-wal"):
            if os.path.exists(left):
                # Its changes are not in the file: begin anew.
                remove_file(copy.path)
                raise OSError(f"{left} stays behind: another program uses the file")
        sync_path(copy.path)
        os.replace(copy.path, Path(self._root) / REPLICA_FILE)
        sync_path(copy.path.parent)
        self._digest, self._compare_at = None, 0.0
        self._open()
        assert self._replica is not None
        (count,) = self._replica.db.execute("select count(*) from agent where id > 0").fetchone()
        self._say("INFO", f"The replica is whole: {count} agents.")

    def _has_digest(self) -> bool:
        """Whether there is a digest to compare, or it is read soon enough; begins to read the first one. Raises what
        that raised."""
        assert self._replica is not None
        if self._digest is None and self._first_digest is None:
            if self._first_failed or is_small(self._replica.db):
                return True
            db = schema.connect(self._root, readonly=True, name=REPLICA_FILE)
            db.text_factory = bytes
            self._first_digest = FirstDigest(db, lambda: self._is_closing)
        elif self._first_digest is not None and self._first_digest.has_ended:
            ended, self._first_digest, self._first_failed = self._first_digest, None, True
            self._digest, self._first_failed = ended.take(), False
        return self._digest is not None

    def _give_up_digest(self) -> None:
        self._first_failed = False
        if self._first_digest is not None:
            self._first_digest.close()
            self._first_digest = None

    def _compare(self, theirs: str) -> None:
        assert self._replica is not None
        db = self._replica.db
        if self._digest is None:
            digest = UnitDigest(lambda: self._is_closing)
            digest.read_all(db)
            self._digest, self._first_failed = digest, False
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
            reason = DIFFERED
        return {
            "role": "candidate",
            "state": COPYING if replica is None or self._copy is not None else FOLLOWING,
            "epoch": None if target is None else target.epoch,
            "past": [] if target is None else [life[:2] for life in target.past[-KEPT_PAST:]],
            "position": None if replica is None else replica.settled or 0,
            "copied": None if self._copy is None else self._copy.position,
            "lag": None if target is None else self._behind,
            "greatest_id": None if replica is None else mark(replica.db, GREATEST, REPLICA_MARKS),
            "whole_at": None if replica is None else replica.whole_at or None,
            "heard_at": None if replica is None else replica.moment(HEARD),
            "digest_at": None if replica is None else replica.moment(CHECKED),
            "digest_equal": None if replica is None else replica.is_equal,
            "may_not_lead": reason or None,
        }

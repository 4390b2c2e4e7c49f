"""A master's side of a replica: answers candidates from the change log."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import lz4.block
import msgspec

from clusterd.messages.replica import COMPARED_S, MOST_AGAIN, WAIT_S, AskChanges, Changes
from clusterd.store import change_log, schema, table
from clusterd.store.candidates import FOLLOWING, Candidates
from clusterd.store.change_log import KINDS
from clusterd.store.confirming import ConfirmingChoice
from clusterd.store.first_digest import FirstDigest, is_small
from clusterd.store.units import ENCODER, PIECE, Unit, UnitDigest, digest_of, read_units

T = TypeVar("T")
PACE_S = 2.0
"""A candidate that has everything is told of changes this often; at once when somebody waits for it."""
ANSWER_BYTES = 32 * 1024
"""Size of the units of an answer, compressed. A single unit may be larger."""
RAW_BYTES = 128 * 1024
MOST_RAW_BYTES = 1024 * 1024
MOST_UNIT_BYTES = 512 * 1024
SLICES = 60
"""Each digest reads one of this many slices of all units again, even if the log says that they have not changed."""
OBJECTING_S = 0.5
"""A candidate that may not lead is answered this soon, whatever there is: its next question says when it may, and after
a change of master registrations wait for that."""
KEPT_PAST = 8
"""So many lives of the log are told to the election."""
MOST_UNANSWERED = 1000
MOST_TOLD = 50_000
"""How many units that were read for answers are kept, so that the digest need not read them again."""
COUNTED = 10_000
"""How many units a candidate lacks is counted in each answer up to here."""


class SetBack(ValueError):
    """This master's disk was set back: a candidate has what it lacks."""


class UnitTooLarge(ValueError):
    """One agent has more than an answer can hold."""


class ReplicaSource:
    """Owns a connection and the thread that uses it."""

    def __init__(
        self,
        root: str,
        *,
        synchronous: bool,
        limit_s: float,
        say: Callable[[str, str], None],
        pace_s: float = PACE_S,
        teller: str = "",
        is_promoted: bool = False,
        set_back: Callable[[str, int], None] = lambda node, lost: None,
    ) -> None:
        """The log is on. `teller`: see Changes. `is_promoted`: just now, so its disk is that of now. `set_back`: called
        when this candidate has so many units that this master lacks, though it told of them. Raises sqlite3.Error."""
        self._root = root
        self._db = self._connect()
        self._pace_s = pace_s
        self._epoch = str(change_log.mark(self._db, change_log.EPOCH))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-replica")
        self._ahead: dict[str, tuple[AskChanges, asyncio.Future[Changes]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._commits = 0
        self._raw_bytes = RAW_BYTES
        self._most = PIECE
        """How many units are read for an answer: somewhat more than fitted into the last one."""
        self._left = 0, 0
        """Position of the last answer that was not the end of the log, and how many units have changed since."""
        self._digest: UnitDigest | None = None
        self._first_digest: FirstDigest | None = None
        self._first_failed = False
        """It is read at once then, so that each answer fails until it can be read."""
        self._digest_at = 0
        self._told: dict[tuple[int, int], tuple[int, int]] = {}
        self._slice = 0
        self._is_closing = False
        self._past = tuple(change_log.lives(self._db))
        self._teller, self._set_back = teller, set_back
        self._limit_s = limit_s
        self._compared = asyncio.Event()
        """A candidate has shown that this master's disk was not set back."""
        self._began_at = time.monotonic()
        if not teller or not self._past or is_promoted:
            self._compared.set()
        self.candidates = Candidates(self._epoch, synchronous=synchronous, limit_s=limit_s, say=say)
        self.candidates.urged = self._wake
        self.answered = change_log.earlier(self._db)
        """All up to there may have been answered, by an earlier life of this store or by another node's."""
        self.confirming: ConfirmingChoice | None = None
        """Only in an election."""

    def _connect(self) -> sqlite3.Connection:
        db = schema.connect(self._root, readonly=True)
        db.text_factory = bytes
        return db

    def close(self) -> None:
        self._is_closing = True
        self._db.interrupt()
        self._thread.shutdown()
        if self._first_digest is not None:
            self._first_digest.close()
        self._db.close()
        self._wake()

    def committed(self) -> None:
        """The engine has committed something. On the loop."""
        self._commits += 1
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _news(self, until: float) -> None:
        """Waits for a commit, for somebody who is in a hurry, or until a moment."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await future
        except TimeoutError:
            return
        finally:
            self._waiting.discard(future)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # ---- on the loop -------------------------------------------------------------------------------------------------

    async def tell(self, node: str, ask: AskChanges) -> Changes:
        """What has changed; waits up to WAIT_S for something. Raises sqlite3.Error, UnitTooLarge, ValueError."""
        if len(ask.again) > MOST_AGAIN or any(kind not in KINDS or one <= 0 for kind, one in ask.again):
            raise ValueError("a candidate asks for units that there cannot be")
        if ask.lacking == self._epoch and ask.lost > 0:
            self._set_back(node, ask.lost)
            raise SetBack(f"this master's disk was set back: {ask.lost} units that {node} has are not there")
        if ask.epoch == self._epoch and ask.joins:
            self._compared.set()
        candidate = self.candidates.heard(node, ask)
        until = time.monotonic() + (OBJECTING_S if ask.objection else WAIT_S)
        pace_s = min(self._pace_s, OBJECTING_S) if ask.objection else self._pace_s
        loop = asyncio.get_running_loop()
        has_digest = ask.digest and await self._run(self._has_digest, lambda: loop.call_soon_threadsafe(self._wake))
        # Who has not everything, or wants to know whether it has, waits for no change.
        at_once = has_digest or bool(ask.again) or ask.state != FOLLOWING
        ready_at = 0.0 if candidate.has_more or at_once else candidate.answered_at + pace_s
        while time.monotonic() < ready_at and self.candidates.wanted <= ask.held:
            await self._news(ready_at)
        prepared = self._taken_ahead(node, ask)
        while True:
            commits = self._commits
            found = await (prepared or self._run(self._read, ask))
            prepared = None
            is_news = found.upto > ask.since or (found.epoch, found.since) != (ask.epoch, ask.since)
            if is_news or at_once or found.digest or time.monotonic() >= until:
                break
            if commits == self._commits:
                await self._news(until)
        self.candidates.told(candidate, found.upto)
        candidate.answered_at, candidate.has_more = time.monotonic(), found.behind > 0
        if found.behind and not found.is_offer and not ask.again:
            self._read_ahead(node, msgspec.structs.replace(ask, epoch=found.epoch, since=found.upto, digest=False))
        return found

    def _read_ahead(self, node: str, ask: AskChanges) -> None:
        """The next answer of a long copy is made while the candidate writes this one."""
        future = asyncio.ensure_future(self._run(self._read, ask))
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._ahead[node] = ask, future

    def _taken_ahead(self, node: str, ask: AskChanges) -> asyncio.Future[Changes] | None:
        if node not in self._ahead:
            return None
        expected, future = self._ahead.pop(node)
        is_it = (expected.epoch, expected.since, expected.digest) == (ask.epoch, ask.since, ask.digest)
        return future if is_it and not ask.again else None

    async def have(self, position: int) -> bool:
        """Waits until what was written up to there may be answered; False: it may not."""
        return await (self.candidates if self.confirming is None else self.confirming).have(position)

    async def ready(self) -> str:
        """Waits until what is written from now on can be answered; empty, or why it cannot be. A master that has just
        been started gives out no id before it knows that its disk was not set back."""
        await self.compared(self._limit_s)
        return "" if self.confirming is None else await self.confirming.ready()

    async def compared(self, limit_s: float = COMPARED_S) -> None:
        """Waits until a candidate has shown that this master's disk was not set back, until `limit_s` after the
        start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._began_at + limit_s - time.monotonic())):
                await self._compared.wait()

    def mode(self) -> tuple[str, str]:
        """`synchronous`, `asynchronous` or (in an election) `refused`, and why."""
        return (self.candidates if self.confirming is None else self.confirming).mode()

    async def head(self) -> int:
        """The position of the last change."""
        return await self._run(change_log.head, self._db)

    async def shown(self) -> dict[str, Any]:
        """For `clusterd ha status`."""
        head = await self.head()
        confirming = self.confirming
        mode, why = self.mode()
        held = {one["position"] for one in self.candidates.shown(head, lambda _: 0)}
        behind = {one: await self._run(change_log.behind, self._db, one) for one in held}
        return {
            "role": "master",
            "epoch": self._epoch,
            "past": [life[:2] for life in self._past[-KEPT_PAST:]],
            "position": head,
            "greatest_id": await self._run(change_log.mark, self._db, change_log.GREATEST),
            "registrations": mode,
            "registrations_reason": why or None,
            "confirming": None if confirming is None else confirming.name,
            "answered": None if confirming is None else confirming.answered,
            "candidates": self.candidates.shown(
                head, lambda position: behind.get(position, 0), None if confirming is None else confirming.name
            ),
        }

    # ---- in the thread -----------------------------------------------------------------------------------------------

    def _read(self, ask: AskChanges) -> Changes:
        """One answer, from one moment of the database."""
        db = self._db
        is_other = ask.epoch != self._epoch
        db.execute("begin")
        try:
            is_known = change_log.is_known(db, ask.epoch, ask.since)
            past, floor = ((), 0) if is_known else (self._past, change_log.floor(db))
            if is_other and ask.joins:
                teller = self._teller
                return Changes(
                    self._epoch, 0, 0, 1, 0, "", "", b"", past=past, floor=floor, is_offer=True, teller=teller
                )
            since = ask.since if is_known else 0
            units, upto = self._units(db, since, ask.again)
            head = change_log.head(db)
            digest = self._digested(db, head) if ask.digest and upto == head else ""
            noted = {
                kind.decode(): name.decode()
                for kind, name in db.execute("select kind, name from clusterd_seen where kind in ('boot', 'wall')")
            }
            return Changes(
                self._epoch,
                since,
                upto,
                self._behind(db, since, upto) if upto < head else 0,
                int(change_log.mark(db, change_log.GREATEST) or 0),
                noted.get("boot", ""),
                noted.get("wall", ""),
                units,
                digest,
                past,
                floor,
                unanswered=tuple(sorted(map(int, table.seen(db, table.UNANSWERED)))[-MOST_UNANSWERED:]),
                teller=self._teller,
            )
        finally:
            db.execute("rollback")

    def _behind(self, db: sqlite3.Connection, since: int, upto: int) -> int:
        """How many units have changed after `upto`. To count 100,000 in each answer of a full copy would take time that
        grows with their square: while there are many, those that the answer has are taken off."""
        position, left = self._left
        if position == since and left > COUNTED:
            left -= change_log.behind(db, since, upto)
        if position != since or left <= COUNTED:
            left = change_log.behind(db, upto)
        self._left = upto, left
        return left

    def _units(self, db: sqlite3.Connection, since: int, again: Sequence[tuple[int, int]]) -> tuple[bytes, int]:
        """The units of an answer, compressed, and the position that it reaches: first those that are told again."""
        most = min(PIECE, self._most)
        listed = [(since, kind, one) for kind, one in again[:most]]
        listed += change_log.changed_since(db, since, most - len(listed))
        if not listed:
            return b"", since
        units = read_units(db, [(kind, one) for _, kind, one in listed])
        positions = [position for position, _, _ in listed]
        encoded = [msgspec.Raw(ENCODER.encode(unit)) for unit in units]
        if self._digest is not None and len(self._told) < MOST_TOLD:
            for unit, position, data in zip(units, positions, encoded, strict=True):
                self._told[unit.kind, unit.id] = position, digest_of(unit, data)
        count, size = 0, 0
        for data in encoded:
            size += len(data)
            if count and size > self._raw_bytes:
                break
            count += 1
        while True:
            packed = lz4.block.compress(ENCODER.encode(encoded[:count])) if count else b""
            if len(packed) <= ANSWER_BYTES or count == 1:
                break
            count = max(1, int(count * 0.9 * ANSWER_BYTES / len(packed)))
            self._raw_bytes = max(ANSWER_BYTES, int(self._raw_bytes * 0.9))
        if len(packed) > MOST_UNIT_BYTES:
            raise UnitTooLarge(
                f"agent {units[0].id} has labels of more than {MOST_UNIT_BYTES >> 10} kB: no replica can be kept"
            )
        if count < len(units):
            if len(packed) < ANSWER_BYTES // 2:
                self._raw_bytes = min(MOST_RAW_BYTES, self._raw_bytes * 2)
            self._most = count + count // 8 + 1
            return packed, positions[count - 1]
        if len(listed) == most:
            self._most = min(PIECE, 2 * most)
        return packed, listed[-1][0]

    def _has_digest(self, is_ready: Callable[[], object]) -> bool:
        """Whether there is a digest to go on with; begins to read the first one. `is_ready`: called when it is there,
        in another thread. Raises what the reading raised."""
        if self._digest is None and self._first_digest is None:
            if self._first_failed or is_small(self._db):
                return True
            self._first_digest = FirstDigest(self._connect(), lambda: self._is_closing, change_log.head, is_ready)
        elif self._first_digest is not None and self._first_digest.has_ended:
            ended, self._first_digest, self._first_failed = self._first_digest, None, True
            self._digest, self._digest_at, self._first_failed = ended.take(), ended.at, False
        return self._digest is not None

    def _digested(self, db: sqlite3.Connection, head: int) -> str:
        """Empty: it is being read."""
        if self._first_digest is not None and not self._has_digest(lambda: None):
            return ""
        if self._digest is None:
            digest = UnitDigest(lambda: self._is_closing)
            digest.read_all(db)
            self._digest = digest
        elif head != self._digest_at:
            unread = []
            for position, kind, one in change_log.changed_since(db, self._digest_at, -1):
                at, told = self._told.get((kind, one), (0, 0))
                if at == position:
                    self._digest.put((kind, one), told)
                else:
                    unread.append((kind, one))
            self._digest.read_again(db, unread)
        self._told = {}
        self._slice = (self._slice + 1) % SLICES
        self._digest.read_again(db, self._digest.slice(self._slice, SLICES))
        self._digest_at = head
        return self._digest.text


def unpack_units(packed: bytes) -> list[Unit]:
    """The units of an answer. Raises ValueError."""
    if not packed:
        return []
    if len(packed) < 4 or int.from_bytes(packed[:4], "little") > 2 * MOST_RAW_BYTES + 4 * MOST_UNIT_BYTES:
        raise ValueError("changes of an unlikely size")
    try:
        return msgspec.msgpack.decode(lz4.block.decompress(packed), type=list[Unit])
    except (lz4.block.LZ4BlockError, msgspec.MsgspecError) as failure:
        raise ValueError(f"changes that cannot be read: {failure}") from None

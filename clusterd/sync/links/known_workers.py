"""The workers that a master knows (present, absent) and the nodes it refused lately. A worker stays known across
restarts of the node until an operator makes the master forget it.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.journal import LONGEST_TEXT, AnyEvent, WorkerEvent
from clusterd.messages.links import HelloRefused
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles, round_survives
from clusterd.wire.results import shorten
from hashing.atomic import FileOps
from hashing.write import write_atomic

FILE = "workers.json"
FILE_MODE = 0o640
LARGEST_FILE = 4 << 20
MOST = 1000
"""Most workers that are remembered; beyond that the one absent for the longest is dropped."""
MOST_REFUSED = 64
MOST_REFUSALS_TOLD = 20
"""Refusals that the journal hears of within REFUSED_S."""
MOST_NAME = 64
REFUSED_S = 600.0
"""How long a refusal is shown after the last attempt: a node that wants to join tries again every few seconds."""
SAME_REFUSED_S = 30.0
"""The same where the worker of this name is connected from the same address: that may have been itself, in a moment in
which it had two links, or `doctor` there. Another node of that name tries again every 10 s."""
BACK_SOON_S = 3.0
"""A worker that connects again within this time was not lost. One that was given up for its silence has had more than
that."""
EXPECTED_S = 15.0
"""How long workers are expected after a start of the master: they dial again every 10 s."""
SAVE_S = 60.0


class KnownWorker(msgspec.Struct, kw_only=True):
    """Times are wall-clock seconds. `seen_at`: last keepalive or other sign of a link; `lost_at`: when its link ended,
    None while it is connected; `why`: how the link ended."""

    name: str
    address: str = ""
    version: str = ""
    program: str = "unknown"
    connected_at: float = 0.0
    seen_at: float = 0.0
    lost_at: float | None = None
    why: str = ""
    result: str = ""


class _Member(msgspec.Struct):
    """A known worker in this life. `peer`: its link; `left_at`: when the last one ended (monotonic: the wall clock may
    be set at any moment); `absence`: whether log and journal have heard that it is lost, empty while it is not;
    `is_of_before`: it was known in an earlier life and has not come back yet."""

    known: KnownWorker
    peer: Peer | None = None
    left_at: float = float("-inf")
    absence: Literal["", "unsaid", "said"] = ""
    is_of_before: bool = False


class RefusedNode(msgspec.Struct, kw_only=True):
    """A node that may not join. `name` is empty if it was refused before it said its name. `since`, `at`: first and
    last attempt."""

    name: str
    address: str
    reason: str
    since: float
    at: float
    attempts: int = 1


class KnownWorkers:
    """Owns `workers.json` in the node's state. Only the process that made it changes the file."""

    def __init__(
        self,
        state_dir: str,
        clock: Clock,
        log: TagLog,
        troubles: Troubles,
        tell: Callable[[AnyEvent], None] = lambda event: None,
    ) -> None:
        """`tell`: takes what happens to workers, for the journal."""
        self._path = os.path.join(state_dir, FILE)
        self._clock = clock
        self._log = log
        self._troubles = troubles
        self._tell = tell
        self._refusals_told: deque[float] = deque(maxlen=MOST_REFUSALS_TOLD)
        self._workers: dict[str, _Member] = {}
        self._arriving: dict[str, Peer] = {}
        """Links that are up and may be a worker's, or only tries of this port."""
        self._refused: dict[tuple[str, str], RefusedNode] = {}
        self._changed = asyncio.Event()
        self._saving = asyncio.Lock()
        self._expected_until = clock.monotonic() + EXPECTED_S
        self.read()

    # ---- what happens ------------------------------------------------------------------------------------------------

    def arrives(self, peer: Peer) -> None:
        """A worker's link is up; it is one that joins if it asks for something or stays."""
        self._arriving[peer.name] = peer

    def joined(self, peer: Peer) -> None:
        """A worker is connected."""
        if self._arriving.get(peer.name) is peer:
            del self._arriving[peer.name]
        info, now = peer.info, self._clock.wall()
        member = self._workers.get(peer.name)
        if member is None:
            member = self._workers[peer.name] = _Member(KnownWorker(name=peer.name))
            self._drop_oldest()
        known, was_lost = member.known, member.absence == "said"
        known.address, known.version = info.address, info.version
        known.connected_at, known.seen_at, known.lost_at, known.why = info.connected_at or now, now, None, ""
        self._workers[peer.name] = _Member(known, peer)
        for key in [key for key in self._refused if key[0] == peer.name or key == ("", info.address)]:
            del self._refused[key]
        self._tell(WorkerEvent(worker=peer.name, what="back" if was_lost else "connected", address=info.address))
        if was_lost:
            self._log.info(f"Worker {peer.name} ({info.address}) is back. {self._count()}")
        self._changed.set()

    def left(self, peer: Peer, record: WorkerRecord | None, why: str = "") -> None:
        """A worker's link has ended. A newer link of the same worker takes precedence."""
        member = self._workers.get(peer.name)
        if self._arriving.get(peer.name) is peer:
            del self._arriving[peer.name]
            if member is not None and member.absence == "unsaid":
                self._changed.set()
        if member is None or member.peer is not peer:
            return
        self._take(member.known, peer, record)
        member.known.lost_at, member.known.why = self._clock.wall() - peer.silent_s, why
        member.peer, member.left_at, member.absence = None, self._clock.monotonic() - peer.silent_s, "unsaid"
        self._changed.set()

    def refused(self, refusal: HelloRefused) -> None:
        """A node that may not join has tried to."""
        now = self._clock.wall()
        key = refusal.name, refusal.address
        earlier = self._refused.pop(key, None)
        since, attempts = (earlier.since, earlier.attempts + 1) if earlier else (now, 1)
        if earlier is None or earlier.reason != refusal.reason:
            self._tell_refused(refusal)
        self._refused[key] = RefusedNode(
            name=refusal.name, address=refusal.address, reason=refusal.reason, since=since, at=now, attempts=attempts
        )
        while len(self._refused) > MOST_REFUSED:
            del self._refused[next(iter(self._refused))]

    def _tell_refused(self, refusal: HelloRefused) -> None:
        """Limits these events: strangers must not push the others out of the journal."""
        now, told = self._clock.monotonic(), self._refusals_told
        if len(told) == MOST_REFUSALS_TOLD and now - told[0] < REFUSED_S:
            return
        told.append(now)
        name, why = shorten(refusal.name, MOST_NAME), refusal.reason[:LONGEST_TEXT]
        self._tell(WorkerEvent(worker=name, what="refused", why=why, address=refusal.address))

    def forget(self, name: str) -> bool:
        """Forgets the worker, and who was refused under its name. Returns False where there was only the latter: a
        connected worker stays, another one that had its name is shown no longer. Raises ClusterError 1000 for a worker
        that is unknown or connected."""
        refusals = [key for key in self._refused if key[0] == name]
        for key in refusals:
            del self._refused[key]
        if self._link_of(name) is not None or name in self._arriving:
            if refusals:
                return False
            raise ClusterError(1000, f"worker {name} is connected: stop it first")
        if name not in self._workers:
            if refusals:
                return False
            known = ", ".join(sorted(self._workers)) or "none"
            raise ClusterError(1000, f"this master knows no worker {shorten(name)}; it knows: {known}")
        del self._workers[name]
        self._log.info(f"Worker {name} is forgotten. {self._count()}")
        self._tell(WorkerEvent(worker=name, what="forgotten"))
        self._changed.set()
        return True

    # ---- what is told ------------------------------------------------------------------------------------------------

    def shown(self, records: dict[str, WorkerRecord]) -> list[dict[str, Any]]:
        """For `status`: every known worker. `state`: connected, lost, or expected (absent for a moment only, or the
        master has just started). `lost_s`: how long it has been absent."""
        now, here = self._now(), self._clock.monotonic()
        is_new = here < self._expected_until
        rows = []
        for name, member in sorted(self._workers.items()):
            known = member.known
            if member.peer is not None:
                self._take(known, member.peer, records.get(name))
            lost_s = None if known.lost_at is None else max(0.0, now - known.lost_at)
            is_expected = lost_s is not None and (
                here - member.left_at < BACK_SOON_S
                or (is_new and member.is_of_before)
                or (member.absence == "unsaid" and name in self._arriving)
            )
            rows.append(
                {
                    "name": name,
                    "state": "connected" if lost_s is None else "expected" if is_expected else "lost",
                    "address": known.address,
                    "version": known.version,
                    "program": known.program,
                    "connected_at": known.connected_at,
                    "seen_at": known.seen_at,
                    "lost_s": lost_s,
                    "why": known.why,
                    "result": known.result or None,
                }
            )
        return rows

    def shown_refused(self) -> list[dict[str, Any]]:
        """For `status`: who was refused lately, the latest first."""
        now = self._now()
        for key in [key for key, refused in self._refused.items() if refused.at < now - self._shown_s(refused)]:
            del self._refused[key]
        return [msgspec.to_builtins(refused) for refused in reversed(self._refused.values())]

    def _shown_s(self, refused: RefusedNode) -> float:
        peer = self._link_of(refused.name)
        return SAME_REFUSED_S if peer is not None and peer.info.address == refused.address else REFUSED_S

    def _now(self) -> float:
        """The wall clock. What happened later than now was noted before the clock was set back: it counts from now
        on."""
        now = self._clock.wall()
        for known in (member.known for member in self._workers.values()):
            known.seen_at = min(known.seen_at, now)
            if known.lost_at is not None and known.lost_at > now:
                known.lost_at = now
        for refused in self._refused.values():
            refused.at = min(refused.at, now)
        return now

    @staticmethod
    def _take(known: KnownWorker, peer: Peer, record: WorkerRecord | None) -> None:
        known.program = peer.program or known.program
        known.seen_at = max(known.seen_at, peer.keepalive_at)
        known.result = (record.result if record is not None else "") or known.result

    def _link_of(self, name: str) -> Peer | None:
        member = self._workers.get(name)
        return None if member is None else member.peer

    def _count(self) -> str:
        connected = sum(member.peer is not None for member in self._workers.values())
        return f"{connected} of {len(self._workers)} workers are connected."

    def _drop_oldest(self) -> None:
        away = [member.known for member in self._workers.values() if member.known.lost_at is not None]
        if len(self._workers) > MOST and away:
            del self._workers[min(away, key=lambda known: known.seen_at).name]

    # ---- for ever ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Logs lost workers and keeps the file up to date."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_S):
                    await self._changed.wait()
            self._changed.clear()
            with round_survives(self._log, self._troubles, "list of known workers"):
                if self._unsaid():
                    await asyncio.sleep(self._next_due_s())
                    self._say_lost()
                await self.save()

    def _unsaid(self) -> list[_Member]:
        """Returns the workers that may be lost, by name. Not those of whose name another link is up: within a moment it
        is known whether that is the worker."""
        found = [one for name, one in sorted(self._workers.items()) if name not in self._arriving]
        return [one for one in found if one.absence == "unsaid"]

    def _next_due_s(self) -> float:
        """Until the first of the workers that have left may be called lost."""
        left = min((member.left_at for member in self._unsaid()), default=float("-inf"))
        return max(0.0, left + BACK_SOON_S - self._clock.monotonic())

    def _say_lost(self) -> None:
        """Links that ended a moment ago are reported by a later round."""
        due = self._clock.monotonic() - BACK_SOON_S
        for member in self._unsaid():
            known = member.known
            if member.left_at > due:
                self._changed.set()
                continue
            member.absence = "said"
            why = f": {known.why}" if known.why else ""
            self._log.warning(f"Worker {known.name} ({known.address}) is lost{why}. {self._count()}")
            self._tell(WorkerEvent(worker=known.name, what="lost", why=known.why[:LONGEST_TEXT], address=known.address))

    def read(self) -> None:
        """Reads what an earlier life has written. An unreadable file is logged and counts as empty."""
        try:
            with open(self._path, "rb") as file:
                found = msgspec.json.decode(file.read(LARGEST_FILE), type=list[KnownWorker])
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, RecursionError) as problem:
            self._log.warning(f"{self._path} cannot be read, workers that are away are unknown: {problem}")
            return
        for known in found[:MOST]:
            # The reason belongs to that earlier life; in this one no worker has connected yet.
            known.why = ""
            known.lost_at = known.seen_at if known.lost_at is None else known.lost_at
            self._workers[known.name] = _Member(known, is_of_before=True)

    async def save(self) -> None:
        """Writes the file. A failure is shown as a trouble until it can be written."""
        try:
            async with self._saving:  # or an older state could be written last
                data = msgspec.json.encode([member.known for _, member in sorted(self._workers.items())])
                # A disk that hangs must not block the loop. Nobody else knows the workers that are away: a power
                # failure must not empty the file.
                await asyncio.to_thread(write_atomic, FileOps(), self._path, data, FILE_MODE)
        except OSError as problem:
            self._troubles.begin("known workers", f"{self._path} cannot be written: {problem.strerror}")
        else:
            self._troubles.end("known workers")

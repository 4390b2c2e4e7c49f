"""The candidates of a master: what each of them holds, and whether a registration may be answered without one."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.messages.replica import WAIT_S, AskChanges

SILENT_S = 2.5 * WAIT_S
"""A candidate that has not asked for this long is not connected, even if nobody has said so."""
FOLLOWING = "following"
MOST_OBJECTION = 200
REST_S = 60.0
"""A candidate that is late twice within this time does not count for as long: registrations would wait each time."""


class Candidate(msgspec.Struct):
    """`held`: its position in this master's log, as far as it can be true: `given` is the highest position that it was
    told, and `claimed` what it says if that is more (0: it does not); then it counts for nothing. `is_late`: it has let
    a registration wait too long and does not count until it holds position `due`, nor before `rest_until`; `late_at`:
    when it was. `has_more`: its last answer was not all there was. `objection`: why it may not lead, as its own
    election says. `left_at`: when its link ended, if registrations could wait for it until then. Times: `heard_at`,
    `answered_at`, `late_at`, `rest_until` and `left_at` monotonic, the others wall-clock seconds."""

    name: str
    epoch: str = ""
    held: int = 0
    given: int = 0
    claimed: int = 0
    state: str = ""
    priority: int = 0
    objection: str = ""
    is_connected: bool = False
    heard_at: float = 0.0
    seen_at: float = 0.0
    answered_at: float = 0.0
    has_more: bool = False
    is_late: bool = False
    due: int = 0
    late_at: float | None = None
    rest_until: float = 0.0
    left_at: float | None = None
    checked_at: float | None = None
    is_equal: bool | None = None


class Candidates:
    """Owner of what is known of them. Used on the store's loop only."""

    def __init__(self, epoch: str, *, synchronous: bool, limit_s: float, say: Callable[[str, str], None]) -> None:
        """`limit_s`: how long a registration waits for a candidate."""
        self.epoch = epoch
        self.wanted = 0
        """The highest position that somebody waits for."""
        self.urged: Callable[[], None] = lambda: None
        """Called when `wanted` has grown."""
        self._synchronous = synchronous
        self._limit_s = limit_s
        self._say = say
        self._known: dict[str, Candidate] = {}
        self._given: dict[str, int] = {}
        """What those were told that are forgotten: they may come back."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_degraded = False

    def heard(self, name: str, ask: AskChanges) -> Candidate:
        """A candidate has asked: it holds what it says."""
        one = self._known.setdefault(name, Candidate(name, given=self._given.pop(name, 0)))
        one.is_connected, one.heard_at, one.seen_at, one.left_at = True, time.monotonic(), time.time(), None
        one.epoch, one.state, one.checked_at, one.is_equal = ask.epoch, ask.state, ask.checked_at, ask.is_equal
        one.priority, one.objection = ask.priority, "".join(filter(str.isprintable, ask.objection[:MOST_OBJECTION]))
        one.held = ask.held if ask.epoch == self.epoch and ask.held >= 0 else 0
        before, one.claimed = one.claimed, 0
        if one.held > one.given:
            one.held, one.claimed = 0, one.held
            if not before:
                text = "which this master has not given out: it does not count, and is copied anew"
                self._say("WARNING", f"Candidate {name} says that it holds position {one.claimed}, {text}.")
        if one.is_late and one.state == FOLLOWING and one.held >= one.due and one.heard_at >= one.rest_until:
            one.is_late = False
        if self._is_degraded and self.counting():
            self._is_degraded = False
            self._say("INFO", f"Candidate {name} confirms again: agents are registered and deleted with it.")
        self.news()
        return one

    def told(self, one: Candidate, position: int) -> None:
        """It is about to hear of everything up to there."""
        one.given = max(one.given, position)

    def gone(self, name: str) -> None:
        one = self._known.get(name)
        if one is not None:
            if one in self.counting():
                one.left_at = time.monotonic()
            one.is_connected = False
            self.news()

    def forget(self, name: str) -> None:
        """It does not come back; one that is connected has."""
        one = self._known.get(name)
        if one is not None and not self._is_linked(one):
            self._given[name] = self._known.pop(name).given

    @staticmethod
    def _is_linked(one: Candidate) -> bool:
        return one.is_connected and time.monotonic() - one.heard_at < SILENT_S

    def news(self) -> None:
        """Whoever waits looks again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """For news, at most so long."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            # Not wait_for, which forgets a cancellation that comes together with the news.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await future
        finally:
            self._waiting.discard(future)

    def urge(self, position: int) -> None:
        """Somebody waits for this position: candidates are told at once."""
        if position > self.wanted:
            self.wanted = position
            self.urged()

    async def have(self, position: int) -> bool:
        """Waits until a candidate has everything up to this position on its disk, for `limit_s` at most; then, and
        where there is none to wait for, the caller goes on without one: always True. A link that has just ended is
        usually back within a second: it is waited for, too, until `limit_s` after its end."""
        if not self._synchronous:
            return True
        until = time.monotonic() + self._limit_s
        while not any(one.held >= position for one in self._known.values()):
            awaited = [*self.counting(), *self.returning()]
            left = max((self._waits_until(one, until) for one in awaited), default=0.0) - time.monotonic()
            if left <= 0:
                for one in self._known.values():
                    if one in awaited or one.left_at is not None:
                        self.is_now_late(one, position)
                        one.left_at = None
                self._degrade()
                return True
            self.urge(position)
            await self.wait(left)
        return True

    def _waits_until(self, one: Candidate, until: float) -> float:
        return until if one.left_at is None else min(until, one.left_at + self._limit_s)

    def named(self, name: str) -> Candidate | None:
        return self._known.get(name)

    def is_now_late(self, one: Candidate, position: int) -> None:
        now = time.monotonic()
        if one.late_at is not None and now - one.late_at < REST_S + self._limit_s:
            one.rest_until = now + REST_S
        one.is_late, one.due, one.late_at = True, position, now

    def counting(self) -> list[Candidate]:
        """Those that registrations may wait for."""
        now = time.monotonic()
        return [
            one
            for one in self._known.values()
            if one.is_connected
            and one.state == FOLLOWING
            and not one.is_late
            and not one.claimed
            and one.epoch == self.epoch
            and now - one.heard_at < SILENT_S
        ]

    def returning(self) -> list[Candidate]:
        """Those whose link has just ended, and who could confirm until then."""
        now = time.monotonic()
        return [one for one in self._known.values() if one.left_at is not None and now < one.left_at + self._limit_s]

    def coming(self) -> list[Candidate]:
        """Those that are connected and cannot confirm yet: a full copy is under way, as a rule."""
        now, counting = time.monotonic(), self.counting()
        return [
            one
            for one in self._known.values()
            if one.is_connected and not one.is_late and now - one.heard_at < SILENT_S and one not in counting
        ]

    def _degrade(self) -> None:
        if self._is_degraded:
            return
        self._is_degraded = True
        self._say(
            "WARNING",
            f"Agents are registered and deleted without a candidate from now on: {self.mode()[1]}. What is answered "
            "until one confirms again would be lost with this master.",
        )

    def mode(self) -> tuple[str, str]:
        """`synchronous` or `asynchronous`, and why the latter."""
        if not self._synchronous:
            return "asynchronous", "clusterd.ha.synchronous is off"
        if self.counting() or self.returning():
            return "synchronous", ""
        if any(one.is_late and one.is_connected for one in self._known.values()):
            return "asynchronous", f"no candidate has confirmed within {self._limit_s:g} s"
        if any(one.is_connected for one in self._known.values()):
            return "asynchronous", "no candidate has a whole replica yet"
        return "asynchronous", "no candidate is connected"

    def shown(self, head: int, behind: Callable[[int], int], confirming: str | None = None) -> list[dict[str, Any]]:
        """For `clusterd ha status`. `behind`: units changed since a position. `confirming`: the one candidate whose
        confirmations count; None: those of all do."""
        counting = self.counting()
        rows = []
        for one in sorted(self._known.values(), key=lambda one: one.name):
            connected = self._is_linked(one)
            whole = one.state == FOLLOWING and one.epoch == self.epoch
            reason = ""
            if not whole:
                reason = "its replica is not whole yet"
            elif one.claimed:
                reason = f"it says that it holds position {one.claimed}, which was not given out"
            elif not connected:
                reason = "it is not connected"
            elif one.is_equal is False:
                reason = "its digest differed"
            reason = reason or one.objection
            rows.append(
                {
                    "name": one.name,
                    "connected": connected,
                    "state": one.state or "unknown",
                    "position": one.held,
                    "lag": behind(one.held) if whole else None,
                    "digest_at": one.checked_at,
                    "digest_equal": one.is_equal,
                    "confirms": one in counting and confirming in (None, one.name),
                    "seen_at": one.seen_at or None,
                    "may_not_lead": reason or None,
                }
            )
        return rows

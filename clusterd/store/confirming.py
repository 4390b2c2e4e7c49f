"""In an election one candidate confirms what is answered, and etcd knows which: nobody else may take over, so that
whoever does has everything that was answered (docs/ha.md)."""

import time
from collections.abc import Awaitable, Callable

from clusterd.errors import ClusterError
from clusterd.messages.election import ConfirmingSet
from clusterd.rounds import Rounds
from clusterd.store.candidates import Candidate, Candidates

LOOK_S = 1.0
SET_S = 5.0
"""How long an answer waits for etcd, beyond what it waits for a candidate."""
FIRST_S = 2.0
"""How long the first answers of a master wait for a candidate to come: all of them have lost the master before."""
NOBODY = ""


class ConfirmingChoice:
    """Owner of the choice. `have` is asked before each answer; `run` must run beside it. On the store's loop only."""

    def __init__(
        self,
        candidates: Candidates,
        tell: Callable[[str, int], Awaitable[ConfirmingSet]],
        holds: Callable[[], bool],
        *,
        synchronous: bool,
        limit_s: float,
        answered: int,
        say: Callable[[str, str], None],
    ) -> None:
        """`tell`: writes the name of the candidate into etcd, empty for nobody, with the highest position that was
        answered, which whoever leads must have; raises ClusterError. `holds`: whether
        this node leads. `answered`: the last change before this store was started: all up to there may have been
        answered."""
        self._candidates = candidates
        self._tell = tell
        self._holds = holds
        self._synchronous = synchronous
        self._limit_s = limit_s
        self._answered = answered
        self._say = say
        self._set: str | None = None
        """What etcd has; None: not known, and nothing is answered."""
        self._why = "etcd has not been asked yet"
        self._leads_since: float | None = None
        self._unset_since: float | None = None
        """Since when this node leads and nothing can be answered, because `_set` is None."""
        self._gives_up_at: float | None = None
        """Until when answers wait for a candidate that catches up."""
        self._said = ""
        self._rounds = Rounds(say)

    @property
    def name(self) -> str:
        """The candidate that is waited for; empty: nobody is, or that is not known."""
        return self._set or NOBODY

    @property
    def answered(self) -> int:
        """All up to there may have been answered; while there is a `name`, that candidate has it on its disk."""
        return self._answered

    async def run(self) -> None:
        """For ever."""
        while True:
            with self._rounds.survive("the candidate that confirms"):
                await self._look()
            if self._set is not None or self._leads_since is None:
                self._unset_since = None
            elif self._unset_since is None:
                self._unset_since = time.monotonic()
            await self._candidates.wait(LOOK_S)

    async def ready(self) -> str:
        """Waits until what is written from now on can be answered; why it cannot be: it is not to be written."""
        while self._holds() and self._set is None and time.monotonic() < self._given_up_at():
            await self._candidates.wait(max(0.0, self._given_up_at() - time.monotonic()))
        return self._why if self._set is None else ""

    def _given_up_at(self) -> float:
        """Nobody waits longer for etcd to have a name: who asks while it has had none for that long waits no more."""
        since = time.monotonic() if self._unset_since is None else self._unset_since
        return since + self._limit_s + SET_S

    async def have(self, position: int) -> bool:
        """Waits until what was written up to `position` may be answered. False: it may not."""
        self._candidates.urge(position)
        late_at = time.monotonic() + self._limit_s
        while self._holds():
            until = min(late_at + SET_S, self._given_up_at())
            one = self._present()
            if self._set == NOBODY or (one is not None and one.held >= position):
                self._answered = max(self._answered, position)
                return True
            now = time.monotonic()
            if one is not None and now >= late_at:
                self._candidates.is_now_late(one, position)
                self._candidates.news()
            elif now >= until:
                return False
            await self._candidates.wait(max(0.0, (until if one is None else late_at) - now))
        return False

    def mode(self) -> tuple[str, str]:
        """`synchronous`, `asynchronous` or `refused`, and why."""
        if self._set is None:
            return "refused", self._why
        if self._set == NOBODY:
            why = (
                self._candidates.mode()[1]
                or self._objection()
                or "no candidate with a priority has all that was answered"
            )
            return "asynchronous", why if self._synchronous else "clusterd.ha.synchronous is off"
        return "synchronous", ""

    def _objection(self) -> str:
        found = (f"{one.name} may not lead: {one.objection}" for one in self._candidates.counting() if one.objection)
        return next(found, "")

    def _present(self) -> Candidate | None:
        """The candidate that etcd has, if it can confirm now."""
        return next((one for one in self._electable() if one.name == self._set), None)

    def _wanted(self) -> str | None:
        """Who is to confirm. Whoever begins to must have everything that was answered; None: there are some who do not
        have it yet."""
        if not self._synchronous:
            return NOBODY
        one = self._present()
        if one is not None:
            return self.name
        found = self._electable()
        able = [one for one in found if one.held >= self._answered]
        if able:
            return max(able, key=lambda one: (one.held, one.priority, one.name)).name
        return None if found or self._coming() or self._returning() else NOBODY

    def _electable(self) -> list[Candidate]:
        return [one for one in self._candidates.counting() if one.priority > 0]

    def _coming(self) -> list[Candidate]:
        return [one for one in self._candidates.coming() if one.priority > 0]

    def _returning(self) -> list[Candidate]:
        return [one for one in self._candidates.returning() if one.priority > 0]

    async def _look(self) -> None:
        now = time.monotonic()
        if not self._holds():
            self._set, self._why, self._leads_since = None, "this node does not lead", None
            return
        if self._leads_since is None:
            self._leads_since = now
        wanted = self._wanted()
        if wanted == NOBODY and self._synchronous and self._set is None and now < self._leads_since + FIRST_S:
            self._why = "no candidate is connected yet"
            return
        if wanted is None:
            # Answers wait, so that one of them can catch up.
            is_there = self._electable() or self._coming()
            self._why = (
                "the candidates are catching up" if is_there else "the link to the last candidate has just ended"
            )
            self._set = None
            self._gives_up_at = self._gives_up_at or now + self._limit_s
            self._candidates.urge(self._answered)
            if now < self._gives_up_at:
                return
            for one in (*self._electable(), *self._coming(), *self._returning()):
                one.left_at = None
                self._candidates.is_now_late(one, self._answered)
            wanted = NOBODY
        self._gives_up_at = None
        if wanted == self._set:
            return
        # Nothing is answered from here on until etcd has it.
        self._set = None
        try:
            found = await self._tell(wanted, self._answered)
            why = "" if found.ok else found.why or "etcd has not taken it"
        except ClusterError as failure:
            why = str(failure.extra or failure)
        if why:
            self._why = why
            text = f"Agents are neither registered nor deleted: who confirms cannot be written to etcd: {why}."
            self._say_once("WARNING", text)
            return
        self._set = wanted
        self._candidates.news()
        if wanted:
            self._say_once("INFO", f"Candidate {wanted} confirms: agents are registered and deleted with it.")
        else:
            text = (
                f"Agents are registered and deleted without a candidate from now on: {self.mode()[1]}. What is "
                "answered until one confirms again would be lost with this master."
            )
            self._say_once("WARNING" if self._synchronous else "INFO", text)

    def _say_once(self, level: str, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(level, text)

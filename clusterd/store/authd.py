"""Registration of agents on a master (wdb.md 8). An answer is sent only after the change is on disk; requests that
arrive while files are being written form the next batch.

    auth_request.py   what a request says, and the form of its answer
    decisions.py      what it does to the table of keys
    this module       batches: decided, written, answered
    late_rows.py      what the database still has to hear
"""

import asyncio
import socket
import sqlite3
import time
from collections.abc import Callable

import msgspec

from clusterd import stacks
from clusterd.agent_keys import KEY_FILE
from clusterd.key_guard import KeyRules, is_accepted
from clusterd.settings import ForceRules
from clusterd.store.auth_request import AuthdError, AuthRequest, answer_text, is_json, parse_request, text_of
from clusterd.store.decisions import UNSURE, Decisions, Granted, KeyChanges, Outcome, depends_on_others
from clusterd.store.errors import NotAnswered, NotKept, NotLeading, StoreFailed
from clusterd.store.events import RegistrationEvents, Tell, to_nobody
from clusterd.store.gate import WriteGate
from clusterd.store.keys import TIMESTAMPS, ChangedMeanwhile, KeyFile, NotSynced, SuddenLoss
from clusterd.store.late_rows import LateRows
from clusterd.store.registry import RegisteredAgents, Registration

MOST_IN_BATCH = 1000
LULL_S = 1.0
ATTEMPTS = 3
"""How often a batch is decided again because another program wrote client.keys meanwhile."""
_NOT_BEGUN = "nothing is changed, because no candidate could confirm it: {}"
_HALF_DONE = "the keys are written, but not the agent in the database: ask again"
_ENDING = "nothing is changed: the store of this node ends, ask again"
_UNCONFIRMED = "it is done on this node, but no candidate has confirmed it, and etcd does not know so: ask again"


class Authd:
    """Answers requests in batches. `run` does the work and must run as a task beside them."""

    def __init__(
        self,
        root: str,
        agents: RegisteredAgents,
        file: KeyFile,
        rules: Callable[[], ForceRules],
        *,
        say: Callable[[str, str], None],
        host_name: str | None = None,
        guard: Callable[[], KeyRules] = KeyRules,
        tell: Tell = to_nobody,
        gate: WriteGate | None = None,
        term: int = 0,
    ) -> None:
        """`gate`: where there is an election. `tell`: takes what becomes of keys, for the journal. `rules`: returns the
        node's current rules; `say`: logs a text at a level. `host_name`: a name that no agent may have, by default this
        machine's. `guard`: limits how many keys may vanish from the file without a request. `term`: in which this
        master leads."""
        self._root = root
        self._gate = gate
        self.is_idle = asyncio.Event()
        """No batch is under way."""
        self.is_idle.set()
        self._guard = guard
        self._agents = agents
        self._file = file
        self._rules = rules
        self._say = say
        self._decisions = Decisions(root, agents, rules, socket.gethostname() if host_name is None else host_name)
        self._late = LateRows(agents, file, say)
        self._waiting: asyncio.Queue[tuple[AuthRequest, asyncio.Future[bytes]]] = asyncio.Queue()
        self._events = RegistrationEvents(tell, term)
        self._is_failing = False
        self._is_ending = False
        self._dates_fail = False
        self._has_answered = False
        """Registrations that are still noted as unanswered."""
        self._knows_unheard = False
        self._told_bad = 0
        self.file_writes = 0

    async def answer(self, payload: bytes, program: str = "") -> bytes:
        """The answer to one request; for `add` and `remove` after everything is on disk. `program`: who asks here."""
        text = text_of(payload)
        if not is_json(text):
            return answer_text(text, self._rules())
        try:
            request = parse_request(text)
        except AuthdError as refusal:
            return refusal.answer()
        if not request.who and not request.through:
            request = msgspec.structs.replace(request, who=program)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((request, future))
        return await future

    async def run(self) -> None:
        """Handles one batch after another, until `finish`."""
        while not self._is_ending:
            batch = [await self._next()]
            while len(batch) < MOST_IN_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            outcomes = await self._serve([request for request, _ in batch])
            for (request, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, AuthdError):
                    self._events.refused(request, outcome)
                if not future.done():
                    future.set_result(outcome.answer if isinstance(outcome, Granted) else outcome.answer())

    async def _next(self) -> tuple[AuthRequest, "asyncio.Future[bytes]"]:
        """Waits for the first request of a batch. That the previous batch was answered is noted with the next change,
        or here when no request comes for a while."""
        if self._has_answered:
            self._has_answered = False
            try:
                async with asyncio.timeout(LULL_S):
                    return await self._waiting.get()
            except TimeoutError:
                await self._agents.note_answered()
        return await self._waiting.get()

    async def finish(self) -> None:
        """Begins no further batch. Returns when the one under way is written and its askers have heard so: who got no
        answer would ask again, and find the name taken."""
        self._is_ending = True
        await self.is_idle.wait()
        await asyncio.sleep(0)  # whoever waits for an answer passes it on
        if self._gate is None or (self._gate.is_open and self._gate.holds):
            await self._agents.note_answered()

    async def note_answered(self) -> None:
        """Removes the notes of unanswered registrations from the disk at once: everybody who has asked so far has the
        answer."""
        await self._agents.note_answered()

    async def _serve(self, requests: list[AuthRequest]) -> list[Outcome]:
        try:
            if self._gate is not None:
                await self._gate.enter(of_a_batch=False)
            if self._is_ending:
                return [AuthdError(9009, _ENDING)] * len(requests)
            self.is_idle.clear()  # without a pause in between: whoever hands over waits for this batch
            return await self._carry_out(requests)
        except (OSError, ValueError, sqlite3.Error, StoreFailed) as failure:
            self._look_anew()
            self._failed(f"Registrations cannot be served: {failure}")
            return [AuthdError(9009, str(failure))] * len(requests)
        except Exception:
            # An unexpected failure of one request must not end registration.
            self._look_anew()
            self._say("ERROR", f"Unexpected failure: {stacks.told()}")
            return [AuthdError(9001)] * len(requests)
        finally:
            self.is_idle.set()

    def _look_anew(self) -> None:
        """After an unknown failure: file and database are both read again."""
        self._file.forget()
        self._file.doubt_database()

    def _failed(self, text: str) -> None:
        """A full disk refuses every batch: log it once, until a batch is written again."""
        if not self._is_failing:
            self._is_failing = True
            self._say("ERROR", text)

    # ---- a batch -----------------------------------------------------------------------------------------------------

    async def _carry_out(self, requests: list[AuthRequest]) -> list[Outcome]:
        attempt = 0
        while True:
            attempt += 1
            changes = KeyChanges()
            outcomes = await self._decide_all(requests, changes)
            if not changes.any:
                return await self._if_it_lasts(outcomes)
            why = await self._agents.ready()
            if why:
                # The answer could not be given, and a later request of the same agent would find its name taken.
                self._file.forget()
                return await self._refuse_changes(requests, outcomes, _NOT_BEGUN.format(why))
            try:
                await self._late.delete()
                await self._write(changes)
            except (OSError, StoreFailed) as failure:
                self._file.forget()
                if not isinstance(failure, ChangedMeanwhile) or attempt == ATTEMPTS:
                    self._failed(f"Requests for agent keys are refused, nothing is changed: {failure}")
                    return await self._refuse_changes(requests, outcomes, str(failure))
            else:
                if self._is_failing:
                    self._is_failing = False
                    self._say("INFO", f"{KEY_FILE} can be written again.")
                return self._without_late(outcomes)

    async def _decide_all(self, requests: list[AuthRequest], changes: KeyChanges) -> list[Outcome]:
        is_new = await asyncio.to_thread(self._file.refresh)
        self._late.forget(self._file.table)
        self._file.table.count_from(await self._agents.greatest())
        if not self._knows_unheard:
            self._decisions.unheard = {one for one in await self._agents.unanswered() if one in self._file.table}
            self._decisions.loaded = frozenset(self._decisions.unheard)
            self._knows_unheard = True
        if is_new and self._file.bad_lines != self._told_bad:
            self._told_bad = self._file.bad_lines
            if self._told_bad:
                self._say("WARNING", f"{KEY_FILE}: {self._told_bad} lines are not of agents; they stay as they are.")
        await self._check_loss()
        return [await self._decisions.decide(request, self._file.table, changes) for request in requests]

    async def _check_loss(self) -> None:
        """Raises SuddenLoss: writing the file now would make the loss of many keys permanent."""
        news = self._file.news
        if news is None:
            return
        loss = news.loss(await self._agents.keyed(), self._guard())
        if loss is not None and not await asyncio.to_thread(is_accepted, self._root, news.digest):
            raise SuddenLoss(loss.text)

    async def _write(self, changes: KeyChanges) -> None:
        """Inserts new rows, writes the file, then replaces and deletes the rows of removed agents: an agent whose key
        stays after all keeps what it has. A crash leaves at most rows without a key, which the follower deletes, rows
        of agents that were replaced, and what was done behind the file's writing without an answer. Raises StoreFailed,
        OSError: nothing is changed then; NotAnswered."""
        now = int(time.time())
        rows = {
            number: Registration(number, key.name, key.ip, key.key, groups, now)
            for number, (key, groups) in changes.added.items()
        }
        new = [row for number, row in rows.items() if number not in changes.removed]
        if new:
            try:
                await self._agents.apply(new, [])
            except NotKept:
                await self._late.take_back(new)
                raise
        try:
            if self._gate is not None:
                self._gate.check()
            await asyncio.to_thread(self._file.save)
        except NotSynced as failure:
            self._say("ERROR", f"{KEY_FILE} is written, but might not survive a power cut: {failure}")
        except (OSError, NotLeading):
            await self._late.take_back(new)
            raise
        self.file_writes += 1
        self._late.forget(changes.added.keys())
        try:
            await self._late.change(
                [row for number, row in rows.items() if number in changes.removed],
                sorted(changes.removed.keys() - changes.added.keys()),
            )
            await self._tell_people(changes, now)
        finally:
            may_answer = await self._agents.replicated()
        if not may_answer:
            self._decisions.unheard.update(changes.added)
            raise NotAnswered(_UNCONFIRMED)
        self._decisions.unheard.difference_update(changes.added, changes.removed)
        self._agents.answered(self._decisions.unheard)
        self._has_answered = True

    async def _tell_people(self, changes: KeyChanges, now: int) -> None:
        """Dates and events are for people; the keys themselves are safe."""
        added = [key for key, _ in changes.added.values()]
        try:
            await asyncio.to_thread(self._file.save_dates, added, now)
            self._dates_fail = False
        except OSError as failure:
            if not self._dates_fail:
                self._dates_fail = True
                self._say("ERROR", f"{TIMESTAMPS} cannot be written: {failure}")
        self._events.written(added, changes.removed.values(), changes.askers)

    # ---- answers of a batch that was not carried out as it was decided -----------------------------------------------

    async def _if_it_lasts(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Answers that depend on other agents (a name is taken, an agent is unknown) are given only when a candidate
        has the changes that they are based on. Otherwise these changes may be lost with this node, and the answer would
        be wrong."""
        if not any(depends_on_others(outcome) for outcome in outcomes):
            return outcomes
        why = UNSURE
        try:
            await self._late.delete()
            if await self._agents.replicated():
                return outcomes
        except StoreFailed as failure:
            why = str(failure)
        return [AuthdError(9009, why) if depends_on_others(outcome) else outcome for outcome in outcomes]

    async def _refuse_changes(self, requests: list[AuthRequest], outcomes: list[Outcome], why: str) -> list[Outcome]:
        """For a batch that was not written, or taken back: queries get the true state, changes get 9009."""
        asks = [request for request in requests if request.function == "get"]
        answers = iter(await self._decide_all(asks, KeyChanges()))
        refused = AuthdError(9009, why)
        return [
            next(answers)
            if request.function == "get"
            else outcome
            if isinstance(outcome, AuthdError) and not depends_on_others(outcome)
            else refused
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    def _without_late(self, outcomes: list[Outcome]) -> list[Outcome]:
        """For a batch of which some rows could not be written: agents with such a row hear 9009 and ask again. So does
        a caller who was refused because of another agent, which may be one of them. The other answers stand."""
        if not self._late.numbers:
            return outcomes
        refused = AuthdError(9009, _HALF_DONE)
        return [
            refused
            if depends_on_others(outcome) or (isinstance(outcome, Granted) and outcome.number in self._late.numbers)
            else outcome
            for outcome in outcomes
        ]

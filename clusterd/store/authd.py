"""Registration of agents on a master (wdb.md 8). An answer is sent only after the change is on disk; requests that
arrive while files are being written form the next batch."""

import asyncio
import hashlib
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from clusterd import stacks
from clusterd.agent_keys import KEY_FILE, Key, parse_id
from clusterd.key_guard import KeyRules, is_accepted
from clusterd.names import is_group_name
from clusterd.settings import ForceRules
from clusterd.store.auth_request import (
    REMOVED,
    AuthdError,
    AuthRequest,
    answer_text,
    is_json,
    is_word,
    parse_address,
    parse_force,
    parse_request,
    success,
    text_of,
)
from clusterd.store.errors import NotAnswered, NotKept, NotLeading, StoreFailed
from clusterd.store.events import Applicant, RegistrationEvents, Tell, to_nobody
from clusterd.store.gate import WriteGate
from clusterd.store.groups import MOST_GROUPS
from clusterd.store.keys import TIMESTAMPS, ChangedMeanwhile, KeyFile, NoIdLeft, NotSynced, SuddenLoss
from clusterd.store.registry import AgentFacts, RegisteredAgents, Registration

SHARED = "etc/shared"
MOST_IN_BATCH = 1000
ATTEMPTS = 3
"""How often a batch is decided again because another program wrote client.keys meanwhile."""
_KEY_LENGTH = 64
_BY_TABLE = (9007, 9008, 9011, 9012)
"""Refusals caused by other agents, including agents whose registration failed in the end."""
Outcome = bytes | AuthdError
_UNSURE = "what this node says of the agent may be lost with it: no candidate has confirmed it, ask again"
_NOT_BEGUN = "nothing is changed, because no candidate could confirm it: {}"
_HALF_DONE = "the keys are written, but not the agents in the database: ask again"
_UNCONFIRMED = "it is done on this node, but no candidate has confirmed it, and etcd does not know so: ask again"


def _is_of_table(outcome: Outcome) -> bool:
    return isinstance(outcome, AuthdError) and outcome.number in _BY_TABLE


class _Changes:
    """The changes of one batch. `added`: new keys with the CSV of their groups; `removed`: keys whose rows the database
    may have. An agent that was added and removed within the batch is in neither, but the file still records that its
    number was given. `askers`: by number, who asked, that of the request at hand being `asker`."""

    def __init__(self) -> None:
        self.added: dict[int, tuple[Key, str | None]] = {}
        self.removed: dict[int, Key] = {}
        self.any = False
        self.askers: dict[int, Applicant] = {}
        self.asker = Applicant()


class Authd:
    """Answers requests in batches. `run` does the work and must run as a task beside them."""

    def __init__(
        self,
        root: str,
        table: RegisteredAgents,
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
        self._shared = Path(root) / SHARED
        self._table = table
        self._file = file
        self._rules = rules
        self._say = say
        self._host_name = socket.gethostname() if host_name is None else host_name
        self._waiting: asyncio.Queue[tuple[AuthRequest, asyncio.Future[bytes]]] = asyncio.Queue()
        self._events = RegistrationEvents(tell, term)
        self._is_failing = False
        self._keyless: set[int] = set()
        """Agents whose keys are gone, or others, and whose rows could not be made so."""
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
        """Handles one batch after another, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MOST_IN_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            outcomes = await self._serve([request for request, _ in batch])
            for (request, _), outcome in zip(batch, outcomes, strict=False):
                if isinstance(outcome, AuthdError):
                    self._events.refused(request, outcome)
            for number, (_, future) in enumerate(batch):
                outcome = outcomes[number] if number < len(outcomes) else AuthdError(9001)
                if not future.done():
                    future.set_result(outcome if isinstance(outcome, bytes) else outcome.answer())

    async def _serve(self, requests: list[AuthRequest]) -> list[Outcome]:
        try:
            if self._gate is not None:
                await self._gate.enter(of_a_batch=False)
            self.is_idle.clear()  # without a pause in between: whoever hands over waits for this batch
            return await self._work_off(requests)
        except (OSError, ValueError, sqlite3.Error, StoreFailed) as failure:
            self._let_go()
            self._failed(f"Registrations cannot be served: {failure}")
            return [AuthdError(9009, str(failure))] * len(requests)
        except Exception:
            # An unexpected failure of one request must not end registration.
            self._let_go()
            self._say("ERROR", f"Unexpected failure: {stacks.told()}")
            return [AuthdError(9001)] * len(requests)
        finally:
            self.is_idle.set()

    def _let_go(self) -> None:
        """What has become of file and database is not known here: both are looked at again."""
        self._file.forget()
        self._file.disown()

    def _failed(self, text: str) -> None:
        """A full disk refuses every batch: log it once, until a batch is written again."""
        if not self._is_failing:
            self._is_failing = True
            self._say("ERROR", text)

    # ---- a batch -----------------------------------------------------------------------------------------------------

    async def _work_off(self, requests: list[AuthRequest]) -> list[Outcome]:
        attempt = 0
        while True:
            attempt += 1
            changes = _Changes()
            outcomes = await self._decide_all(requests, changes)
            if not changes.any:
                return await self._based_on_what_lasts(outcomes)
            why = await self._table.ready()
            if why:
                # It could not be answered, and who asked again later would find that the name is taken.
                self._file.forget()
                return await self._not_written(requests, outcomes, _NOT_BEGUN.format(why))
            try:
                await self._delete_keyless()
                await self._write(changes)
            except (OSError, StoreFailed) as failure:
                self._file.forget()
                if not isinstance(failure, ChangedMeanwhile) or attempt == ATTEMPTS:
                    self._failed(f"Requests for agent keys are refused, nothing is changed: {failure}")
                    return await self._not_written(requests, outcomes, str(failure))
            else:
                if self._is_failing:
                    self._is_failing = False
                    self._say("INFO", f"{KEY_FILE} can be written again.")
                return outcomes

    async def _based_on_what_lasts(self, outcomes: list[Outcome]) -> list[Outcome]:
        """That an agent is there, or is not, is answered when a candidate has what that is based on: a change that
        nobody was told of may be lost with this node, and then it was not so."""
        if not any(_is_of_table(outcome) for outcome in outcomes):
            return outcomes
        why = _UNSURE
        try:
            await self._delete_keyless()
            if await self._table.replicated():
                return outcomes
        except StoreFailed as failure:
            why = str(failure)
        return [AuthdError(9009, why) if _is_of_table(outcome) else outcome for outcome in outcomes]

    async def _delete_keyless(self) -> None:
        """Before anything else is said of them: a candidate that takes over makes a key of each row that had one.
        Raises StoreFailed."""
        gone = {number for number in self._keyless if number not in self._file.table}
        if gone:
            await self._table.apply([], sorted(gone))
            self._keyless -= gone
            self._file.disown()  # another program may have given such an id meanwhile

    async def _decide_all(self, requests: list[AuthRequest], changes: _Changes) -> list[Outcome]:
        is_new = await asyncio.to_thread(self._file.refresh)
        self._keyless = {number for number in self._keyless if number not in self._file.table}
        self._file.table.count_from(await self._table.greatest())
        if is_new and self._file.bad_lines != self._told_bad:
            self._told_bad = self._file.bad_lines
            if self._told_bad:
                self._say("WARNING", f"{KEY_FILE}: {self._told_bad} lines are not of agents; they stay as they are.")
        await self._check_loss()
        outcomes: list[Outcome] = []
        for request in requests:
            changes.asker = Applicant(request.through, request.who)
            try:
                outcomes.append(await self._decide(request, changes))
            except AuthdError as refusal:
                outcomes.append(refusal)
        return outcomes

    async def _check_loss(self) -> None:
        """Raises SuddenLoss: writing the file now would make the loss of many keys permanent."""
        news = self._file.news
        if news is None:
            return
        loss = news.loss(await self._table.keyed(), self._guard())
        if loss is not None and not await asyncio.to_thread(is_accepted, self._root, news.digest):
            raise SuddenLoss(loss.text)

    async def _not_written(self, requests: list[AuthRequest], outcomes: list[Outcome], why: str) -> list[Outcome]:
        """Answers for a batch that was not written, or taken back: queries get the true state, changes get 9009."""
        asks = [request for request in requests if request.function == "get"]
        answers = iter(await self._decide_all(asks, _Changes()))
        refused = AuthdError(9009, why)
        return [
            next(answers)
            if request.function == "get"
            else outcome
            if isinstance(outcome, AuthdError) and not _is_of_table(outcome)
            else refused
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def _write(self, changes: _Changes) -> None:
        """Inserts new rows, writes the file, then replaces and deletes the rows of removed agents: an agent whose key
        stays after all keeps what it has. A crash leaves at most rows without a key, which the follower deletes, and
        rows of the agents that were replaced; it never leaves an unanswered key in the file. Raises StoreFailed,
        OSError: nothing is changed then; NotAnswered."""
        now = int(time.time())
        rows = {
            number: Registration(number, key.name, key.ip, key.key, groups, now)
            for number, (key, groups) in changes.added.items()
        }
        new = [row for number, row in rows.items() if number not in changes.removed]
        if new:
            try:
                await self._table.apply(new, [])
            except NotKept:
                await self._take_back(new)
                raise
        try:
            if self._gate is not None:
                self._gate.check()
            await asyncio.to_thread(self._file.save)
        except NotSynced as failure:
            self._say("ERROR", f"{KEY_FILE} is written, but might not survive a power cut: {failure}")
        except (OSError, NotLeading):
            await self._take_back(new)
            raise
        self.file_writes += 1
        self._keyless -= changes.added.keys()
        try:
            await self._complete(changes, [row for number, row in rows.items() if number in changes.removed], now)
        finally:
            may_answer = await self._table.replicated()
        if not may_answer:
            raise NotAnswered(_UNCONFIRMED)
        if self._keyless:
            raise NotAnswered(_HALF_DONE)

    async def _complete(self, changes: _Changes, replacing: list[Registration], now: int) -> None:
        """What follows when the file is written. `replacing`: new agents with the ids of old ones."""
        gone = sorted(changes.removed.keys() - changes.added.keys())
        if replacing or gone:
            try:
                await self._table.apply(replacing, gone)
            except StoreFailed as failure:
                # The keys are what the callers asked for; the follower mends the rows when it can.
                self._file.disown()
                self._keyless.update(gone, (row.id for row in replacing))
                self._say("ERROR", f"Agents without a key stay in the database for now: {failure}")
        try:
            await asyncio.to_thread(self._file.save_dates, [key for key, _ in changes.added.values()], now)
        except OSError as failure:
            # These are dates for people; the keys themselves are safe.
            self._say("ERROR", f"{TIMESTAMPS} cannot be written: {failure}")
        self._events.written((key for key, _ in changes.added.values()), changes.removed.values(), changes.askers)

    async def _take_back(self, new: list[Registration]) -> None:
        """Deletes the new rows."""
        if not new:
            return
        numbers = sorted(row.id for row in new)
        try:
            await self._table.apply([], numbers)
        except NotKept:
            pass  # it is done; a crash may bring them back, which the next start deletes
        except StoreFailed as failure:
            self._keyless.update(numbers)
            self._say("ERROR", f"Agents without a key stay in the database for now: {failure}")
        self._file.disown()  # rows stay, or that of another program's agent with such an id has gone, too

    # ---- a request ---------------------------------------------------------------------------------------------------

    async def _decide(self, request: AuthRequest, changes: _Changes) -> bytes:
        if request.function == "add":
            return await self._add(request.arguments, changes)
        number = parse_id(request.arguments["id"])
        key = None if number is None else self._file.table.get(number)
        if key is None:
            raise AuthdError(9011)
        if request.function == "get":
            if key.number not in changes.added and not await self._table.is_kept(key.number):
                raise AuthdError(9009, _UNSURE)
            return success(key)
        self._remove(key, changes, purge=request.arguments.get("purge") is True)
        return REMOVED

    def _remove(self, key: Key, changes: _Changes, *, purge: bool) -> None:
        self._file.table.remove(key.number, purge=purge)
        changes.any = True
        changes.askers[key.number] = changes.asker
        if changes.added.pop(key.number, None) is None:
            changes.removed[key.number] = key

    async def _add(self, arguments: dict[str, Any], changes: _Changes) -> bytes:
        """Checks in the order of wdb.md 8.2. An old agent is replaced at once, even if a later check fails."""
        table = self._file.table
        name, given, held = arguments["name"], arguments.get("id"), arguments.get("key")
        rules = parse_force(arguments["force"]) if "force" in arguments else self._rules()
        groups = await asyncio.to_thread(self._groups, arguments["groups"]) if arguments.get("groups") else None

        async def make_room(holder: Callable[[], Key | None], number: int) -> None:
            # A file written by other programs can have several agents with one name.
            while (key := holder()) is not None:
                if not await self._may_replace(key, rules, arguments.get("key_hash"), changes):
                    raise AuthdError(number)
                self._remove(key, changes, purge=False)

        if given is not None:
            wanted = parse_id(given) if isinstance(given, str) else None
            if wanted is None:
                raise AuthdError(9010, "an id is a number above 0, as text")
            await make_room(lambda: table.get(wanted), 9012)
        ip = parse_address(arguments["ip"])
        await make_room(lambda: table.at(ip), 9007)
        if name == self._host_name:
            raise AuthdError(9008)
        await make_room(lambda: table.named(name), 9008)
        if held is not None and not (isinstance(held, str) and is_word(held)):
            raise AuthdError(9009, "a key is one word")
        try:
            key = Key(given or table.next_id(), name, ip, held or secrets.token_hex(_KEY_LENGTH // 2))
        except NoIdLeft as failure:
            raise AuthdError(9013, str(failure)) from None
        table.add(key)
        changes.any = True
        changes.added[key.number] = (key, groups)
        changes.askers[key.number] = changes.asker
        return success(key)

    def _groups(self, text: object) -> str:
        """The CSV without duplicates. Raises AuthdError 9014."""
        if not isinstance(text, str):
            raise AuthdError(9014)
        names = list(dict.fromkeys(text.split(",")))
        if len(names) > MOST_GROUPS or not all(is_group_name(name) for name in names):
            raise AuthdError(9014)
        if not all((self._shared / name).is_dir() for name in names):
            raise AuthdError(9014)
        return ",".join(names)

    async def _may_replace(self, key: Key, rules: ForceRules, key_hash: object, changes: _Changes) -> bool:
        """Whether an existing agent may be replaced (wdb.md 8.4)."""
        if not rules.enabled:
            return False
        now = int(time.time())
        facts: AgentFacts | None
        if key.number in changes.added:
            facts = AgentFacts("never_connected", 0, now)
        else:
            facts = await self._table.facts(key.number)
        if facts is None:
            return False
        if rules.disconnected_s is not None and facts.connection_status != "never_connected":
            if not facts.disconnection_time:
                return False
            if facts.connection_status == "disconnected" and now - facts.disconnection_time < rules.disconnected_s:
                return False
        if rules.after_registration_s > 0 and now - facts.date_add < rules.after_registration_s:
            return False
        if isinstance(key_hash, str) and rules.key_mismatch:
            old = f"{key.id}{key.name}{key.key}".encode(errors="surrogateescape")
            return hashlib.sha1(old, usedforsecurity=False).hexdigest() != key_hash
        return True

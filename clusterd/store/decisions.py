"""What one request to authd does to the table of keys (wdb.md 8.2 to 8.4). Nothing is written here."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from clusterd.agent_keys import Key, parse_id
from clusterd.names import is_group_name
from clusterd.settings import ForceRules
from clusterd.store.auth_request import REMOVED, AuthdError, AuthRequest, is_word, parse_address, parse_force, success
from clusterd.store.events import Applicant
from clusterd.store.groups import MOST_GROUPS
from clusterd.store.key_table import KeyTable, NoIdLeft
from clusterd.store.registry import AgentFacts, RegisteredAgents

SHARED = "etc/shared"
UNSURE = "what this node says of the agent may be lost with it: no candidate has confirmed it, ask again"
NOTE_S = 600
"""So long after a registration the note counts that nobody may have heard of it, where another process has made that:
it may have been killed, or have handed over, between the answer and the end of the note."""
_KEY_LENGTH = 64
_BY_TABLE = (9007, 9008, 9011, 9012)


class Granted(msgspec.Struct, frozen=True):
    """A request that is carried out. `number`: of the agent that it changes, 0 if it only asks."""

    answer: bytes
    number: int = 0


Outcome = Granted | AuthdError


def depends_on_others(outcome: Outcome) -> bool:
    """Whether this is a refusal caused by an agent that is there, or is not: also one whose registration fails in the
    end."""
    return isinstance(outcome, AuthdError) and outcome.number in _BY_TABLE


class KeyChanges:
    """The changes of one batch. `added`: new keys with the CSV of their groups; `removed`: keys whose rows the database
    may have. An agent that was added and removed within the batch is in neither, but the file still records that its
    number was given. `askers`: by number, who asked, that of the request at hand being `asker`."""

    def __init__(self) -> None:
        self.added: dict[int, tuple[Key, str | None]] = {}
        self.removed: dict[int, Key] = {}
        self.any = False
        self.askers: dict[int, Applicant] = {}
        self.asker = Applicant()

    def add(self, key: Key, groups: str | None) -> None:
        self.any = True
        self.added[key.number] = (key, groups)
        self.askers[key.number] = self.asker

    def remove(self, key: Key) -> None:
        self.any = True
        self.askers[key.number] = self.asker
        if self.added.pop(key.number, None) is None:
            self.removed[key.number] = key


class Decisions:
    """Decides requests one after the other: each sees what those before have done to the table."""

    def __init__(self, root: str, agents: RegisteredAgents, rules: Callable[[], ForceRules], host_name: str) -> None:
        """`rules`: returns the node's current rules. `host_name`: a name that no agent may have."""
        self._shared = Path(root) / SHARED
        self._agents = agents
        self._rules = rules
        self._host_name = host_name
        self.unheard: set[int] = set()
        """Agents whose registration nobody may have heard of: who asks for the same one again is given another."""
        self.loaded: frozenset[int] = frozenset()
        """Of these another process has noted that."""

    async def decide(self, request: AuthRequest, table: KeyTable, changes: KeyChanges) -> Outcome:
        """Raises sqlite3.Error."""
        changes.asker = Applicant(request.through, request.who)
        try:
            if request.function == "add":
                return await self._add(request.arguments, table, changes)
            return await self._get_or_remove(request, table, changes)
        except AuthdError as refusal:
            return refusal

    async def _get_or_remove(self, request: AuthRequest, table: KeyTable, changes: KeyChanges) -> Granted:
        number = parse_id(request.arguments["id"])
        key = None if number is None else table.get(number)
        if key is None:
            raise AuthdError(9011)
        if request.function == "get":
            if key.number not in changes.added and not await self._agents.is_kept(key.number):
                raise AuthdError(9009, UNSURE)
            return Granted(success(key))
        table.remove(key.number, purge=request.arguments.get("purge") is True)
        changes.remove(key)
        return Granted(REMOVED, key.number)

    async def _add(self, arguments: dict[str, Any], table: KeyTable, changes: KeyChanges) -> Granted:
        """Checks in the order of wdb.md 8.2. An old agent is replaced at once, even if a later check fails."""
        name, given, held = arguments["name"], arguments.get("id"), arguments.get("key")
        rules = parse_force(arguments["force"]) if "force" in arguments else self._rules()
        groups = await asyncio.to_thread(self._groups, arguments["groups"]) if arguments.get("groups") else None

        async def make_room(holder: Callable[[], Key | None], number: int) -> None:
            # A file written by other programs can have several agents with one name.
            while (key := holder()) is not None:
                is_again = key.number in self.unheard and (key.name, key.ip) == (name, parse_address(arguments["ip"]))
                if not (is_again and await self._may_be_unheard(key)) and not await self._may_replace(
                    key, rules, arguments.get("key_hash"), changes
                ):
                    raise AuthdError(number)
                table.remove(key.number, purge=False)
                changes.remove(key)

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
        changes.add(key, groups)
        return Granted(success(key), key.number)

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

    async def _may_be_unheard(self, key: Key) -> bool:
        """It has not connected, and a note of another process is not too old. By the wall clock, which a restart does
        not change; that of the node that registered it may be another one."""
        facts = await self._agents.facts(key.number)
        if facts is None or facts.connection_status != "never_connected":
            return False
        return key.number not in self.loaded or abs(int(time.time()) - facts.date_add) < NOTE_S

    async def _may_replace(self, key: Key, rules: ForceRules, key_hash: object, changes: KeyChanges) -> bool:
        """Whether an existing agent may be replaced (wdb.md 8.4)."""
        if not rules.enabled:
            return False
        now = int(time.time())
        facts: AgentFacts | None
        if key.number in changes.added:
            facts = AgentFacts("never_connected", 0, now)
        else:
            facts = await self._agents.facts(key.number)
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

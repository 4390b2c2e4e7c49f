"""Registration of agents (wdb.md 8), on a master. What is answered is on disk: requests that come while files are written go
into the next batch together."""

import asyncio
import hashlib
import ipaddress
import re
import secrets
import socket
import sqlite3
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from clusterd.settings import ForceRules
from clusterd.store.errors import StoreFailed
from clusterd.store.groups import MOST_GROUPS, is_group_name
from clusterd.store.jsontext import encode
from clusterd.store.keys import ANY, Key, KeyFile
from clusterd.store.registry import AgentFacts, AgentTable, NewAgent

SHARED = "etc/shared"
MOST_IN_BATCH = 1000
MESSAGES = {
    9001: "Internal error",
    9002: "Parsing JSON input",
    9003: "No such function",
    9004: "No such argument",
    9005: "No such name",
    9006: "No such IP",
    9007: "Duplicate IP",
    9008: "Duplicate name",
    9009: "Issue generating key",
    9010: "No such agent ID",
    9011: "Agent ID not found",
    9012: "Duplicate ID",
    9013: "Maximum number of agents reached",
    9014: "Invalid Group(s) Name(s)",
    9015: "Cannot execute this request on a worker node",
}
FUNCTIONS = ("add", "remove", "get")
_TIME = re.compile(r"(\d{1,10})([dhms]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_WORD = re.compile(r"[^\s!#][^\s]*")
_ID = re.compile(r"\d{1,9}", re.ASCII)
_KEY_LENGTH = 64


class AuthdError(Exception):
    """A request that is refused. `detail` goes behind the stock message."""

    def __init__(self, number: int, detail: str = "") -> None:
        super().__init__(number, detail)
        self.number = number
        self.detail = detail

    def answer(self) -> bytes:
        message = MESSAGES[self.number] + (f": {self.detail}" if self.detail else "")
        return encode({"error": self.number, "message": message})


class Request(msgspec.Struct, frozen=True):
    """A request in good form."""

    function: str
    arguments: dict[str, Any]


def parse_request(text: str) -> Request:
    """Raises AuthdError for what needs no look at any agent: 9001 to 9005, 9010."""
    try:
        content = msgspec.json.decode(text.encode(errors="surrogateescape"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AuthdError(9002) from None
    if not isinstance(content, dict):
        raise AuthdError(9002)
    function, arguments = content.get("function"), content.get("arguments")
    if not isinstance(function, str):
        raise AuthdError(9003)
    if not isinstance(arguments, dict):
        raise AuthdError(9004)
    if function not in FUNCTIONS:
        raise AuthdError(9001)
    if function == "add":
        if not isinstance(arguments.get("name"), str) or not _WORD.fullmatch(arguments["name"]):
            raise AuthdError(9005)
        if not isinstance(arguments.get("ip"), str):
            raise AuthdError(9006)
        if "force" in arguments:
            parse_force(arguments["force"])
    elif not isinstance(arguments.get("id"), str) or not arguments["id"]:
        raise AuthdError(9010)
    return Request(function, arguments)


def parse_force(content: object) -> ForceRules:
    """The member `force`, all of whose members are required. Raises AuthdError 9002."""
    if not isinstance(content, dict):
        raise AuthdError(9002)
    waited = content.get("disconnected_time")
    if not isinstance(waited, dict):
        raise AuthdError(9002)
    enabled, mismatch, looked_at = content.get("enabled"), content.get("key_mismatch"), waited.get("enabled")
    if not all(isinstance(one, bool) for one in (enabled, mismatch, looked_at)):
        raise AuthdError(9002)
    disconnected_s = _seconds(waited.get("value"))
    return ForceRules(
        enabled is True,
        disconnected_s if looked_at else None,
        _seconds(content.get("after_registration_time")),
        mismatch is True,
    )


def _seconds(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise AuthdError(9002)
    return int(found[1]) * _UNITS[found[2]]


def parse_address(text: str) -> str:
    """As it is stored: IPv6 in full, upper case. Raises AuthdError 9006."""
    if text == ANY:
        return ANY
    address, slash, prefix = text.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
        if slash and not (prefix.isascii() and prefix.isdigit() and int(prefix) <= parsed.max_prefixlen):
            raise AuthdError(9006)
    except ValueError:
        raise AuthdError(9006) from None
    written = parsed.exploded.upper() if parsed.version == 6 else str(parsed)
    return f"{written}{slash}{prefix}"


class _Changes:
    """What one batch did to the table."""

    def __init__(self) -> None:
        self.added: dict[int, tuple[Key, str | None]] = {}
        self.removed: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


class Authd:
    """Answers requests in batches. `run` does the work and must run beside them."""

    def __init__(
        self,
        root: str,
        table: AgentTable,
        file: KeyFile,
        rules: Callable[[], ForceRules],
        *,
        say: Callable[[str, str], None],
        host_name: str | None = None,
    ) -> None:
        """`rules`: those of the node at the moment; `say`: level and text of a log line. `host_name`: a name no agent may have; this machine's if not given."""
        self._shared = Path(root) / SHARED
        self._table = table
        self._file = file
        self._rules = rules
        self._say = say
        self._host_name = socket.gethostname() if host_name is None else host_name
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[bytes]]] = asyncio.Queue()
        self.file_writes = 0

    async def answer(self, payload: bytes) -> bytes:
        """The answer to one request; for `add` and `remove` after everything is on disk."""
        text = payload.rstrip(b"\0").decode(errors="surrogateescape")
        if not text.lstrip().startswith("{"):
            return answer_text(text, self._rules())
        try:
            request = parse_request(text)
        except AuthdError as refusal:
            return refusal.answer()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((request, future))
        return await future

    async def run(self) -> None:
        """Batch after batch, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MOST_IN_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                answers = await self._work_off([request for request, _ in batch])
            except (OSError, ValueError, sqlite3.Error) as failure:
                self._file.forget()
                self._say("ERROR", f"Registrations cannot be served: {failure}")
                answers = [AuthdError(9009, str(failure)).answer()] * len(batch)
            except Exception:
                # Whatever one request trips over must not end registration.
                self._file.forget()
                self._say("ERROR", f"Unexpected failure: {traceback.format_exc()}")
                answers = [AuthdError(9001).answer()] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    # ---- a batch ---------------------------------------------------------------------------------------------------------

    async def _work_off(self, requests: list[Request]) -> list[bytes]:
        await asyncio.to_thread(self._file.refresh)
        changes, answers, changed = _Changes(), list[bytes](), list[bool]()
        for request in requests:
            try:
                answers.append(await self._decide(request, changes))
                changed.append(request.function != "get")
            except AuthdError as refusal:
                answers.append(refusal.answer())
                changed.append(False)
        if not changes:
            return answers
        try:
            await self._write(changes)
        except (OSError, StoreFailed) as failure:
            self._file.forget()
            self._say("ERROR", f"{len(requests)} requests for agent keys were refused, nothing was changed: {failure}")
            refused = AuthdError(9009, str(failure)).answer()
            return [refused if done else answer for done, answer in zip(changed, answers, strict=True)]
        return answers

    async def _write(self, changes: _Changes) -> None:
        """The database first, then the file: what a crash leaves between them, the follower takes back. Raises StoreFailed,
        OSError, and nothing is changed then."""
        now = int(time.time())
        added = [
            NewAgent(number, key.name, key.ip, key.key, groups, now) for number, (key, groups) in changes.added.items()
        ]
        await self._table.apply(added, sorted(changes.removed - changes.added.keys()))
        try:
            await asyncio.to_thread(self._file.save)
        except OSError:
            await self._table.apply([], sorted(changes.added))
            raise
        self.file_writes += 1
        try:
            await asyncio.to_thread(self._file.save_dates, [key for key, _ in changes.added.values()], now)
        except OSError as failure:
            # Dates of registration for people; the keys themselves are safe.
            self._say("WARNING", f"queue/agents-timestamp cannot be written: {failure}")

    async def _decide(self, request: Request, changes: _Changes) -> bytes:
        if request.function == "add":
            return await self._add(request.arguments, changes)
        key = self._by_id(request.arguments["id"])
        if key is None:
            raise AuthdError(9011)
        if request.function == "get":
            return _success(key)
        self._remove(key, changes, purge=request.arguments.get("purge") is True)
        return encode({"error": 0, "data": "Agent deleted successfully."})

    def _by_id(self, text: str) -> Key | None:
        return self._file.table.get(int(text)) if _ID.fullmatch(text) else None

    def _remove(self, key: Key, changes: _Changes, *, purge: bool) -> None:
        self._file.table.remove(key.number, purge=purge)
        changes.added.pop(key.number, None)
        changes.removed.add(key.number)

    async def _add(self, arguments: dict[str, Any], changes: _Changes) -> bytes:
        table = self._file.table
        name, given, held = arguments["name"], arguments.get("id"), arguments.get("key")
        rules = parse_force(arguments["force"]) if "force" in arguments else self._rules()
        groups = await asyncio.to_thread(self._groups, arguments["groups"]) if arguments.get("groups") else None

        async def make_room(key: Key | None, number: int) -> None:
            if key is None:
                return
            if not await self._may_replace(key, rules, arguments.get("key_hash"), changes):
                raise AuthdError(number)
            self._remove(key, changes, purge=False)

        if given is not None:
            if not isinstance(given, str) or not _ID.fullmatch(given) or not int(given):
                raise AuthdError(9010, "an id is a number above 0 with at most 9 digits")
            await make_room(table.get(int(given)), 9012)
        ip = parse_address(arguments["ip"])
        await make_room(table.at(ip), 9007)
        if name == self._host_name:
            raise AuthdError(9008)
        await make_room(table.named(name), 9008)
        if held is not None and (not isinstance(held, str) or not held or held.split() != [held]):
            raise AuthdError(9009, "a key is one word")
        key = Key(given or table.next_id(), name, ip, held or secrets.token_hex(_KEY_LENGTH // 2))
        table.add(key)
        changes.added[key.number] = (key, groups)
        return _success(key)

    def _groups(self, text: object) -> str:
        """The CSV without repeated names. Raises AuthdError 9014."""
        if not isinstance(text, str):
            raise AuthdError(9014)
        names = list(dict.fromkeys(text.split(",")))
        if len(names) > MOST_GROUPS or not all(is_group_name(name) for name in names):
            raise AuthdError(9014)
        if not all((self._shared / name).is_dir() for name in names):
            raise AuthdError(9014)
        return ",".join(names)

    async def _may_replace(self, key: Key, rules: ForceRules, key_hash: object, changes: _Changes) -> bool:
        """wdb.md 8.4. An agent that this very batch has registered is too young to be replaced."""
        if not rules.enabled:
            return False
        facts = await self._table.facts(key.number)
        if key.number in changes.added:
            facts = AgentFacts("never_connected", 0, int(time.time()))
        if facts is None:
            return False
        now = int(time.time())
        if rules.disconnected_s is not None and facts.connection_status != "never_connected":
            if not facts.disconnection_time:
                return False
            if facts.connection_status == "disconnected" and now - facts.disconnection_time < rules.disconnected_s:
                return False
        if rules.after_registration_s > 0 and now - facts.date_add < rules.after_registration_s:
            return False
        if isinstance(key_hash, str) and rules.key_mismatch:
            held = f"{key.id}{key.name}{key.key}".encode(errors="surrogateescape")
            return hashlib.sha1(held, usedforsecurity=False).hexdigest() != key_hash
        return True


def _success(key: Key) -> bytes:
    return encode({"error": 0, "data": {"id": key.id, "name": key.name, "ip": key.ip, "key": key.key}})


def answer_text(text: str, rules: ForceRules) -> bytes:
    """Requests that are no JSON: `getconfig auth`."""
    if text.strip() != "getconfig auth":
        return b"err Unrecognized command"
    force = {
        "enabled": "yes" if rules.enabled else "no",
        "key_mismatch": "yes" if rules.key_mismatch else "no",
        "disconnected_time": {
            "enabled": "no" if rules.disconnected_s is None else "yes",
            "value": rules.disconnected_s or 0,
        },
        "after_registration_time": rules.after_registration_s,
    }
    return b"ok " + encode({"auth": {"disabled": "yes", "force": force}})

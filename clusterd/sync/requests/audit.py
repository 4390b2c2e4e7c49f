"""Log lines about requests of the API: who asked for what, and with which result, under a subtag of their own. Changes
and secrets at INFO, everything else at DEBUG2.

The user is what the asker claims: any holder of the cluster key, and any user of the local socket, can claim anything.
Process, node and address are what we see ourselves.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clusterd.dapi.protocol.envelope import Envelope
from clusterd.dapi.protocol.policy import find
from clusterd.logs import Log
from clusterd.messages.base import Text
from clusterd.messages.journal import AnyEvent, RequestEvent
from clusterd.sync.links.peer import Peer
from clusterd.wire.results import shorten

Work = Callable[[Envelope], Awaitable[Text]]
SUBTAG = "API audit"
LONGEST_USER = 64
LONGEST_NAME = 100
LONGEST_OBJECTS = 200
LARGEST_ARGUMENTS = 8 << 20
_OBJECTS = (
    *("filename", "relative_dirname", "group_id", "group_list", "agent_list", "agent_id", "node_id", "node_list"),
    *("username", "user_id", "user_ids", "role_id", "role_ids", "policy_id", "policy_ids", "rule_id", "rule_ids"),
    *("name", "command", "section"),
)
"""Arguments that name something; all others may be secret, or large."""


class _AuditedRequest(msgspec.Struct):
    current_user: Any = ""
    f_kwargs: msgspec.Raw = msgspec.Raw(b"")


class _EncodedOutcome(msgspec.Struct):
    fields: Any = msgspec.field(name="__object__", default=None)


class _AuditedAnswer(msgspec.Struct):
    exception: _EncodedOutcome | None = msgspec.field(name="__wazuh_exception__", default=None)
    result: _EncodedOutcome | None = msgspec.field(name="__wazuh_result__", default=None)


_RESULT = re.compile(r"(?:\d+ )?(done|refused)\b")
"""How the text begins that tells what became of a request."""
_UNCERTAIN = frozenset({"900", "901", "3020", "3021"})
"""Codes of functions that may have been executed, or still run."""
_BROKEN = "1000"
_requests = msgspec.json.Decoder(_AuditedRequest)
_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw])
_answers = msgspec.json.Decoder(_AuditedAnswer)


class Audit:
    """Owns the lines. `tag`: the role's."""

    def __init__(self, log: Log, tag: str, tell: Callable[[AnyEvent], None] = lambda event: None) -> None:
        """`tell`: takes requests that change something or return a secret, for the journal."""
        self._log = log
        self._tag = tag
        self._tell = tell

    def audited(self, peer: Peer, content: bytes, work: Work, *, given_on: bool = False) -> Work:
        """Returns `work`, with a line when it has ended. `given_on`: another node executes it, and logs there what it
        did."""

        async def told(envelope: Envelope) -> Text:
            level = _level(envelope)
            if not self._log.is_on(level):
                return await work(envelope)
            where = ", given to another node" if given_on else ""
            asked = _asked(envelope, content)
            end = "broken off, it may have been done"
            try:
                answer = await work(envelope)
                end = _outcome(answer)
            except asyncio.CancelledError:
                raise
            except Exception as failure:
                end = f"no answer ({shorten(str(failure), LONGEST_OBJECTS)})"
                raise
            finally:
                self._log.line(level, self._tag, SUBTAG, f"{asked} asked by {_who(peer)}{where}: {end}.")
                if level == "INFO" and not given_on:
                    self._tell(asked.event(_who(peer), end))
            return answer

        return told


def _level(envelope: Envelope) -> str:
    row = find(envelope.function)
    return "INFO" if row is not None and row.is_sensitive else "DEBUG2"


def _who(peer: Peer) -> str:
    info = peer.info
    match info.kind:
        case "worker":
            return f"worker {peer.name}"
        case "master":
            return "the master"
        case _:
            return f"a local program (user id {info.uid}, pid {info.pid})"


class _AuditedCall(msgspec.Struct, frozen=True):
    """Returns the function, the objects it is about, and the user named by the asker."""

    function: str
    about: str
    user: str

    def __str__(self) -> str:
        about = f" ({self.about})" if self.about else ""
        return f"{self.function}{about}" + (f", user {self.user!r}," if self.user else "")

    def event(self, who: str, end: str) -> RequestEvent:
        found = _RESULT.match(end)
        word = found[1] if found else "failed"
        return RequestEvent(function=self.function, about=self.about, user=self.user, through=who, result=word, why=end)


def _asked(envelope: Envelope, content: bytes) -> _AuditedCall:
    try:
        request = _requests.decode(content)
        user = request.current_user if isinstance(request.current_user, str) else ""
        found = _arguments.decode(request.f_kwargs) if len(request.f_kwargs) <= LARGEST_ARGUMENTS else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        user, found = "", {}
    objects = [f"{key} {_shown(found[key])}" for key in _OBJECTS if key in found]
    about = shorten(", ".join(objects), LONGEST_OBJECTS)
    return _AuditedCall(shorten(envelope.function.name, LONGEST_NAME), about, shorten(user, LONGEST_USER))


def _shown(value: msgspec.Raw) -> str:
    return bytes(memoryview(value)[: 4 * LONGEST_OBJECTS]).decode(errors="replace")


def _outcome(answer: Text) -> str:
    if answer.path:
        return "done, a large answer"
    try:
        found = _answers.decode(answer.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "done"
    if found.exception is not None:
        code = _code(found.exception.fields)
        if code in _UNCERTAIN:
            return f"failed with {code}, it may have been done"
        return f"{'failed' if code == _BROKEN else 'refused'} with {code}"
    fields = found.result.fields if found.result is not None else None
    if not isinstance(fields, dict) or not isinstance(fields.get("total_affected_items"), int):
        return "done"
    failed = fields.get("failed_items_keys")
    codes = (
        {_code(key.get("__object__")) for key in failed if isinstance(key, dict)} if isinstance(failed, list) else set()
    )
    said = f"{fields['total_affected_items']} done"
    return f"{said}, {fields.get('total_failed_items')} not ({', '.join(sorted(codes)[:10])})" if codes else said


def _code(fields: Any) -> str:
    code = fields.get("code") if isinstance(fields, dict) else None
    return str(code) if isinstance(code, int) else "an unknown code"

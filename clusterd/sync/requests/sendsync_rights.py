"""Which requests of workers' daemons reach the master's daemons (`worker_api`), and what the audit logs of them.

Registering agents is the purpose of workers: a master serves registrations whatever `worker_api` is. Below `full` these
are allowed (wdb.md 9.1, 10.3): a new agent, for which other agents are replaced only by the master's own rules;
removing that agent again when its key did not arrive, or the next attempt would be a duplicate; and a group at its
first keepalive.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.wire.results import dump_json, shorten

LONGEST_ID = 64
UNDO_S = 900.0
"""How long a worker may remove an agent that it has registered: its daemon waits 600 s for an answer."""
_REMEMBERED = 4096
_REGISTRATION = ("name", "ip", "groups", "key_hash")
_NOT_NEW = ("id", "key", "force")
"""Arguments about an existing agent: whose number or key the new one takes, which agent it replaces."""
_AGENT = re.compile(r"[0-9]{1,10}")
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_WORD = re.compile(r"[a-z0-9_.-]{1,40}")
_READS = re.compile(r"(get|find|select)\b|(get|find|select)-|upgrade_get_status\b|upgrade_result\b")


class WorkerRights:
    """Decides what is sent to the daemons. Remembers in memory which worker has registered which agent."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: monotonic seconds."""
        self._now = now
        self._added: dict[tuple[str, str], float] = {}

    def permitted(self, worker: str, daemon: str, message: bytes, worker_api: str) -> bytes | None:
        """Returns what to send to the daemon, None where this master's `worker_api` refuses it. Below `full` the
        message is written anew from what was parsed, because daemons read some JSON differently from us."""
        if worker_api == "full":
            return message
        request = _decoded(message)
        if daemon == "remoted" and request.get("command") == "assigngroup":
            return _group(request.get("parameters"))
        arguments = request.get("arguments")
        if daemon != "authd" or not isinstance(arguments, dict):
            return None
        match request.get("function"):
            case "add" if not any(name in arguments for name in _NOT_NEW):
                kept = {name: arguments[name] for name in _REGISTRATION if name in arguments}
                return dump_json({"function": "add", "arguments": kept})
            case "remove" if self._take_back(worker, arguments.get("id")):
                kept = {name: arguments[name] for name in ("id", "purge") if name in arguments}
                return dump_json({"function": "remove", "arguments": kept})
        return None

    def answered(self, worker: str, daemon: str, message: bytes, answer: bytes, worker_api: str) -> None:
        """Takes the daemon's answer to a message of this worker. Remembers nothing while everything is permitted."""
        if worker_api == "full" or daemon != "authd" or _decoded(message).get("function") != "add":
            return
        number = _registered(_decoded(answer))
        if number:
            self._forget_old()
            self._added[worker, number] = self._now()

    def _take_back(self, worker: str, number: object) -> bool:
        """Returns whether this worker registered the agent a moment ago. True only once."""
        self._forget_old()
        return isinstance(number, str) and self._added.pop((worker, number), None) is not None

    def _forget_old(self) -> None:
        while self._added:
            oldest = next(iter(self._added))
            if len(self._added) < _REMEMBERED and self._now() - self._added[oldest] < UNDO_S:
                return
            del self._added[oldest]


def _group(parameters: object) -> bytes | None:
    """remoted gives a group to an agent without one, and leaves others unchanged."""
    match parameters:
        case {"agent": str() as agent, "md5": str() as md5} if _AGENT.fullmatch(agent) and _MD5.fullmatch(md5):
            return dump_json({"command": "assigngroup", "parameters": {"agent": agent, "md5": md5}})
    return None


THROUGH = "clusterd_through"
WHO = "clusterd_who"
"""Members of a request to a store of ours (clusterd/store/auth_request.py)."""


def through(message: bytes, worker: str, asked: bytes) -> bytes:
    """For our own authd: the message with the worker that passes it on. `asked`: the request, which may itself name the
    asker."""
    request, who = _decoded(message), _decoded(asked).get(WHO)
    own = {THROUGH: worker} | ({WHO: who} if isinstance(who, str) else {})
    return dump_json(request | own) if request else message


def without_own(message: bytes) -> bytes:
    """The same message without the members that only a store of ours knows."""
    if WHO.encode() not in message:
        return message
    request = _decoded(message)
    return dump_json({name: value for name, value in request.items() if name != WHO}) if WHO in request else message


def described(daemon: str, message: bytes) -> tuple[str, bool]:
    """Returns a text for people, without possible secrets: daemon, command, the number of the agent; and whether the
    request only reads, and no key."""
    request = _decoded(message)
    words = (
        [_text(request, "function") or _text(request, "command")]
        if request
        else message[:100].decode(errors="replace").split()
    )
    if not request:
        # `global get-agent-info 1`, `agent 001 sql ...`: the rest may be anything.
        words = words[: 3 if words[1:2] and words[1].isdigit() else 2]
    command = " ".join(word for word in words if _WORD.fullmatch(word))
    arguments = request.get("arguments")
    about = arguments.get("id") if isinstance(arguments, dict) else None
    reads = daemon != "authd" and _READS.match(command.rpartition(" ")[2]) is not None
    return f"{daemon} {command}".rstrip() + (
        f" (id {shorten(about, LONGEST_ID)!r})" if isinstance(about, str) else ""
    ), reads


def outcome(answer: bytes) -> str:
    """Returns the outcome of the request, without the content of the answer."""
    if answer.startswith(b"err"):
        return "refused"
    found = _decoded(answer)
    code = found.get("error")
    if isinstance(code, int) and code:
        return f"refused with {code}"
    number = _registered(found)
    return f"done, agent {shorten(number, LONGEST_ID)!r}" if number else "done"


def _registered(answer: dict[str, Any]) -> str:
    """Returns the number of the agent in an answer of authd; empty if there is none, or if it failed."""
    data = answer.get("data")
    number = data.get("id") if isinstance(data, dict) and not answer.get("error") else None
    return number if isinstance(number, str) else ""


def _decoded(content: bytes) -> dict[str, Any]:
    """Returns an object, an empty one for anything else."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    return value if isinstance(value, str) else ""

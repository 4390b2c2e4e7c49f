"""What a worker's daemon asks a daemon of the master for: who may (`worker_api`), and what the audit says of it.

Registrations are what workers are for: a master serves them whatever `worker_api` says. What one needs below `full`
(wdb.md 9.1, 10.3): a new agent, for which nobody has to make room but by the master's own rules; that agent taken back
when its key did not reach it, or its next try would be a duplicate; and a group at its first keepalive.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.wire.results import dump_json, shorten

LONGEST_ID = 64
UNDO_S = 900.0
"""How long a worker may take back what it has registered: its daemon waits 600 s for an answer."""
_REMEMBERED = 4096
_REGISTRATION = ("name", "ip", "groups", "key_hash")
_NOT_NEW = ("id", "key", "force")
"""Arguments of a request about an agent that there is: whose number or key it takes, whom it replaces."""
_AGENT = re.compile(r"[0-9]{1,10}")
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_WORD = re.compile(r"[a-z0-9_.-]{1,40}")
_READS = re.compile(r"(get|find|select)\b|(get|find|select)-|upgrade_get_status\b|upgrade_result\b")


class WorkerRights:
    """Decides what goes to the daemons. Remembers who has registered which agent, in memory."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: monotonic seconds."""
        self._now = now
        self._added: dict[tuple[str, str], float] = {}

    def permitted(self, worker: str, daemon: str, message: bytes, worker_api: str) -> bytes | None:
        """What goes to the daemon, None where this master's `worker_api` refuses it. Below `full` it is made anew from
        what was understood: daemons read some JSON in other ways than we do."""
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
        """What the daemon has said to a message of this worker. Nothing is remembered while everything is permitted."""
        if worker_api == "full" or daemon != "authd" or _decoded(message).get("function") != "add":
            return
        number = _registered(_decoded(answer))
        if number:
            self._forget_old()
            self._added[worker, number] = self._now()

    def _take_back(self, worker: str, number: object) -> bool:
        """Whether this worker has registered the agent a moment ago. Once."""
        self._forget_old()
        return isinstance(number, str) and self._added.pop((worker, number), None) is not None

    def _forget_old(self) -> None:
        while self._added:
            oldest = next(iter(self._added))
            if len(self._added) < _REMEMBERED and self._now() - self._added[oldest] < UNDO_S:
                return
            del self._added[oldest]


def _group(parameters: object) -> bytes | None:
    """remoted gives a group to an agent that has none, and leaves others as they are."""
    match parameters:
        case {"agent": str() as agent, "md5": str() as md5} if _AGENT.fullmatch(agent) and _MD5.fullmatch(md5):
            return dump_json({"command": "assigngroup", "parameters": {"agent": agent, "md5": md5}})
    return None


THROUGH = "clusterd_through"
WHO = "clusterd_who"
"""Members of a request to a store of ours (clusterd/store/auth_request.py)."""


def through(message: bytes, worker: str, asked: bytes) -> bytes:
    """For our own authd: the same, and which worker passes it on. `asked`: what came, which may say for whom."""
    request, who = _decoded(message), _decoded(asked).get(WHO)
    own = {THROUGH: worker} | ({WHO: who} if isinstance(who, str) else {})
    return dump_json(request | own) if request else message


def without_own(message: bytes) -> bytes:
    """The same without what only a store of ours knows."""
    if WHO.encode() not in message:
        return message
    request = _decoded(message)
    return dump_json({name: value for name, value in request.items() if name != WHO}) if WHO in request else message


def described(daemon: str, message: bytes) -> tuple[str, bool]:
    """For people, without what may be secret: daemon, command, the number of the agent; and whether it only reads what
    is no key."""
    request = _decoded(message)
    words = (
        [_text(request, "function") or _text(request, "command")]
        if request
        else message[:100].decode(errors="replace").split()
    )
    if not request:
        # `global get-agent-info 1`, `agent 001 sql ...`: what follows may be anything.
        words = words[: 3 if words[1:2] and words[1].isdigit() else 2]
    command = " ".join(word for word in words if _WORD.fullmatch(word))
    arguments = request.get("arguments")
    about = arguments.get("id") if isinstance(arguments, dict) else None
    reads = daemon != "authd" and _READS.match(command.rpartition(" ")[2]) is not None
    return f"{daemon} {command}".rstrip() + (
        f" (id {shorten(about, LONGEST_ID)!r})" if isinstance(about, str) else ""
    ), reads


def outcome(answer: bytes) -> str:
    """What became of it, without what the answer holds."""
    if answer.startswith(b"err"):
        return "refused"
    found = _decoded(answer)
    code = found.get("error")
    if isinstance(code, int) and code:
        return f"refused with {code}"
    number = _registered(found)
    return f"done, agent {shorten(number, LONGEST_ID)!r}" if number else "done"


def _registered(answer: dict[str, Any]) -> str:
    """The number of the agent that an answer of authd is about; empty where there is none, or it failed."""
    data = answer.get("data")
    number = data.get("id") if isinstance(data, dict) and not answer.get("error") else None
    return number if isinstance(number, str) else ""


def _decoded(content: bytes) -> dict[str, Any]:
    """An object, empty for anything else."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    return value if isinstance(value, str) else ""

"""What a worker's daemon asks a daemon of the master for: who may (`worker_api`), and what the audit says of it.

Registrations are what workers are for: a master serves them whatever `worker_api` says, but below `full` as new agents
only, which nobody's key has to make room for but by the master's own rules.
"""

import re
from typing import Any

import msgspec

from clusterd.wire.results import dump_json, shorten

LONGEST_ID = 64
_REGISTRATION = ("name", "ip", "groups", "key_hash")
"""Arguments of a registration below `full`: neither whom it replaces (`force`), nor whose number or key it takes."""
_WORD = re.compile(r"[a-z0-9_.-]{1,40}")
_READS = re.compile(r"(get|find|select)\b|(get|find|select)-|upgrade_get_status\b|upgrade_result\b")


def permitted(daemon: str, message: bytes, worker_api: str) -> bytes | None:
    """What goes to the daemon, None where this master's `worker_api` refuses it. Below `full` it is made anew from what
    was understood: daemons read some JSON in other ways than we do."""
    if worker_api == "full":
        return message
    request = _decoded(message)
    arguments = request.get("arguments")
    if daemon != "authd" or request.get("function") != "add" or not isinstance(arguments, dict):
        return None
    kept = {name: arguments[name] for name in _REGISTRATION if name in arguments}
    return dump_json({"function": "add", "arguments": kept})


def through(message: bytes, worker: str) -> bytes:
    """For our own authd: the same, and which worker passes it on."""
    request = _decoded(message)
    return dump_json(request | {"clusterd_through": worker}) if request else message


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
    data = found.get("data")
    number = data.get("id") if isinstance(data, dict) else None
    return f"done, agent {shorten(number, LONGEST_ID)!r}" if isinstance(number, str) else "done"


def _decoded(content: bytes) -> dict[str, Any]:
    """An object, empty for anything else."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    return value if isinstance(value, str) else ""

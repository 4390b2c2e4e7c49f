"""Requests to authd and their answers (wdb.md 8.1 to 8.4): everything that needs no look at existing agents."""

import ipaddress
import re
from typing import Any

import msgspec

from clusterd.agent_keys import ANY, Key, readable
from clusterd.settings import ForceRules
from clusterd.store.jsontext import encode

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
THROUGH = "clusterd_through"
"""Member that the sync process of a master adds to what a worker asks of authd: the worker's name."""
WHO = "clusterd_who"
"""Member by which our own programs say for whom they ask: a user of the API, or the program on a worker that asked the
store there. Only for a store of ours: sync takes it out of what goes to others."""
FUNCTIONS = ("add", "remove", "get")
REMOVED = encode({"error": 0, "data": "Agent deleted successfully."})
_TIME = re.compile(r"(\d{1,10})([dhms]?)", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_TIME_S = 10**10 * 86400
_WORD = re.compile(r"[^\s\x00-\x1f\x7f]+")


class AuthdError(Exception):
    """A request that is refused. `detail` goes behind the stock message."""

    def __init__(self, number: int, detail: str = "") -> None:
        super().__init__(number, detail)
        self.number = number
        self.detail = detail

    def answer(self) -> bytes:
        # The reason may quote a file name that is not valid text.
        detail = self.detail.encode(errors="replace").decode()
        message = MESSAGES[self.number] + (f": {detail}" if detail else "")
        return encode({"error": self.number, "message": message})


class AuthRequest(msgspec.Struct, frozen=True):
    """A well-formed request. `through`: the worker that has passed it on, where our own master says so; `who`: who
    asks, empty if unknown."""

    function: str
    arguments: dict[str, Any]
    through: str = ""
    who: str = ""


def text_of(payload: bytes) -> str:
    """Strips the NUL that C clients append."""
    return payload.rstrip(b"\0").decode(errors="surrogateescape")


def is_json(text: str) -> bool:
    return text.startswith("{")


def parse_request(text: str) -> AuthRequest:
    """Raises AuthdError for mistakes that show without a look at existing agents: 9001 to 9005, 9006 without `ip`,
    9010."""
    try:
        content = msgspec.json.decode(text.encode(errors="surrogateescape"))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
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
        name = arguments.get("name")
        # authd checks no characters, but a name must fit between two spaces of a client.keys line and must not begin
        # like a removed one.
        if not isinstance(name, str) or not is_word(name) or name.startswith(("!", "#")):
            raise AuthdError(9005)
        if not isinstance(arguments.get("ip"), str):
            raise AuthdError(9006)
        if "force" in arguments:
            parse_force(arguments["force"])
    elif not isinstance(arguments.get("id"), str) or not arguments["id"]:
        raise AuthdError(9010)
    through, who = (value if isinstance(value, str) else "" for value in (content.get(THROUGH), content.get(WHO)))
    return AuthRequest(function, arguments, through, who)


def is_word(text: str) -> bool:
    """Whether the text fits between two spaces of a client.keys line."""
    return _WORD.fullmatch(text) is not None


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
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST_TIME_S:
        return int(value)
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise AuthdError(9002)
    return int(found[1]) * _UNITS[found[2]]


def parse_address(text: str) -> str:
    """The address in its stored form: IPv6 in full, upper case. Raises AuthdError 9006."""
    if text == ANY:
        return ANY
    address, slash, prefix = text.partition("/")
    try:
        # A zone (fe80::1%eth0) is meaningful on one machine only.
        if "%" in address:
            raise AuthdError(9006)
        parsed = ipaddress.ip_address(address)
        if slash and not (prefix.isascii() and prefix.isdigit() and int(prefix) <= parsed.max_prefixlen):
            raise AuthdError(9006)
    except ValueError:
        raise AuthdError(9006) from None
    written = parsed.exploded.upper() if parsed.version == 6 else str(parsed)
    return f"{written}/{int(prefix)}" if slash else written


def success(key: Key) -> bytes:
    """The answer to `add` and `get`."""
    shown = readable(key)
    return encode({"error": 0, "data": {"id": shown.id, "name": shown.name, "ip": shown.ip, "key": shown.key}})


def answer_text(text: str, rules: ForceRules) -> bytes:
    """Requests that are not JSON: `getconfig auth`."""
    if text != "getconfig auth":
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

"""Exceptions, results and other objects in the JSON that all nodes understand (wire.md 3.2 to 3.4, dapi.md 4).

Names in JSON are never imported or called: classes come from fixed tables; a callable stays a name and is accepted only
in API requests, as the value of their key `f` (wire.md W4, dapi.md 8.1). Output has the original's separators, ASCII
escapes and order of keys.
"""

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from clusterd.errors import MESSAGES, ClusterError

MAX_DEPTH = 64
MAX_JSON_BYTES = 67108864
"""Default size limit of a text to decode; strings of peers have their own, smaller limits."""
MAX_PLAIN_TEXT = 4096
"""Characters kept of a plain-text `err`."""
MAX_SHOWN = 1000
"""Characters of a peer's detail in readable text: log lines, status and refusals."""
EXCEPTION_BYTES = 65536
"""Size limit of an encoded exception. Decoding one of this size takes the caller's loop about 1 ms."""
ARGUMENT_BYTES = 65536
"""Size limit of the arguments of a small request."""

INTERNAL_ERROR = "WazuhInternalError"
CLUSTER_ERROR = "WazuhClusterError"
BAD_REQUEST = "WazuhError"
NOT_FOUND = "WazuhResourceNotFound"
PERMISSION_ERROR = "WazuhPermissionError"
HAP_ERROR = "WazuhHAPHelperError"
TOO_MANY_REQUESTS = "WazuhTooManyRequests"

_TITLES = {
    "WazuhException": "WazuhException",
    INTERNAL_ERROR: "Wazuh Internal Error",
    CLUSTER_ERROR: "Wazuh Cluster Error",
    HAP_ERROR: "HAProxy Helper Error",
    BAD_REQUEST: "Bad Request",
    PERMISSION_ERROR: "Permission Denied",
    NOT_FOUND: "Resource Not Found",
    TOO_MANY_REQUESTS: "Too Many Requests",
    "WazuhNotAcceptable": "Not Acceptable",
}
_WITH_IDS = frozenset({BAD_REQUEST, PERMISSION_ERROR, NOT_FOUND, TOO_MANY_REQUESTS, "WazuhNotAcceptable"})
_RESULT_CLASSES = frozenset({"WazuhResult", "AffectedItemsWazuhResult"})
_FIELDS = frozenset({"type", "title", "code", "extra_message", "extra_remediation", "cmd_error", "dapi_errors", "ids"})
_SPECIAL = frozenset(
    {"__wazuh_exception__", "__wazuh_result__", "__wazuh_datetime__", "__unhandled_exc__", "__callable__"}
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    9: "\t",
    10: "\\n",
    13: "\\r",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class WireException(ClusterError):
    """An exception as it crosses the wire: class name, code, and the detail for the readable text.

    `extra_message`: text, a mapping that fills the placeholders of the code's message, or None. `ids` has a meaning
    only for classes of the WazuhError family. `wire_class`: None for the code's usual class. `title`: None for that of
    the class.
    """

    def __init__(
        self,
        code: int,
        extra_message: str | Mapping[str, Any] | None = None,
        *,
        wire_class: str | None = None,
        remediation: str | None = None,
        cmd_error: bool = False,
        dapi_errors: Mapping[str, Any] | None = None,
        ids: Sequence[Any] = (),
        title: str | None = None,
    ) -> None:
        super().__init__(code, extra_message if isinstance(extra_message, str) else None)
        self.wire_class = wire_class or class_of_code(code)
        self.title = title or _TITLES[self.wire_class]
        self.extra_message = extra_message
        self.remediation = remediation
        self.cmd_error = cmd_error
        self.dapi_errors = dict(dapi_errors or {})
        self.ids = list(ids)

    @property
    def message(self) -> str:
        """The readable text, built from our own table, as every node does."""
        extra = self.extra_message
        known = MESSAGES.get(self.code)
        if self.cmd_error or known is None:
            return "" if extra is None else shorten(str(extra))
        if isinstance(extra, Mapping):
            # Only placeholders of our own text are replaced, each once; a peer's text is never searched for more.
            values = extra
            return _PLACEHOLDER.sub(lambda found: shorten(str(values.get(found[1], found[0]))), known)
        return known if extra is None else f"{known}: {shorten(extra)}"

    def __str__(self) -> str:
        # Always one line: a line break from a peer could forge a line of our log.
        return f"Error {self.code} - {self.message}".translate(_CONTROL)

    def fields(self) -> dict[str, Any]:
        """The `__object__` of its JSON."""
        fields: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "code": self.code,
            "extra_message": self.extra_message,
            "extra_remediation": self.remediation,
            "cmd_error": self.cmd_error,
            "dapi_errors": self.dapi_errors,
        }
        if self.wire_class in _WITH_IDS:
            fields["ids"] = self.ids
        return fields


class WireResult(msgspec.Struct, frozen=True):
    """An API result object: class name and the fields of its `__object__`, in order."""

    wire_class: str
    fields: dict[str, Any]


class WireCallable(msgspec.Struct, frozen=True):
    """A function's name in an API request. `wazuh`: the fields of the framework's node object, for its methods."""

    name: str
    module: str
    qualname: str
    kind: str = "function"
    wazuh: dict[str, Any] | None = None


def shorten(text: str, limit: int = MAX_SHOWN) -> str:
    """The beginning of a peer's text, short enough for our log lines."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


# ---- writing ---------------------------------------------------------------------------------------------------------


def dump_json(value: object) -> bytes:
    """Encodes JSON as the original does: `", "` and `": "`, ASCII only. Takes WireException, WireResult, WireCallable
    and dates at any depth. Raises TypeError for anything else without a JSON form: a bug of the caller."""
    return _ENCODER.encode(value).encode("ascii")


def encode_exception(
    code: int, extra: str | Mapping[str, Any] | None = None, *, remediation: str | None = None
) -> bytes:
    """The payload of an `err`."""
    return dump_json(WireException(code, extra, remediation=remediation))


def encode_failure(error: ClusterError) -> bytes:
    """Encodes one of our errors as the payload of an `err`; one that came from a peer is passed on unchanged."""
    return dump_json(error) if isinstance(error, WireException) else encode_exception(error.code, error.extra)


def class_of_code(code: int) -> str:
    """The exception class under which the original reports a code (dapi.md appendix B)."""
    if 3041 <= code <= 3049:
        return HAP_ERROR
    if code in (1701, 1710, 1730):
        return NOT_FOUND
    if code in (3004, 3005, 3006, 3013) or 1400 <= code <= 1415 or 1703 <= code <= 1752:
        return BAD_REQUEST
    if code == 4000:
        return PERMISSION_ERROR
    if code in (3009, 3012, 3036) or code < 3000:
        return INTERNAL_ERROR
    return CLUSTER_ERROR


def _special(value: object) -> dict[str, Any]:
    if isinstance(value, date):  # first: a list of agents has two for each
        return {"__wazuh_datetime__": value.isoformat()}
    if isinstance(value, WireException):
        return {"__wazuh_exception__": {"__class__": value.wire_class, "__object__": value.fields()}}
    if isinstance(value, WireResult):
        return {"__wazuh_result__": {"__class__": value.wire_class, "__object__": value.fields}}
    if isinstance(value, WireCallable):
        encoded: dict[str, Any] = {
            "__name__": value.name,
            "__module__": value.module,
            "__qualname__": value.qualname,
            "__type__": value.kind,
        }
        return {"__callable__": encoded if value.wazuh is None else encoded | {"__wazuh__": value.wazuh}}
    raise TypeError(f"{type(value).__name__} has no JSON form")


_ENCODER = json.JSONEncoder(default=_special, check_circular=False)
"""Answers are trees: looking for circles takes a tenth of the time of a long one."""


# ---- reading ---------------------------------------------------------------------------------------------------------


def load_json(data: bytes | memoryview, *, limit: int = MAX_JSON_BYTES) -> Any:
    """Decodes JSON of a peer or client, including special objects. Raises ClusterError 1000 that says what is wrong.

    `limit`: bytes. Texts contain no lone surrogates, which UTF-8 cannot encode, and numbers are finite."""
    return _revive(_parse(data, limit), MAX_DEPTH)


def load_answer(data: bytes | memoryview, *, limit: int = MAX_JSON_BYTES) -> Any:
    """The same for the answer of a function: Python writes what a function of stock has computed, also NaN and
    Infinity, which are no JSON."""
    return _revive(_parse(data, limit, json.loads), MAX_DEPTH)


def load_request(data: bytes | memoryview, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Decodes an API request: an object in which only the key `f` may hold a callable. Raises ClusterError 1000."""
    request = _parse(data, limit)
    function = request.get("f") if isinstance(request, dict) else None
    named = None
    if isinstance(function, dict) and "__callable__" in function:
        named = parse_callable(function)
        request["f"] = None
    revived = _revive(request, MAX_DEPTH)
    if not isinstance(revived, dict):
        raise ClusterError(1000, "an API request must be a JSON object")
    if named is not None:
        revived["f"] = named
    return revived


def parse_callable(encoded: Mapping[str, Any]) -> WireCallable:
    """Reads `{"__callable__": {...}}` as names. Raises ClusterError 1000."""
    inner = _revive(encoded.get("__callable__"), MAX_DEPTH)
    if not isinstance(inner, dict) or len(encoded) != 1:
        raise _cannot_decode(encoded)
    names = [inner.get(key) for key in ("__name__", "__module__", "__qualname__")]
    names.append(inner.get("__type__", "function"))
    wazuh = inner.get("__wazuh__")
    if not all(isinstance(name, str) for name in names) or not isinstance(wazuh, dict | None):
        raise _cannot_decode(encoded)
    name, module, qualname, kind = map(str, names)
    return WireCallable(name, module, qualname, kind, wazuh)


def decode_exception(data: bytes) -> WireException:
    """Decodes the content of `*_r` and `cancel_task`. JSON that is no encoded exception becomes 3000 with its text.

    Raises ClusterError 1000 for invalid JSON, a malformed object, or more than EXCEPTION_BYTES."""
    value = load_json(data, limit=EXCEPTION_BYTES)
    return value if isinstance(value, WireException) else _plain_failure(data)


def decode_err_payload(data: bytes) -> WireException:
    """Decodes an `err`. Never raises: anything that is no encoded exception becomes 3000 with the text (wire.md C3,
    W11)."""
    try:
        return decode_exception(data)
    except ClusterError:
        return _plain_failure(data)


def _plain_failure(data: bytes) -> WireException:
    text = bytes(data[: 4 * MAX_PLAIN_TEXT]).decode(errors="replace")
    if len(text) > MAX_PLAIN_TEXT:
        text = text[:MAX_PLAIN_TEXT] + "..."
    return WireException(3000, text or None)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{shorten(number, 40)} is no number of JSON, or too large")
    return value


_STRICT = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


def _parse(data: bytes | memoryview, limit: int, decode: Callable[[str], Any] = _STRICT.decode) -> Any:
    if len(data) > limit:
        raise ClusterError(1000, f"a JSON text of {len(data)} bytes is above the limit of {limit}")
    try:
        return decode(bytes(data).decode())
    except RecursionError:
        raise ClusterError(1000, "a JSON text is nested too deeply") from None
    except ValueError as problem:  # not UTF-8, not JSON, or a number of thousands of digits
        raise ClusterError(1000, str(problem)) from None


def _revive(value: Any, depth: int) -> Any:
    """Decodes special objects, innermost first."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if not isinstance(value, list | dict):
        return value
    if depth == 0:
        raise ClusterError(1000, "a JSON text is nested too deeply")
    if isinstance(value, list):
        return [_revive(item, depth - 1) for item in value]
    if "__callable__" in value:
        raise ClusterError(1000, "a function may only be named as the `f` of an API request")
    revived = {_revive(key, depth): _revive(item, depth - 1) for key, item in value.items()}
    if len(revived) == 1:
        (key,) = revived
        if key in _SPECIAL:
            return _revive_special(key, revived[key])
    return revived


def _revive_special(key: str, inner: Any) -> Any:
    if key == "__wazuh_datetime__":
        try:
            return datetime.fromisoformat(inner)
        except (TypeError, ValueError):
            raise _cannot_decode({key: inner}) from None
    if not isinstance(inner, dict):
        raise _cannot_decode({key: inner})
    name = inner.get("__class__")
    if key == "__unhandled_exc__":
        if not isinstance(name, str) or inner.keys() != {"__class__", "__args__"}:
            raise _cannot_decode({key: inner})
        return {name: inner["__args__"]}
    fields = inner.get("__object__")
    if not isinstance(name, str) or not isinstance(fields, dict) or len(inner) != 2:
        raise _cannot_decode({key: inner})
    if key == "__wazuh_exception__":
        return exception_of(name, fields)
    if name not in _RESULT_CLASSES:
        raise _cannot_decode({key: inner})
    return WireResult(name, fields)


def exception_of(name: str, fields: dict[str, Any]) -> WireException:
    """Builds an exception from class name and fields (also the form inside results). Raises ClusterError 1000."""
    code = fields.get("code")
    extra = fields.get("extra_message")
    remediation = fields.get("extra_remediation")
    cmd_error = fields.get("cmd_error", False)
    errors = fields.get("dapi_errors")
    ids = fields.get("ids")
    title = fields.get("title")
    if (
        name not in _TITLES
        or not fields.keys() <= _FIELDS
        or type(code) is not int
        or not isinstance(extra, str | dict | None)
        or not isinstance(remediation, str | None)
        or not isinstance(cmd_error, bool)
        or not isinstance(errors, dict | None)
        or not isinstance(ids, list | None)
    ):
        raise _cannot_decode({"__class__": name, "__object__": fields})
    return WireException(
        code,
        extra,
        wire_class=name,
        remediation=remediation,
        cmd_error=cmd_error,
        dapi_errors=errors,
        ids=ids or (),
        title=title if isinstance(title, str) else None,
    )


def _cannot_decode(encoded: Mapping[str, Any]) -> WireException:
    """The original's text, with the beginning of the object (dapi.md 4.6)."""
    shown = reprlib.Repr()
    shown.maxlevel, shown.maxstring = 4, 100
    text = f"Wazuh object cannot be decoded from JSON {shown.repr(dict(encoded))}"
    return WireException(1000, text, cmd_error=True)

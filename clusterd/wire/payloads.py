"""Typed arguments of the commands (wire.md 4.1, dapi.md 1.3): `parse_*` reads a peer's bytes, `build_*` makes ours.

An unreadable payload raises ClusterError 1000, with stock's text where that is fixed; it is answered with `err` and
`results.encode_failure`. Texts quote at most the beginning of the payload.
"""

import re
from typing import Annotated, NamedTuple

import msgspec

from clusterd.errors import ClusterError
from clusterd.wire.commands import SAME_CLOCK
from clusterd.wire.results import ARGUMENT_BYTES, WireException, decode_exception, dump_json, encode_failure, load_json

MAX_LENGTH_DIGITS = 20
"""Most digits of a length."""
NO_TASK = "None"
"""Stands for an unknown task id."""
MAX_CAPS = 64
_HELLO_PARTS = 4
_QUOTED = 40
MAX_ID_BYTES = 256
"""Length limit of task ids, client ids and string ids; all known ones have at most 36 characters."""
MAX_PATH_BYTES = 4096
"""Length limit of a path (PATH_MAX of Linux)."""
_SENDSYNC_FORM = "it must be an object with daemon_name, a text, and message, an object or a text, and nothing else"
_DIGEST_CHECK = re.compile(rb"([0-9a-f]{32})( dry)?")
_DIFFERS = re.compile(rb"differs ([0-9a-f]{32}) ")
_BUCKETS_BYTES = 1024 * 16
_SYNC_COUNT = re.compile(rb"sync ([0-9]{1,12})")
_CHANGED = re.compile(rb"([0-9a-f]{32}) ([0-9]{1,5})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TASK_ID = re.compile(rb"[!-~]{1,%d}" % MAX_ID_BYTES)


class Hello(NamedTuple):
    """A worker's first request (wire.md 1.4). Only that it is text has been checked."""

    name: str
    cluster: str
    node_type: str
    version: str


class TaskPath(NamedTuple):
    """`*_e`: the file `path` (as the peer wrote it, unchecked) was sent under task `task_id`."""

    task_id: str
    path: str


class TaskFailure(NamedTuple):
    """`*_r` and `cancel_task`: the failure that ended a task. `task_id` is None if the peer knew none."""

    task_id: str | None
    error: WireException


class FileEnd(NamedTuple):
    """`file_end`: `digest` should be the SHA-256 of all chunks."""

    path: str
    digest: bytes


class Addressed(NamedTuple):
    """`dapi`, `dapi_err`, `sendsync`, `sendsyn_err`: content for the client or request `id`."""

    id: str
    content: bytes


class StringFor(NamedTuple):
    """`dapi_res`, `sendsyn_res`: the long string `string_id` is for the client or request `id`."""

    id: str
    string_id: str


_Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
"""Of things in one message: no status could hold a number of thousands of digits."""


class BatchResult(msgspec.Struct, frozen=True):
    """`syn_m_a_e`, `syn_w_g_e`, `syn_wgc_e`: the result of writing a batch. `time_spent`: seconds."""

    updated_chunks: _Count
    error_messages: list[str]
    time_spent: float


class SendSync(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sendsync`: a message for a daemon of the master."""

    daemon_name: str
    message: dict[str, object] | str


def text_of(data: bytes) -> str:
    """UTF-8 text. Raises ClusterError 1000 with Python's text, as stock."""
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        raise ClusterError(1000, str(problem)) from None


def split_word(payload: bytes, most: int = MAX_ID_BYTES) -> tuple[str, bytes]:
    """Splits `{word} {rest}` at the first space. `most`: byte limit of the word."""
    end = payload.find(b" ", 0, most + 1)
    if end < 0:
        if len(payload) > most:
            raise ClusterError(1000, f"an argument begins with a word of more than {most} bytes")
        raise ClusterError(1000, "not enough values to unpack (expected 2, got 1)")
    return text_of(payload[:end]), payload[end + 1 :]


def parse_id(payload: bytes) -> str:
    """A string id alone. Invalid bytes are replaced: stock peers send error texts here, too."""
    if len(payload) > MAX_ID_BYTES:
        raise ClusterError(1000, f"an id of {len(payload)} bytes is longer than {MAX_ID_BYTES}")
    return payload.decode(errors="replace")


def parse_task_id(payload: bytes) -> str:
    """The answer to a request that begins a file. Raises ClusterError 1000 for a text that cannot be a word of our
    requests."""
    if not _TASK_ID.fullmatch(payload):
        raise ClusterError(1000, f"the peer gave no task id: {payload[:_QUOTED]!r}")
    return payload.decode()


def build_words(word: str, rest: bytes | str) -> bytes:
    """Joins `{word} {rest}`. Raises ValueError for a word with a space, which the peer would misread: a bug of the
    caller."""
    if " " in word:
        raise ValueError(f"a space ends this argument early: {word!r}")
    return word.encode() + b" " + (rest.encode() if isinstance(rest, str) else rest)


def parse_hello(payload: bytes) -> Hello:
    """Parses exactly four parts between single spaces."""
    parts = text_of(payload).split(" ")
    if len(parts) < _HELLO_PARTS:
        raise ClusterError(1000, f"not enough values to unpack (expected 4, got {len(parts)})")
    if len(parts) > _HELLO_PARTS:
        raise ClusterError(1000, "too many values to unpack (expected 4)")
    return Hello(*parts)


def build_hello(hello: Hello) -> bytes:
    """Raises ValueError for a part with a space, which no master could read."""
    if any(" " in part for part in hello):
        raise ValueError("no part of a hello may have a space")
    return " ".join(hello).encode()


def parse_length(payload: bytes) -> int:
    """`new_str`, `err_str`: a length in bytes, decimal digits."""
    if not payload.isdigit() or len(payload) > MAX_LENGTH_DIGITS:
        raise ClusterError(1000, f"invalid literal for int() with base 10: {payload[:_QUOTED]!r}")
    return int(payload)


def parse_package_claim(payload: bytes) -> tuple[bytes, int]:
    """`resume_file`: the SHA-256 of a package (64 hex digits) and its size in bytes."""
    digest, size = split_word(payload)
    if not _SHA256.fullmatch(digest):
        raise ClusterError(1000, f"no SHA-256: {digest[:_QUOTED]!r}")
    return bytes.fromhex(digest), parse_length(size)


def parse_task_path(payload: bytes) -> TaskPath:
    task_id, path = split_word(payload)
    if len(path) > MAX_PATH_BYTES:
        raise ClusterError(1000, f"a path of {len(path)} bytes is longer than {MAX_PATH_BYTES}")
    return TaskPath(task_id, text_of(path))


def parse_task_failure(payload: bytes) -> TaskFailure:
    task_id, encoded = split_word(payload)
    return TaskFailure(None if task_id == NO_TASK else task_id, decode_exception(encoded))


def build_task_failure(task_id: str | None, error: ClusterError) -> bytes:
    return build_words(task_id or NO_TASK, encode_failure(error))


def parse_file_end(payload: bytes) -> FileEnd:
    return FileEnd(*split_word(payload, MAX_PATH_BYTES))


def parse_addressed(payload: bytes) -> Addressed:
    return Addressed(*split_word(payload))


def parse_string_for(payload: bytes) -> StringFor:
    """A stock sender puts a text beginning with `Error` in place of the `string_id` when the string could not be
    sent."""
    ident, string_id = split_word(payload)
    return StringFor(ident, string_id[:MAX_ID_BYTES].decode(errors="replace"))


def parse_batch_result(payload: bytes) -> BatchResult:
    """Extra keys are ignored (wire.md 13.2)."""
    try:
        return msgspec.json.decode(payload, type=BatchResult)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ClusterError(1000, str(problem)) from None


def build_batch_result(result: BatchResult) -> bytes:
    return dump_json(msgspec.structs.asdict(result))


def parse_sendsync(content: bytes) -> SendSync:
    """The JSON of a `sendsync`, with exactly these two members. `daemon_name` may be any text: the receiver has a table
    of the daemons it serves. Error texts quote nothing of it, since it may hold keys."""
    try:
        return msgspec.json.decode(content, type=SendSync)
    except msgspec.ValidationError:
        raise ClusterError(1000, _SENDSYNC_FORM) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ClusterError(1000, f"the request is not JSON: {_SENDSYNC_FORM}") from None


def parse_clock(payload: bytes) -> int | None:
    """The answer to `clock`: microseconds, or None if the peer's clock is ours."""
    if payload == SAME_CLOCK:
        return None
    if not payload.isdigit() or len(payload) > MAX_LENGTH_DIGITS:
        raise ClusterError(1000, f"the master's clock is no number: {payload[:_QUOTED]!r}")
    return int(payload)


class DigestCheck(NamedTuple):
    """`syn_digest`: the worker's content digest, 32 hex digits; `dry`: it only asks what differs."""

    digest: str
    dry: bool


class Differs(NamedTuple):
    """The answer to `syn_digest` if the digests differ: the master's content digest and its 1,024 bucket digests of 16
    bytes."""

    digest: str
    buckets: bytes


class Counts(msgspec.Struct, frozen=True):
    """How many files a worker would have to create, replace and delete."""

    missing: _Count
    shared: _Count
    extra: _Count


class Listed(msgspec.Struct, frozen=True):
    """What a worker would have to change: `counts` of all files, and the first paths of each group."""

    counts: Counts = Counts(0, 0, 0)
    missing: list[str] = []
    shared: list[str] = []
    extra: list[str] = []


class Changed(NamedTuple):
    """`syn_changed`: the master's content digest; the worker waits a random part of `spread_ms` before it checks."""

    digest: str
    spread_ms: int


def build_digest_check(digest: str, *, dry: bool) -> bytes:
    return f"{digest} dry".encode() if dry else digest.encode()


def parse_digest_check(payload: bytes) -> DigestCheck:
    found = _DIGEST_CHECK.fullmatch(payload)
    if found is None:
        raise ClusterError(1000, "syn_digest takes 32 hexadecimal digits")
    return DigestCheck(found[1].decode(), bool(found[2]))


def build_differs(digest: str, buckets: bytes) -> bytes:
    return f"differs {digest} ".encode() + buckets


def parse_differs(payload: bytes) -> Differs:
    found = _DIFFERS.match(payload)
    if found is None or len(payload) - found.end() != _BUCKETS_BYTES:
        raise ClusterError(1000, f"unexpected answer to syn_digest: {payload[:_QUOTED]!r}, {len(payload)} bytes")
    return Differs(found[1].decode(), payload[found.end() :])


def parse_sync_count(payload: bytes) -> int:
    """`sync N`, the answer to `syn_buckets` when a package follows: how many files differ."""
    found = _SYNC_COUNT.fullmatch(payload)
    if found is None:
        raise ClusterError(1000, f"unexpected answer to syn_buckets: {payload[:_QUOTED]!r}")
    return int(found[1])


def build_listed(listed: Listed, node: str = "") -> bytes:
    """JSON of what `node` would have to change."""
    return dump_json(({"node": node} if node else {}) | msgspec.to_builtins(listed))


def parse_listed(payload: bytes) -> Listed:
    try:
        return msgspec.convert(load_json(payload, limit=ARGUMENT_BYTES), Listed)
    except msgspec.ValidationError as problem:
        raise ClusterError(1000, f"the list of differing files is none: {problem}") from None


def build_changed(digest: str, spread_ms: int) -> bytes:
    return f"{digest} {spread_ms}".encode()


def parse_changed(payload: bytes) -> Changed:
    found = _CHANGED.fullmatch(payload)
    if found is None:
        raise ClusterError(1000, "syn_changed takes 32 hexadecimal digits and a number of milliseconds")
    return Changed(found[1].decode(), int(found[2]))


def parse_caps(payload: bytes) -> list[str]:
    """`caps`: what the other clusterd node can do, at most MAX_CAPS words; unknown words are ignored."""
    try:
        listed = msgspec.json.decode(payload, type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ClusterError(1000, f"caps needs a JSON list of texts: {problem}") from None
    if len(listed) > MAX_CAPS:
        raise ClusterError(1000, f"caps lists {len(listed)} capabilities, more than {MAX_CAPS}")
    return listed

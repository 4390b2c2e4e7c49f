"""Requests to etcd's JSON gateway and its answers: the messages of etcd's API (rpc.proto) as JSON, in which 64-bit
numbers are texts, bytes are base64 and zeros are left out."""

import base64
from typing import Any, Literal, TypeVar

import msgspec

# grpc's status codes, of which the gateway makes the HTTP status
DEADLINE_EXCEEDED, PERMISSION_DENIED = 4, 7
RESOURCE_EXHAUSTED, OUT_OF_RANGE, UNAVAILABLE, UNAUTHENTICATED = 8, 11, 14, 16
PASSING = {DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE}
"""A failure after which another member, or the same one later, may still serve."""
SHOWN_CHARACTERS = 200


class EtcdUnavailable(OSError):
    """No member answers, or none has a leader; it may pass. A transaction may have been done nevertheless."""


class EtcdRefused(Exception):
    """etcd, or TLS, refuses this node until an operator changes something; the text says what."""


class LeaseLost(Exception):
    """etcd does not know the lease: it has run out, or was revoked."""


class Compacted(Exception):
    """etcd has dropped the history since that revision: read everything anew."""


class MemberFailed(Exception):
    """One member did not serve a request. `may_be_done`: it may have been carried out nevertheless. `is_tls`: no TLS
    connection could be made. `is_other`: the member belongs to another etcd."""

    def __init__(self, text: str, *, may_be_done: bool = False, is_tls: bool = False, is_other: bool = False) -> None:
        super().__init__(text)
        self.may_be_done = may_be_done
        self.is_tls = is_tls
        self.is_other = is_other


class TokenInvalid(Exception):
    """etcd has forgotten the login (a member was restarted, users were changed): log in again."""


class Item(msgspec.Struct, frozen=True):
    """A key's value. `lease` 0: none."""

    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Snapshot(msgspec.Struct, frozen=True):
    """All keys below a prefix at a revision."""

    revision: int
    items: dict[str, Item]


class KeyChange(msgspec.Struct, frozen=True):
    """A key was written, or deleted (`item` None), at this revision."""

    key: str
    revision: int
    item: Item | None


class Compare(msgspec.Struct, frozen=True):
    """A condition of a transaction. A missing key has revision, version and lease 0."""

    key: str
    what: Literal["create_revision", "mod_revision", "version", "lease", "value"]
    equals: int | bytes


class Put(msgspec.Struct, frozen=True):
    """Writes a key, for as long as the lease lives (0: for ever)."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Removes a key."""

    key: str


class TxnResult(msgspec.Struct, frozen=True):
    """`succeeded`: all conditions held and everything was done; otherwise nothing was. `revision`: of etcd then; a key
    made by this transaction has it as its create_revision."""

    succeeded: bool
    revision: int


class EndpointStatus(msgspec.Struct, frozen=True):
    """One member's state, as it reports it. `problem`: why it does not serve us, empty if it does. `errors`: its
    alarms."""

    endpoint: str
    problem: str = ""
    version: str = ""
    cluster_id: str = ""
    is_leader: bool = False
    raft_term: int = 0
    errors: tuple[str, ...] = ()


# ---- answers ---------------------------------------------------------------------------------------------------------


class EtcdHeader(msgspec.Struct):
    cluster_id: str = ""
    member_id: str = ""
    revision: int = 0
    raft_term: int = 0


class KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0

    @property
    def name(self) -> str:
        return self.key.decode(errors="replace")

    @property
    def item(self) -> Item:
        return Item(self.value, self.create_revision, self.mod_revision, self.lease)


class EtcdAnswer(msgspec.Struct):
    """The header of every answer. An answer without it does not come from etcd."""

    header: EtcdHeader


class LeaseAnswer(EtcdAnswer):
    ID: int = 0
    TTL: int = 0


class RangeAnswer(EtcdAnswer):
    kvs: list[KeyValue] = []


class TxnAnswer(EtcdAnswer):
    succeeded: bool = False


class TokenAnswer(EtcdAnswer):
    token: str = ""


class StatusAnswer(EtcdAnswer):
    version: str = ""
    leader: str = "0"
    errors: list[str] = []


class KeyEvent(msgspec.Struct):
    kv: KeyValue
    type: str = "PUT"


class WatchAnswer(EtcdAnswer):
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[KeyEvent] = []

    @property
    def changes(self) -> list[KeyChange]:
        return [
            KeyChange(event.kv.name, event.kv.mod_revision, None if event.type == "DELETE" else event.kv.item)
            for event in self.events
        ]


class _Failure(msgspec.Struct):
    """An error in either form of the gateway: as an answer (`code`), and in a stream (`grpc_code`)."""

    message: str = ""
    code: int = 0
    grpc_code: int = 0


class _Nested(msgspec.Struct):
    error: _Failure


AnswerType = TypeVar("AnswerType", bound=EtcdAnswer)


class Streamed(msgspec.Struct):
    """One message of a stream: it has exactly one of the two."""

    result: msgspec.Raw = msgspec.Raw()
    error: _Failure | None = None


def parse(data: bytes, kind: type[AnswerType]) -> AnswerType:
    """Decodes an answer of that kind. Raises MemberFailed if it is none."""
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError):
        raise MemberFailed(f"is no etcd: its answer is {cut(data)}", may_be_done=True) from None


def parse_streamed(data: bytes, kind: type[AnswerType], user: str) -> AnswerType:
    """Decodes a message of a stream. Raises the exception that `refusal` makes of an error, and MemberFailed for
    anything else."""
    try:
        found = msgspec.json.decode(data, type=Streamed, strict=False)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise MemberFailed(f"is no etcd: its answer is {cut(data)}", may_be_done=True) from None
    if found.error is not None:
        raise refusal(found.error.message, found.error.grpc_code or found.error.code, user)
    return parse(bytes(found.result), kind)


def parse_failure(status: int, data: bytes, user: str) -> Exception:
    """Returns the exception for an answer with an HTTP status other than 200."""
    try:
        found = msgspec.json.decode(data, type=_Failure, strict=False)
    except (msgspec.DecodeError, ValueError, RecursionError):
        found = _Failure()
    if found.message:
        return refusal(found.message, found.code, user)
    if b"HTTP request to an HTTPS server" in data:
        return MemberFailed("speaks TLS only: write https:// in clusterd.ha.etcd.endpoints", is_tls=True)
    if status == NO_SUCH_PATH:
        return MemberFailed("is no etcd, or one before 3.4")
    return MemberFailed(f"answers with HTTP {status}: {_nested(data) or cut(data)}", may_be_done=True)


def _nested(data: bytes) -> str:
    """Returns the message of an error as the gateway reports a stream's."""
    try:
        return cut(msgspec.json.decode(data, type=_Nested, strict=False).error.message)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""


NO_SUCH_PATH = 404


def refusal(message: str, code: int, user: str) -> Exception:
    """Returns the exception for an error of etcd's. `user`: this node's user in etcd, empty without one."""
    if "requested lease not found" in message:
        return LeaseLost("etcd does not know this lease any more")
    if code == OUT_OF_RANGE or "has been compacted" in message:
        return Compacted(message)
    if "user name is empty" in message and not user:
        return EtcdRefused("etcd wants a login: set clusterd.ha.etcd.user and password_file")
    if (
        code == UNAUTHENTICATED
        or "invalid auth token" in message
        or "auth store is old" in message
        or "user name is empty" in message
    ):
        return TokenInvalid(message)
    if "authentication failed" in message:
        return EtcdRefused(f"etcd does not let the user {user} in: there is no such user, or the password is wrong")
    if code == PERMISSION_DENIED or "permission denied" in message:
        who = f"the user {user}" if user else "this node's certificate"
        return EtcdRefused(
            f"etcd does not let {who} read and write there: "
            "etcdctl role grant-permission ROLE --prefix=true readwrite PREFIX/"
        )
    if "database space exceeded" in message:
        return MemberFailed("has no room left in its database: etcdctl compact, defrag, alarm disarm")
    if code in PASSING or "no leader" in message or "timed out" in message or "stopped" in message:
        return MemberFailed(f"says: {cut(message)}", may_be_done="timed out" in message or code == DEADLINE_EXCEEDED)
    return EtcdRefused(f"etcd refuses: {cut(message)}")


def cut(text: bytes | str) -> str:
    """Returns the beginning of another program's text, for people."""
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text
    shown = " ".join(shown.split())
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 3] + "..."


# ---- requests --------------------------------------------------------------------------------------------------------


def encoded(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def key_range(prefix: str) -> dict[str, str]:
    """Returns the range of all keys that begin with the prefix."""
    key = prefix.encode()
    end = key.rstrip(b"\xff")
    return {"key": encoded(key), "range_end": encoded(end[:-1] + bytes([end[-1] + 1]) if end else b"\0")}


def encode_txn(when: list[Compare], then: list[Put | Delete]) -> dict[str, Any]:
    return {"compare": [_compare(one) for one in when], "success": [_operation(one) for one in then]}


TARGETS = {
    "create_revision": "CREATE",
    "mod_revision": "MOD",
    "version": "VERSION",
    "lease": "LEASE",
    "value": "VALUE",
}


def _compare(one: Compare) -> dict[str, str]:
    value = encoded(one.equals) if isinstance(one.equals, bytes) else str(one.equals)
    return {"key": encoded(one.key), "target": TARGETS[one.what], "result": "EQUAL", one.what: value}


def _operation(one: Put | Delete) -> dict[str, Any]:
    if isinstance(one, Delete):
        return {"request_delete_range": {"key": encoded(one.key)}}
    lease = {"lease": str(one.lease)} if one.lease else {}
    return {"request_put": {"key": encoded(one.key), "value": encoded(one.value)} | lease}

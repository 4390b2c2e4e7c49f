"""What the election keeps in etcd, below the prefix of the cluster (docs/ha.md):

    config           Config      who may vote here, and whether changes are paused; made once
    leader           LeaderKey   with the lease of who holds it. Its create_revision and `base` make the term
    candidates/NAME  CandidateKey  with the lease of that node
    members/NAME     MemberKey   every node that ever took part and was not forgotten
    last             LastKey     what the leader has given away, for who follows it
    order            OrderKey    what an operator asked for

Nothing of it is a secret.
"""

import hashlib
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from clusterd.config.ossec_conf import split_address
from clusterd.election.etcd import Item
from clusterd.role import MOST_TERM
from clusterd.settings import Settings

T = TypeVar("T")
CONFIG, LEADER, LAST, ORDER, CANDIDATES, MEMBERS = "config", "leader", "last", "order", "candidates/", "members/"
MOST_BYTES = 65536
MOST_BASE = 1 << 52
"""A term is a base and a revision of etcd, and no larger than MOST_TERM."""
MOST_TEXT, MOST_NAME, MOST_PAST = 2000, 500, 64

Name = Annotated[str, msgspec.Meta(max_length=MOST_NAME)]
Text = Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
Term = Annotated[int, msgspec.Meta(ge=0, le=MOST_TERM)]
Position = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
Moment = Annotated[float, msgspec.Meta(ge=0, le=253402300799)]
Past = Annotated[tuple[tuple[Name, Position], ...], msgspec.Meta(max_length=MOST_PAST)]
"""Lives of a change log that are over, the oldest first: epoch, and the position up to which the later ones have it."""


def text(said: str) -> str:
    """What may stand in a key: printable, and not long."""
    return "".join(filter(str.isprintable, said[:MOST_TEXT]))


class Config(msgspec.Struct, frozen=True):
    """`fingerprint`: of the cluster's name and key; nodes of another cluster have no part in this election. `base`:
    what terms are counted from. `first`: the only node that may lead before any other has led. `paused`: no node takes
    over."""

    cluster: Name
    fingerprint: Name
    base: Annotated[int, msgspec.Meta(ge=0, le=MOST_BASE)] = 0
    first: Name = ""
    paused: bool = False
    bootstrapped_at: Moment = 0.0


class LeaderKey(msgspec.Struct, frozen=True):
    """`id`: of the life of the node's election; `advertise`: HOST:PORT of its cluster port."""

    name: Name
    id: Name
    advertise: Name


NOBODY = LeaderKey("", "", "")
"""Stands for a key that cannot be read."""


class CandidateKey(msgspec.Struct, frozen=True):
    """What a node publishes of itself. `led`: the term to which its own agent database belongs, 0 for a worker;
    `epoch`, `past`, `position`, `lag`: of that database or of its replica. `may_not_lead`: the reason, as far as the
    node itself knows; empty: none."""

    name: Name
    id: Name
    advertise: Name
    fingerprint: Name
    version: Name = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 100
    since: Moment = 0.0
    role: Name = ""
    led: Term = 0
    epoch: Name = ""
    position: Position = 0
    lag: Position | None = None
    digest_equal: bool | None = None
    digest_at: Moment | None = None
    state: Name = ""
    may_not_lead: Text = ""
    past: Past = ()


class MemberKey(msgspec.Struct, frozen=True):
    advertise: Name


class LastKey(msgspec.Struct, frozen=True):
    """Written by the leader only. `position` in the log `epoch`: healthy followers have it by now. `floor`: a node that
    has less never leads. `confirming`: the candidate that has everything answered since; None: answers waited for no
    candidate. `past`: how much of earlier epochs that log contains."""

    term: Term
    leader: Name
    epoch: Name
    position: Position
    confirming: Name | None = None
    at: Moment = 0.0
    floor: Position = 0
    past: Past = ()


class OrderKey(msgspec.Struct, frozen=True):
    """`kind`: switchover or failover. `term`: the term that it ends. `refused`: why it was not carried out."""

    kind: Literal["switchover", "failover"]
    to: Name
    id: Name
    by: Name = ""
    at: Moment = 0.0
    term: Term = 0
    refused: Text = ""


class Held(msgspec.Struct, frozen=True):
    """The leader's key as it stands in etcd."""

    key: LeaderKey
    create_revision: int
    mod_revision: int
    lease: int


class EtcdView(msgspec.Struct, frozen=True):
    """All keys of the election at one revision. Revision 0: the key does not exist."""

    revision: int = 0
    config: Config | None = None
    config_revision: int = 0
    leader: Held | None = None
    last: LastKey | None = None
    last_revision: int = 0
    order: OrderKey | None = None
    order_revision: int = 0
    candidates: dict[str, CandidateKey] = {}
    members: dict[str, MemberKey] = {}
    unreadable: tuple[str, ...] = ()

    @property
    def term(self) -> int:
        """The revision of the leader's key; 0 without one."""
        return 0 if self.leader is None or self.config is None else self.config.base + self.leader.create_revision

    @property
    def leader_name(self) -> str:
        return "" if self.leader is None else self.leader.key.name


def view_of(prefix: str, revision: int, items: dict[str, Item]) -> EtcdView:
    """Reads the keys. `prefix`: with the slash at its end. An unreadable key counts as present without content, and is
    named in `unreadable`. Raises nothing, whatever the keys contain."""
    unreadable: list[str] = []

    def parsed(name: str, kind: type[T]) -> T | None:
        item = items.get(prefix + name)
        if item is None:
            return None
        found = _decoded(item.value, kind)
        if found is None:
            unreadable.append(text(name[:MOST_NAME]))
        return found

    def below(name: str) -> list[str]:
        begin = prefix + name
        found = (key.removeprefix(begin) for key in items if key.startswith(begin))
        return [one for one in found if one and len(one) <= MOST_NAME and one.isprintable()]

    candidates = {}
    for name in below(CANDIDATES):
        one = parsed(CANDIDATES + name, CandidateKey)
        if one is not None and one.name == name:
            candidates[name] = one
        elif one is not None:
            unreadable.append(CANDIDATES + name)
    # A member stays a member, even if its key is unreadable: with `failsafe` all of them are asked.
    members = {name: parsed(MEMBERS + name, MemberKey) or MemberKey("") for name in below(MEMBERS)}

    def modified(name: str) -> int:
        item = items.get(prefix + name)
        return 0 if item is None else item.mod_revision

    leader, held = items.get(prefix + LEADER), None
    if leader is not None:
        key = parsed(LEADER, LeaderKey) or NOBODY
        if key is not NOBODY and not (key.name and key.name.isprintable() and is_address(key.advertise)):
            unreadable.append(LEADER)
            key = NOBODY
        held = Held(key, leader.create_revision, leader.mod_revision, leader.lease)
    return EtcdView(
        revision=revision,
        config=parsed(CONFIG, Config),
        config_revision=modified(CONFIG),
        leader=held,
        last=parsed(LAST, LastKey),
        last_revision=modified(LAST),
        order=parsed(ORDER, OrderKey),
        order_revision=modified(ORDER),
        candidates=candidates,
        members=members,
        unreadable=tuple(unreadable),
    )


def _decoded(value: bytes, kind: type[T]) -> T | None:
    """Decodes a value. None: it is of another kind, or contains characters that may go into no log line and no file of
    ours."""
    if len(value) > MOST_BYTES:
        return None
    key: Any = kind
    found: T | None = _known(value, key)
    return found


@lru_cache(64)
def _known(value: bytes, kind: type[Any]) -> Any:
    """All keys are read again in each step, and most of them are the same."""
    try:
        found = msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    # Without an escape each string is a part of the value, as it stands there.
    is_plain = value.isascii() and b"\\" not in value and value.decode().isprintable()
    return found if is_plain or _is_printable(found) else None


def _is_printable(value: Any) -> bool:
    match value:
        case str():
            return value.isprintable()
        case msgspec.Struct():
            return all(map(_is_printable, msgspec.structs.astuple(value)))
        case tuple():
            return all(map(_is_printable, value))
    return True


def config_unreadable(key: str) -> str:
    """Returns the text for the operator. `key`: its whole name."""
    return (
        f"the key {key} in etcd cannot be read, or has what a cluster cannot have (base: 0 to {MOST_BASE}), so nobody "
        "leads: put the former value there, or remove the key, and then clusterd ha bootstrap"
    )


def of_another_cluster(prefix: str) -> str:
    """Returns the text for the operator whose node has another fingerprint than `config`."""
    return (
        f"the prefix {prefix} in etcd is that of a cluster with another key or name: correct clusterd.ha.prefix, or "
        f"<key> and <name>; if all nodes have changed theirs: etcdctl del --prefix {prefix}, then on the node that led "
        "last: clusterd ha bootstrap"
    )


def is_address(text: str) -> bool:
    """Returns whether it is HOST:PORT. Nonsense in etcd must not keep nodes from dialling others."""
    address = split_address(text) if text.isprintable() and len(text) <= MOST_NAME else None
    return address is not None and address[1] is not None


def encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


def fingerprint(settings: Settings) -> str:
    """Returns the same text on all nodes with the same name and key of the cluster. Readers of etcd see it: each guess
    at a weak key costs them as much as this call, some 50 ms and 16 MiB."""
    cluster = settings.cluster
    salt = b"clusterd-elect\0" + cluster.name.encode()
    return hashlib.scrypt(cluster.key.value, salt=salt, n=1 << 14, r=8, p=1, dklen=16).hex()

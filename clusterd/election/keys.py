"""What the election keeps in etcd, below the prefix of the cluster (docs/ha.md):

    config           Config      who may vote here, and whether changes are paused; made once
    leader           LeaderKey   with the lease of who holds it. Its create_revision and `base` make the term
    candidates/NAME  CandidateKey  with the lease of that node
    members/NAME     MemberKey   every node that ever took part
    last             LastKey     what the leader has given away, for who follows it
    order            OrderKey    what an operator asked for

Nothing of it is a secret.
"""

import hashlib
from typing import TypeVar

import msgspec

from clusterd.config.ossec_conf import split_address
from clusterd.election.etcd import Item
from clusterd.settings import Settings

T = TypeVar("T")
CONFIG, LEADER, LAST, ORDER, CANDIDATES, MEMBERS = "config", "leader", "last", "order", "candidates/", "members/"
MOST_BYTES = 65536


class Config(msgspec.Struct, frozen=True):
    """`fingerprint`: of the cluster's name and key; nodes of another one have no part in this election. `base`: what
    terms are counted from. `first`: the node that may lead while nobody has yet. `paused`: nobody takes over."""

    cluster: str
    fingerprint: str
    base: int = 0
    first: str = ""
    paused: bool = False
    bootstrapped_at: float = 0.0


class LeaderKey(msgspec.Struct, frozen=True):
    """`id`: of the life of the node's election; `advertise`: HOST:PORT of its cluster port."""

    name: str
    id: str
    advertise: str


NOBODY = LeaderKey("", "", "")
"""Of a key that cannot be read."""


class CandidateKey(msgspec.Struct, frozen=True):
    """What a node says of itself. `led`: the term of which its own agent database is, 0 for a worker; `epoch`,
    `position`, `lag`: of that or of its replica. `may_not_lead`: why, as far as the node itself knows; empty:
    nothing."""

    name: str
    id: str
    advertise: str
    fingerprint: str
    version: str = ""
    priority: int = 100
    since: float = 0.0
    role: str = ""
    led: int = 0
    epoch: str = ""
    position: int = 0
    lag: int | None = None
    digest_equal: bool | None = None
    digest_at: float | None = None
    state: str = ""
    may_not_lead: str = ""


class MemberKey(msgspec.Struct, frozen=True):
    advertise: str


class LastKey(msgspec.Struct, frozen=True):
    """Written by the leader only. `position` in the log `epoch`, which followers that are well have by now; `floor`:
    who has less does not lead, whatever else holds; `confirming`: the candidate that has everything that was answered
    since, None: answers waited for nobody."""

    term: int
    leader: str
    epoch: str
    position: int
    confirming: str | None = None
    at: float = 0.0
    floor: int = 0


class OrderKey(msgspec.Struct, frozen=True):
    """`kind`: switchover or failover. `term`: the one that it ends. `refused`: why it was not followed."""

    kind: str
    to: str
    id: str
    by: str = ""
    at: float = 0.0
    term: int = 0
    refused: str = ""


class Held(msgspec.Struct, frozen=True):
    """The leader's key as it stands in etcd."""

    key: LeaderKey
    create_revision: int
    mod_revision: int
    lease: int


class EtcdView(msgspec.Struct, frozen=True):
    """All of it at one revision. Revisions 0: the key is not there."""

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
        """That of the leader's key; 0 without one."""
        return 0 if self.leader is None or self.config is None else self.config.base + self.leader.create_revision

    @property
    def leader_name(self) -> str:
        return "" if self.leader is None else self.leader.key.name


def view_of(prefix: str, revision: int, items: dict[str, Item]) -> EtcdView:
    """`prefix`: with the slash at its end. A key that cannot be read counts as one that is there and says nothing: it
    is named in `unreadable`."""
    unreadable: list[str] = []

    def parsed(name: str, kind: type[T]) -> T | None:
        item = items.get(prefix + name)
        if item is None:
            return None
        try:
            if len(item.value) <= MOST_BYTES:
                return msgspec.json.decode(item.value, type=kind)
        except msgspec.MsgspecError:
            pass
        unreadable.append(name)
        return None

    def below(name: str, kind: type[T]) -> dict[str, T]:
        begin = prefix + name
        names = [key.removeprefix(prefix) for key in items if key.startswith(begin)]
        found = {one.removeprefix(name): parsed(one, kind) for one in names}
        return {one: value for one, value in found.items() if value is not None}

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
        candidates=below(CANDIDATES, CandidateKey),
        members=below(MEMBERS, MemberKey),
        unreadable=tuple(unreadable),
    )


def is_address(text: str) -> bool:
    """Whether it is HOST:PORT. Who writes nonsense into etcd must not stop nodes from dialling others."""
    address = split_address(text) if text.isprintable() else None
    return address is not None and address[1] is not None


def encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


def fingerprint(settings: Settings) -> str:
    """Equal on nodes with the same name and key of the cluster. Who reads etcd has it: each guess at a weak key costs
    as much as this call, some 50 ms and 16 MiB."""
    cluster = settings.cluster
    salt = b"clusterd-elect\0" + cluster.name.encode()
    return hashlib.scrypt(cluster.key.value, salt=salt, n=1 << 14, r=8, p=1, dklen=16).hex()

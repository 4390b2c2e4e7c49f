"""This node's session in etcd: its lease, its view of the keys below the prefix, and every call."""

import uuid
from collections.abc import Callable
from typing import Protocol

import msgspec

from clusterd.election.etcd import Compare, Delete, EtcdUnavailable, Item, LeaseLost, Put, Snapshot, TxnResult
from clusterd.election.facts import Kept, NodePort
from clusterd.election.keys import LEADER, EtcdView, view_of
from clusterd.messages.journal import ElectionEvent

RENEWALS = 5
"""How many renewals there are within the duration of a lease."""
READ_S = 5.0
"""How often everything is read although a watch reports changes: a member that was cut off reports them late."""


class EtcdClient(Protocol):
    """The part of clusterd/election/etcd.py that an elector uses."""

    async def grant(self, ttl_s: int) -> int: ...

    async def keep_alive(self, lease: int) -> int: ...

    async def revoke(self, lease: int) -> None: ...

    async def read(self, prefix: str) -> Snapshot: ...

    async def txn(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult: ...


class Times(Protocol):
    """Clocks in seconds: that of the boot, which goes on while the machine sleeps, and that of the wall."""

    def boot(self) -> float: ...

    def wall(self) -> float: ...


class Identity(msgspec.Struct, frozen=True):
    """What this node publishes of itself, and its settings. `prefix`: with a slash at its end."""

    name: str
    cluster: str
    fingerprint: str
    advertise: str
    prefix: str
    version: str = ""
    priority: int = 100
    lease_s: int = 15
    max_lag: int = 1000
    failsafe: bool = False


class EtcdSession:
    """Owner of the lease. `away`: why etcd does not answer; empty: it does. `view`: the keys in etcd; `items`: the same
    as bytes. `is_live`: a watch reports changes; otherwise each step reads. `renewed_at`: when the last successful
    renewal was sent. `problem`: what keeps this node from its part; `waits_for`: while no node leads, why this node
    does not."""

    def __init__(self, me: Identity, etcd: EtcdClient, node: NodePort, times: Times) -> None:
        self._me, self._etcd, self._node, self._times = me, etcd, node, times
        kept = node.kept()
        self.id = kept.id if kept else uuid.uuid4().hex
        self.lease = kept.lease if kept else 0
        # A node that was restarted has forgotten its earlier promises.
        first = times.boot() + me.lease_s if me.failsafe else 0.0
        self.promised_until = kept.promised_until_s if kept else first
        self.members = kept.members if kept else ()
        self.forgotten: set[str] = set()
        """Former members."""
        self._tried_at = self._read_at = self.renewed_at = float("-inf")
        self.away = ""
        self._away_told = False
        self.view = EtcdView()
        self.items: dict[str, Item] = {}
        self.is_live = self.is_known = False
        self._must_read = False
        """Whether a transaction was done is unknown."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when etcd does not know the lease, before anything else is asked of it."""
        self.problem = self.waits_for = ""

    async def keep(self) -> bool:
        """Renews the lease when that is due; takes a new one when it was lost. Returns whether it did either. Raises
        EtcdUnavailable, EtcdRefused."""
        now = self._times.boot()
        if self.lease and now < self._tried_at + self._me.lease_s / RENEWALS and not self.away:
            return False
        self._tried_at = sent = now
        if self.lease:
            try:
                if await self._etcd.keep_alive(self.lease) < self._me.lease_s:
                    raise LeaseLost("it was taken for a shorter time, with other settings")
            except LeaseLost:
                self.lost()
                sent = self._times.boot()
        if not self.lease:
            self.lease = await self._etcd.grant(self._me.lease_s)
            self.save()
        self.renewed_at = sent
        self._is_back()
        return True

    def lost(self) -> None:
        """Notes that etcd does not know the lease: the next step takes another one at once."""
        self.on_lost()
        self.lease, self.is_known = 0, False
        self._tried_at = self.renewed_at = float("-inf")
        self.save()

    def is_good(self, margin_s: float) -> bool:
        """Whether the lease certainly lives for at least this margin."""
        return self._times.boot() < self.renewed_at + self._me.lease_s - margin_s

    async def refresh(self) -> None:
        """Reads the keys when that is due. Raises EtcdUnavailable, EtcdRefused."""
        is_due = self._times.boot() >= self._read_at + READ_S
        if is_due or self._must_read or not self.is_live or not self.is_known:
            await self.read()

    async def revoke(self) -> None:
        """Ends the lease; etcd deletes all its keys. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        if self.lease:
            await self._etcd.revoke(self.lease)

    async def read(self) -> None:
        """Reads everything below the prefix. Raises EtcdUnavailable, EtcdRefused."""
        before, self._must_read = self.view.revision if self.is_known else 0, False
        try:
            found = await self._etcd.read(self._me.prefix)
        except BaseException:
            self._must_read = True
            raise
        self._read_at = self._times.boot()
        if self.is_known and before <= found.revision < self.view.revision:
            return  # what has come meanwhile is newer
        self.set_items(found.revision, found.items)

    def set_items(self, revision: int, items: dict[str, Item]) -> None:
        """Takes these as the keys in etcd at this revision."""
        if self.is_known and revision < self.view.revision and self.view.config is not None:
            # etcd was made anew, or restored from a backup.
            self._node.say("WARNING", f"etcd went back from revision {self.view.revision} to {revision}.")
        self.items = items
        self.view = view_of(self._me.prefix, revision, items)
        self.is_known = True
        if self.view.members:
            members = tuple(sorted(self.view.members))
            self.forgotten = {*self.forgotten, *self.members} - {*members}
            if members != self.members:
                self.members = members
                self.save()

    def save(self) -> bool:
        return self._node.keep(Kept(self.id, self.lease, self.promised_until, self.members))

    def is_away(self, why: str) -> None:
        self.away = why
        if not self._away_told:
            self._away_told = True
            self._node.say("WARNING", f"etcd cannot be asked: {why}.")
            self._node.tell(ElectionEvent(what="etcd_lost", term=self.view.term, why=why))

    def _is_back(self) -> None:
        self.away = ""
        if self._away_told:
            self._away_told = False
            self._node.say("INFO", "etcd answers again.")
            self._node.tell(ElectionEvent(what="etcd_back", term=self.view.term))

    def key(self, name: str) -> str:
        return self._me.prefix + name

    async def change(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult:
        """Makes a transaction and reads its effect at once. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        try:
            found = await self._etcd.txn(when, then)
        except EtcdUnavailable:
            self._must_read = True
            raise
        if then or not found.succeeded:
            await self.read()
        return found

    def is_leaders(self) -> Compare:
        """Returns the guard of everything that only the leader writes."""
        held = self.view.leader
        return Compare(self.key(LEADER), "create_revision", -1 if held is None else held.create_revision)

    def is_leaders_unchanged(self) -> Compare:
        """Returns the guard of a deletion of the leader's key: nothing has written it since it was read. A request that
        reaches etcd late then cannot end a term that went on meanwhile."""
        held = self.view.leader
        return Compare(self.key(LEADER), "mod_revision", -1 if held is None else held.mod_revision)

    @property
    def is_promised(self) -> bool:
        """Whether this node has promised not to take the lead. Before any node has led there was no leader to promise
        it to."""
        return self.view.last is not None and self._times.boot() < self.promised_until

    @property
    def has_leaders_key(self) -> bool:
        """Whether this life of this node has the leader's key."""
        return self.view.leader is not None and self.view.leader.key.id == self.id

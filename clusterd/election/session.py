"""This node's session in etcd: its lease, what stands below the prefix, and every call."""

import uuid
from typing import Protocol

import msgspec

from clusterd.election.etcd import Compare, Delete, EtcdUnavailable, Item, LeaseLost, Put, Snapshot, TxnResult
from clusterd.election.facts import Kept, NodePort
from clusterd.election.keys import LEADER, EtcdView, view_of
from clusterd.messages.journal import ElectionEvent

RENEWALS = 5
"""So often a lease is renewed while it lasts."""
READ_S = 5.0
"""How often everything is read although changes come by themselves: those of a member that was cut off come late."""


class EtcdClient(Protocol):
    """The part of clusterd/election/etcd.py that an elector uses."""

    async def grant(self, ttl_s: int) -> int: ...

    async def keep_alive(self, lease: int) -> int: ...

    async def revoke(self, lease: int) -> None: ...

    async def read(self, prefix: str) -> Snapshot: ...

    async def txn(self, when: list[Compare], then: list[Put | Delete]) -> TxnResult: ...


class Times(Protocol):
    """Clocks: of the boot, which goes on while the machine sleeps, and of the wall; seconds."""

    def boot(self) -> float: ...

    def wall(self) -> float: ...


class Identity(msgspec.Struct, frozen=True):
    """What this node says of itself and was configured to do. `prefix`: with a slash at its end."""

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
    """Owner of the lease. `away`: why etcd cannot be asked; empty: it can. `view`: what stands in etcd; `items`: the
    same as bytes. `is_live`: changes come by themselves, otherwise each step reads. `renewed_at`: when the last
    successful renewal was sent. `problem`: what keeps this node from its part; `waits_for`: while nobody leads, why
    this node does not."""

    def __init__(self, me: Identity, etcd: EtcdClient, node: NodePort, times: Times) -> None:
        self._me, self._etcd, self._node, self._times = me, etcd, node, times
        kept = node.kept()
        self.id = kept.id if kept else uuid.uuid4().hex
        self.lease = kept.lease if kept else 0
        # A node that begins anew has forgotten what it promised before.
        first = times.boot() + me.lease_s if me.failsafe else 0.0
        self.promised_until = kept.promised_until_s if kept else first
        self.members = kept.members if kept else ()
        self.forgotten: set[str] = set()
        """Who was a member, and is one no more."""
        self._tried_at = self._read_at = self.renewed_at = float("-inf")
        self.away = ""
        self._away_told = False
        self.view = EtcdView()
        self.items: dict[str, Item] = {}
        self.is_live = self.is_known = False
        self._must_read = False
        """What became of a transaction is not known."""
        self.problem = self.waits_for = ""

    async def keep(self) -> bool:
        """Renews the lease when it is due, takes another one for one that is lost. Returns whether it was renewed, or
        is another one. Raises EtcdUnavailable, EtcdRefused."""
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
        """etcd does not know the lease: another one is taken at once."""
        self.lease, self.is_known = 0, False
        self._tried_at = self.renewed_at = float("-inf")
        self.save()

    def is_good(self, margin_s: float) -> bool:
        """Whether the lease surely lives, with this margin."""
        return self._times.boot() < self.renewed_at + self._me.lease_s - margin_s

    async def refresh(self) -> None:
        """Reads when that is due. Raises EtcdUnavailable, EtcdRefused."""
        is_due = self._times.boot() >= self._read_at + READ_S
        if is_due or self._must_read or not self.is_live or not self.is_known:
            await self.read()

    async def revoke(self) -> None:
        """Ends the lease: all keys that have it go. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        if self.lease:
            await self._etcd.revoke(self.lease)

    async def read(self) -> None:
        """Everything below the prefix, anew. Raises EtcdUnavailable, EtcdRefused."""
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
        """What stands in etcd at this revision."""
        if self.is_known and revision < self.view.revision and self.view.config is not None:
            # etcd was made anew, or a backup put in its place.
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
        """A transaction; what it has done is seen at once. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        try:
            found = await self._etcd.txn(when, then)
        except EtcdUnavailable:
            self._must_read = True
            raise
        if then or not found.succeeded:
            await self.read()
        return found

    def is_leaders(self) -> Compare:
        """The guard of whatever only the leader writes."""
        held = self.view.leader
        return Compare(self.key(LEADER), "create_revision", -1 if held is None else held.create_revision)

    def is_leaders_unchanged(self) -> Compare:
        """The guard of what ends the leader's key: it is as it was seen. A request that etcd gets late ends nothing
        that went on meanwhile."""
        held = self.view.leader
        return Compare(self.key(LEADER), "mod_revision", -1 if held is None else held.mod_revision)

    @property
    def is_promised(self) -> bool:
        """Whether this node has said that it does not take the lead. Where nobody has led there was nobody to say it
        to."""
        return self.view.last is not None and self._times.boot() < self.promised_until

    @property
    def has_leaders_key(self) -> bool:
        """Whether the leader's key is this node's, of this life."""
        return self.view.leader is not None and self.view.leader.key.id == self.id

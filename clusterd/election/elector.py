"""One node's part in the election of the master (docs/ha.md): holds a lease in etcd, takes the leader's key when it is
this node's turn, and leads only until a moment that the lease outlives.

A step looks at etcd and at the node and does what follows. Nothing is remembered that etcd, `role.json` or the board
do not say, so a step may fail anywhere and the next one goes on from there.
"""

import contextlib
from collections.abc import Iterator

from clusterd.election.etcd import EtcdRefused, EtcdUnavailable, LeaseLost
from clusterd.election.facts import NodePort
from clusterd.election.following import Following
from clusterd.election.keys import of_another_cluster
from clusterd.election.leading import Leading
from clusterd.election.session import EtcdClient, EtcdSession, Identity, Times
from clusterd.election.tenure import Tenure
from clusterd.messages.election import FailsafeAnswer

LONGEST_LEASE_S = 300.0


class Elector:
    """One task calls `step` again and again; any task may call the other methods. `session`, `tenure`, `leading`,
    `following`: its parts, each owner of its state."""

    def __init__(self, me: Identity, etcd: EtcdClient, node: NodePort, times: Times) -> None:
        self.me, self._node, self._times = me, node, times
        self.session = EtcdSession(me, etcd, node, times)
        self.tenure = Tenure(me, self.session, node, times)
        self.leading = Leading(me, self.session, self.tenure, node, times)
        self.following = Following(me, self.session, self.tenure, self.leading, node, times)
        self.session.on_lost = self._lease_is_lost
        self._said = ""

    async def step(self) -> None:
        """Does what follows from etcd and the node now. A failure of etcd or of the node raises nothing."""
        self._heed_the_key()
        with self._etcd_may_be_away():
            before = self.session.lease
            if await self.session.keep():
                self.tenure.is_failsafe = False
                if self.session.lease != before:
                    self._lease_is_lost()
                if self.tenure.term:
                    await self._confirm()
        self.tenure.mind_the_end()
        with self._etcd_may_be_away():
            if not self.session.away:
                await self.session.refresh()
                if self.is_hurried:
                    await self._node.refresh(files=False)
                await self._follow()
        if self.session.away and self.tenure.term and self.me.failsafe:
            await self._go_on_without_etcd()
        self.tenure.mind_the_end()

    @property
    def is_hurried(self) -> bool:
        """Whether this node is taking the lead or handing it over, so that other nodes wait for each of its steps."""
        is_taking = self.session.has_leaders_key and not self.tenure.term
        return self.leading.hands_over or is_taking

    @contextlib.contextmanager
    def _etcd_may_be_away(self) -> Iterator[None]:
        try:
            yield
        except (EtcdUnavailable, EtcdRefused) as failure:
            self.session.is_away(str(failure))
        except LeaseLost:
            self.session.lost()

    async def _confirm(self) -> None:
        """After a renewal: checks that the leader's key is still this node's, writes `last` with it, and only then
        moves the deadline."""
        held = self.session.view.leader
        if held is None or held.key.id != self.session.id or self.session.view.term != self.tenure.term:
            if self.session.is_known and not self.session.view.leader:
                return  # `_follow` ends it
            await self.session.read()
            held = self.session.view.leader
            if held is None or held.key.id != self.session.id or self.session.view.term != self.tenure.term:
                return
        if not await self.leading.write_last():
            self.session.is_live, self.session.is_known = False, False
            self.tenure.stop("the leader's key in etcd is not this node's any more")
            return
        if not self.tenure.is_for_ever:
            self.tenure.extend(self.session.renewed_at)

    def _heed_the_key(self) -> None:
        """The watch may have told that the leader's key is gone, or another node's: that needs no other answer."""
        held = self.session.view.leader
        if self.tenure.term and self.session.is_known and (held is None or held.key.id != self.session.id):
            self.tenure.stop("the leader's key in etcd is not this node's any more")

    def _lease_is_lost(self) -> None:
        if self.tenure.term and not self.tenure.is_for_ever:
            self.tenure.stop("etcd does not know this node's lease any more")

    async def _follow(self) -> None:
        """Does the leader's or the candidate's part. Raises EtcdUnavailable, EtcdRefused, LeaseLost."""
        if not self.session.lease:
            return
        facts, view = self._node.facts(), self.session.view
        self.session.problem = ""
        if view.config is None:
            await self.following.without_config(facts)
            return
        if view.config.fingerprint != self.me.fingerprint:
            self.session.problem = of_another_cluster(self.me.prefix)
            if self.tenure.term:
                self.tenure.stop("the prefix in etcd belongs to another cluster")
            return
        await self.following.publish(facts)
        held = self.session.view.leader
        if held is not None and held.key.id == self.session.id:
            self.following.there_is_a_leader()
            await self.leading.follow(facts)
            for name in self.session.forgotten & {*facts.known}:
                await self._node.forget(name)
        elif held is not None:
            self.following.there_is_a_leader()
            await self.following.under_another(facts)
        else:
            if self.tenure.term:
                self.tenure.stop("the leader's key in etcd is gone")
            await self.following.without_leader(facts)

    def failsafe(self, term: int, leader: str, for_s: float = 0.0) -> FailsafeAnswer:
        """Answers a leader that asks whether it may go on without etcd (messages/election.py)."""
        facts, held = self._node.facts(), self.session.view.leader
        if self.tenure.term or facts.is_master or (held is not None and held.key.id == self.session.id):
            return FailsafeAnswer(yes=False, why=f"{self.me.name} leads")
        if not self.me.failsafe:
            # A promise would not survive a restart of this node: see session.py.
            return FailsafeAnswer(yes=False, why=f"clusterd.ha.failsafe is off on {self.me.name}")
        if facts.is_changing:
            return FailsafeAnswer(yes=False, why=f"the role of {self.me.name} changes")
        if facts.term != term or facts.master_name != leader:
            return FailsafeAnswer(yes=False, why=f"{self.me.name} knows {facts.master_name} in term {facts.term}")
        until = self._times.boot() + min(max(for_s, self.me.lease_s), LONGEST_LEASE_S)
        self.session.promised_until = max(self.session.promised_until, until)
        if not self.session.save():
            return FailsafeAnswer(yes=False, why=f"{self.me.name} cannot keep a promise on its disk")
        return FailsafeAnswer(yes=True)

    async def _go_on_without_etcd(self) -> None:
        """Asks every candidate of the last known list, and every linked one, whether this node may go on."""
        now = self._times.boot()
        if self.tenure.is_for_ever or self.tenure.until - now > self.me.lease_s / 2:
            return
        facts = self._node.facts()
        nodes = tuple(sorted({*self.session.members, *facts.known} - {self.me.name}))
        why = ""
        if self.me.name not in self.session.members:
            why = "who else takes part is not known"  # of this life of the process, and the one before kept nothing
        elif nodes:
            answers = await self._node.ask_failsafe(self.tenure.term, self.me.name, nodes, self.me.lease_s)
            silent = [name for name in nodes if not answers.get(name)]
            why = f"{', '.join(silent)} does not agree" if silent else ""
        if why:
            if not self._said:
                self._said = f"it cannot go on without etcd: {why}"
                self._node.say("WARNING", f"{self._said[0].upper()}{self._said[1:]}.")
            return
        self._said = ""
        if not self.tenure.is_failsafe:
            self.tenure.is_failsafe = True
            text = "every candidate says that it does not lead" if nodes else "there is no other candidate"
            self._node.say("WARNING", f"This node goes on leading without etcd (failsafe): {text}.")
        self.tenure.mind_the_end()
        self.tenure.extend(now)

    async def stop(self) -> None:
        """Stops leading, on the board first; then ends the lease with all keys of this node, so that another one can
        lead at once. In a pause the leader's key has no lease, and stays."""
        self.tenure.stop("the node is stopped")
        if self.session.lease:
            with contextlib.suppress(EtcdUnavailable, EtcdRefused, LeaseLost):
                await self.session.revoke()

"""Whether this node leads, and until when: writes the two words of the board that every process of the node reads for
itself (clusterd/leadership.py)."""

from clusterd.election.facts import NodePort
from clusterd.election.session import EtcdSession, Identity, Times
from clusterd.messages.journal import ElectionEvent
from ipc.board import FOR_EVER_NS, HANDED_OVER_NS

MARGIN_S = 3.0
"""A leader stops this long before its lease can end: it needs that time to end what it has begun, and clocks may
differ."""
MARGIN_SHARE = 0.2
"""The margin of a short lease, as a share of it."""


class Tenure:
    """Owner of the two words. `term` 0: this node does not lead. `is_for_ever`: the election is paused, the term has no
    end."""

    def __init__(self, me: Identity, session: EtcdSession, node: NodePort, times: Times) -> None:
        self._me, self._session, self._node, self._times = me, session, node, times
        self.margin_s = min(MARGIN_S, me.lease_s * MARGIN_SHARE)
        self.term, self.until = 0, 0.0
        self.is_for_ever = self.is_failsafe = False
        self._has_run = False
        """Whether this life has run `on_promote` or `on_demote`."""
        # The words of an earlier life of this process hold until their end.
        term, until_ns = node.board()
        if until_ns == FOR_EVER_NS:
            self.term, self.is_for_ever = term, True
        elif until_ns / 1e9 > times.boot():
            self.term, self.until = term, until_ns / 1e9

    def extend(self, sent: float) -> None:
        until = sent + self._me.lease_s - self.margin_s
        if self.term and until > max(self.until, self._times.boot()):
            self.until = until
            self._node.lead(self.term, int(until * 1e9))

    def start(self, term: int, *, for_ever: bool) -> None:
        self.term, self.is_for_ever, self.until = term, for_ever, 0.0
        if for_ever:
            self._node.lead(term, FOR_EVER_NS)
        else:
            self.extend(self._session.renewed_at)
            if not self.until:
                self.term = 0
                return
        self._session.waits_for = ""
        self._node.say("INFO", f"This node leads in term {term}{', without an end' if for_ever else ''}.")
        self._node.tell(ElectionEvent(what="leads", term=term, leader=self._me.name))
        self._has_run = True
        self._node.run_program("promote", term, self._me.name)

    def go_on_for_ever(self) -> None:
        """Notes that the leader's key has no lease now: only an order ends the term."""
        self.is_for_ever = True
        self._node.lead(self.term, FOR_EVER_NS)

    def stop(self, why: str, *, hands_over: bool = False) -> None:
        """Ends the term here. `hands_over`: another node is about to lead, so programs that ask are kept waiting."""
        term, self.term, self.until, self.is_for_ever = self.term, 0, 0.0, False
        self.is_failsafe = False
        self._node.lead(term, HANDED_OVER_NS if hands_over else 0)
        if not term:
            return
        self._node.say("WARNING", f"This node leads no more (term {term}): {why}.")
        self._node.tell(ElectionEvent(what="stepped_down", term=term, leader=self._session.view.leader_name, why=why))
        self._has_run = True
        self._node.run_program("demote", term, self._session.view.leader_name)

    def another_leads(self) -> None:
        """Runs `on_demote` on a node that was killed while it led, once it is back."""
        if not self._has_run:
            self._has_run = True
            self._node.run_program("demote", self._session.view.term, self._session.view.leader_name)

    def mind_the_end(self) -> None:
        """Ends the term when its time is over. The other processes see that on the board themselves; here programs run,
        and log and journal are written."""
        if self.term and not self.is_for_ever and self._times.boot() >= self.until:
            why = (
                f"the lease could not be renewed in time: {self._session.away}"
                if self._session.away
                else "this process came too late"
            )
            self.stop(why)

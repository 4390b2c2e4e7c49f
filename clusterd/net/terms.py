"""The highest term that this node has seen, inside net: told by other nodes, kept on disk before anything follows from
it (docs/ha.md)."""

from collections.abc import Callable

from clusterd.net.context import NetContext
from clusterd.role import NodeRole, heard, standing, update_role
from clusterd.wire import commands
from clusterd.wire.terms import TermNote


class Terms:
    """One per net process. `deposed` is called when this node leads and hears of a higher term; it leads no more from
    that moment on. `changed` is called whenever the term or its master has changed."""

    def __init__(self, context: NetContext, deposed: Callable[[], None]) -> None:
        self._context = context
        self._deposed = deposed
        self._given: NodeRole | None = context.settings.role
        self._led = context.settings.is_master

    @property
    def given(self) -> NodeRole:
        """What is known. Only after something was heard."""
        assert self._given is not None
        return self._given

    @property
    def term(self) -> int:
        return 0 if self._given is None else self._given.term

    @property
    def master(self) -> str:
        """Where the master of this term is, as far as it is known."""
        return "" if self._given is None else self._given.master

    @property
    def leads(self) -> bool:
        """Whether this node may act as a master now."""
        return self._led and standing(self._given, self._context.settings.configured.node_type).role == "master"

    @property
    def is_on(self) -> bool:
        """Whether this node listens to terms: that can be switched off where none was ever seen."""
        return self._given is not None or commands.TERM in self._context.settings.clusterd.caps

    @property
    def cluster(self) -> str:
        """The name of this node's cluster."""
        return self._context.settings.cluster.name

    @property
    def note(self) -> TermNote:
        """For other nodes."""
        name, cluster = self._context.settings.cluster.node_name, self.cluster
        if self._given is None:
            return TermNote(0, self.leads, name, "", name if self.leads else "", cluster)
        return TermNote(self._given.term, self.leads, name, self._given.master, self._given.master_name, cluster)

    def hear(self, note: TermNote) -> None:
        """Another node has seen this. What is not new changes nothing."""
        if note.term == 0 or (note.term, note.master) == (self.term, self.master):
            return
        if note.term == self.term and (self.leads or not note.leads):
            # Only the master itself says where it is.
            return
        led = self.leads
        name = note.master_name or (note.node if note.leads else "")
        after = heard(self._given, note.term, note.master, name, self._context.clock.wall())
        if after == self._given:
            return
        known, self._given = self._given, after
        try:
            # A file that was removed or damaged meanwhile is written anew from what this process knows.
            self._given = update_role(
                self._context.settings.root,
                lambda before: heard(before or known, note.term, note.master, name, after.since),
                mend=True,
            )
        except OSError as failure:
            # In memory it counts all the same.
            self._context.own_line("ERROR", f"The term {note.term} cannot be kept on disk: {failure}")
        if led and not self.leads:
            self._deposed()
            return
        where = note.master or "an unknown address"
        self._context.own_line("INFO", f"The master of term {note.term} is {name or 'unknown'} at {where}.")

    def refusal(self, note: TermNote, who: str) -> str:
        """Why a node with this note is not taken as master; empty if it may be."""
        if note.term >= self.term:
            return ""
        return (
            f"{who} leads in term {note.term or '0 (it knows none)'}, and this node has seen term {self.term}"
            f"{f', whose master is {self.master}' if self.master else ''}"
        )

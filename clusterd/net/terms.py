"""The highest term that this node has seen, inside net: told by the node that leads in it, kept on disk before anything
follows from it (docs/ha.md). The disk may take its time: only who waits for the term waits for it."""

import asyncio
from collections.abc import Callable

import msgspec

from clusterd.net.context import NetContext
from clusterd.role import OWN_DIR, NodeRole, RoleDamaged, after_deposing, heard, read_role, standing, update_role
from clusterd.wire import commands
from clusterd.wire.terms import TermNote
from ipc.board import Board

AGAIN_S = 5.0
"""A term that could not be kept on disk is written again so often."""


class Terms:
    """One per net process. `deposed` is called when this node leads and hears of a higher term; it leads no more from
    that moment on, which the board says to all its processes. `kept`: called when the disk has that term, or has
    refused it."""

    def __init__(
        self, context: NetContext, board: Board, deposed: Callable[[], None], kept: Callable[[], None]
    ) -> None:
        self._context = context
        self._board = board
        self._deposed = deposed
        self._when_deposed_is_kept = kept
        self._next: Callable[[], None] | None = None
        """What follows when the disk has what was heard last, or has refused it."""
        self._writing: asyncio.Task[None] | None = None
        self._began_at = 0.0
        # An earlier life of this process has heard that another node leads: it may have ended before the disk had it.
        self._given: NodeRole | None = after_deposing(context.settings.role, board.deposed_term)
        self._led = context.settings.is_master
        self._is_unkept = self._given is not None and board.deposed_term >= self._given.term
        """Whether the disk may know less than this process."""
        if self._led and not self.was_given:
            self._next = kept
        self._said = ""
        self._again_at = 0.0

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
        """Whether this node may act as a master now; in an election only under the lease."""
        fence = self._context.fence
        return self.was_given and (fence is None or fence.is_open())

    @property
    def was_given(self) -> bool:
        """Whether this process was made for a master, and no higher term is known."""
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

    def is_news(self, note: TermNote) -> bool:
        """Whether this node would know more if that is true. Any node with our key may say so: the master that it names
        is asked before it counts."""
        if note.term == 0 or not note.master or note.term < self.term:
            return False
        if note.term == self.term and not note.leads:
            # Only the master itself says where it is.
            return False
        return self._after(note) != self._given

    def believe(self, note: TermNote) -> None:
        """The node that leads has said this itself. What is not new changes nothing."""
        if not note.leads or note.term == 0:
            return
        after = self._after(note)
        if after == self._given:
            return
        led, self._given = self.was_given, after
        self._is_unkept, self._again_at = True, 0.0
        deposed = led and not self.was_given
        if deposed:
            # First: it needs no disk.
            self._board.depose(after.term)
            self._deposed()
            self._next = self._when_deposed_is_kept
        elif self._next is None:
            self._next = self._say_master
        self._keep()

    async def settled(self) -> None:
        """Waits until what was heard is on the disk, or the disk has refused it."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def _say_master(self) -> None:
        given = self.given
        name, where = given.master_name or "unknown", given.master or "an unknown address"
        self._context.own_line("INFO", f"The master of term {given.term} is {name} at {where}.")

    def _after(self, note: TermNote) -> NodeRole:
        # Under the name that it was promoted with, which ties are broken by.
        name = note.master_name or note.node
        return heard(self._given, note.term, note.master, name, self._context.clock.wall())

    async def look_again(self) -> bool:
        """This node's own election, or a command, has written a master into `role.json`. Returns whether that is news.
        A worker's net only: another role needs other processes, which the supervisor sees to."""
        try:
            given = await self._context.disk.run("look", lambda: read_role(self._context.settings.root))
        except RoleDamaged:
            return False
        if given is None or self._led or given == self._given:
            return False
        if self._given is not None and given.term < self._given.term:
            return False
        before, self._given = self._given, given
        is_news = before is None or (given.term, given.master) != (before.term, before.master)
        if is_news:
            self._say_master()
        return is_news

    def tick(self, now: float) -> None:
        """Writes what could not be written; monotonic seconds."""
        if self._writing is not None and now >= self._began_at + AGAIN_S and not self._said:
            self._said = f"The term {self.term} is not on disk yet"
            why = f"the disk, or another process with the lock of {OWN_DIR}, has held it up for {AGAIN_S:g} s"
            self._context.own_line("ERROR", f"{self._said}: {why}. Nothing follows from the term before it is there.")
        if self._is_unkept and now >= self._again_at:
            self._keep()

    def _keep(self) -> None:
        """Begins to write, unless that is under way: what is known by then is written after it."""
        if self._writing is None:
            self._began_at = self._context.clock.awake()
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        """On the disk, as far as it takes it: in memory and on the board it counts all the same."""
        try:
            with self._context.rounds.survive("keeping the term"):
                while not await self._write_once(self.given):
                    pass
        finally:
            self._writing = None
        following, self._next = self._next, None
        if following is not None:
            following()

    async def _write_once(self, known: NodeRole) -> bool:
        """Returns False if more was heard meanwhile, which is to be written now."""

        def merged(before: NodeRole | None) -> NodeRole:
            # A file that was removed or damaged meanwhile is written anew from what this process knows.
            before = before or known
            if before.led == before.term == known.term != known.led:
                return msgspec.structs.replace(before, led=0, master=known.master, master_name=known.master_name)
            return heard(before, known.term, known.master, known.master_name, known.since)

        root = self._context.settings.root
        try:
            kept = await self._context.disk.run("term", lambda: update_role(root, merged, mend=True))
        except (OSError, RoleDamaged) as failure:
            self._again_at = self._context.clock.awake() + AGAIN_S
            text = f"The term {known.term} cannot be kept on disk: {failure}"
            if text != self._said:
                self._said = text
                self._context.own_line("ERROR", f"{text}. Tried again every {AGAIN_S:g} s; in memory it counts.")
            return True
        if self._given != known:
            return False
        self._given = kept
        self._is_unkept = False
        if self._said:
            self._said = ""
            self._context.own_line("INFO", f"The term {known.term} is on disk now.")
        return True

    def refusal(self, note: TermNote, who: str) -> str:
        """Why a node with this note is not taken as master; empty if it may be."""
        seen = f"this node has seen term {self.term}{f', whose master is {self.master}' if self.master else ''}"
        if note.term < self.term:
            return f"{who} leads in term {note.term or '0 (it knows none)'}, and {seen}"
        if note.term == self.term and note.leads and self._given is not None:
            name, known = note.master_name or note.node, self._given.master_name
            if known and name < known:
                return f"{who} leads in term {note.term} as {known} does, whose name comes later, and {seen}"
        return ""

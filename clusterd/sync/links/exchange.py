"""What two clusterd nodes tell each other for `status` (capability `status`): the files that a node leaves out, with
the reason, and the time on its wall clock.

The question carries what the asking node leaves out, the answer the other node's clock and the directories that it
synchronises. Both nodes ask: after every
change, and now and then.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from clusterd.errors import ClusterError, in_passing
from clusterd.status.verdict import is_apart
from clusterd.sync.links.caps import STATUS
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.tag_log import GUARD
from clusterd.sync.ports.troubles import round_survives
from clusterd.sync.ports.wake_timer import WakeTimer
from clusterd.wire import commands
from clusterd.wire.command_table import SMALL
from clusterd.wire.results import dump_json, load_json, shorten

MOST_FILES = 20
LONGEST_PATH = 1024
LONGEST_REASON = 200
"""Characters. Escaped as JSON, MOST_FILES of them fit into a small request."""
MOST_COUNT = 10**9
LATEST_S = 1e11
"""Numbers that no status can hold are none: a node that tells such a number is not believed."""
LOOK_S = 5.0
"""How soon a change is told that nothing has woken us for."""
AGAIN_S = 60.0
"""How often the same is told again: the other node may have lost it, and its clock may have been set. While the clocks
differ it is LOOK_S: whoever sets one right wants to see that it is."""
ITEMS = "directories that the master does not synchronise"
T = TypeVar("T")


class LeftOutFiles(msgspec.Struct, frozen=True):
    """`count`: how many files a node leaves out; `files`: path to reason of the first MOST_FILES."""

    count: Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNT)] = 0
    files: dict[str, str] = {}


class _Answer(msgspec.Struct, frozen=True):
    """The wall clock in seconds. `items`: keys of the items under `files` of cluster.json; older versions do not tell
    them."""

    wall_s: Annotated[float, msgspec.Meta(ge=0, le=LATEST_S)]
    items: list[str] | None = None


class _Neighbour(msgspec.Struct):
    """What the node at the other end of one link has told. `offset_s`: its clock less ours, wrong by at most
    `off_by_s`; None before the first answer."""

    node: str
    left_out: LeftOutFiles = LeftOutFiles()
    left_out_at: float = 0.0
    offset_s: float | None = None
    off_by_s: float = 0.0
    measured_at: float = 0.0

    def clock(self) -> dict[str, Any] | None:
        """Its row of `clocks`."""
        if self.offset_s is None:
            return None
        return {"offset_s": round(self.offset_s, 6), "off_by_s": round(self.off_by_s, 6), "at": self.measured_at}


def bounded(problems: Mapping[str, str], count: int = 0) -> LeftOutFiles:
    """`problems`: path to reason; `count`: how many there are if these are not all."""
    files = dict(list(problems.items())[:MOST_FILES])
    return LeftOutFiles(
        max(count, len(problems)),
        {shorten(path, LONGEST_PATH): shorten(why, LONGEST_REASON) for path, why in files.items()},
    )


class StatusExchange:
    """Owns what the other nodes have told, by link. `own`: returns what this node leaves out."""

    def __init__(self, context: Context, own: Callable[[], LeftOutFiles]) -> None:
        self._context = context
        self._own = own
        self._told: dict[int, _Neighbour] = {}
        self._timers: dict[int, WakeTimer] = {}
        self._tries = 0
        self.remote: dict[str, Handler] = {commands.NODE_STATE: self.told}

    def tried(self) -> None:
        """This node has tried again to put files in place: the others hear the result at once, even if it is the
        same."""
        self._tries += 1
        for timer in self._timers.values():
            timer.wake()

    async def run(self, peer: Peer) -> None:
        """Tells this peer and reads its clock, as long as the link lives."""
        if STATUS not in await peer.agreed():
            return
        timer = self._timers[peer.link] = WakeTimer()
        log = self._context.tag_log(self._context.tag, GUARD)
        before: tuple[LeftOutFiles, int] | None = None
        asked_at = 0.0
        while True:
            now = self._own(), self._tries
            if now != before or self._context.clock.monotonic() - asked_at >= self._again_s(peer):
                asked_at = self._context.clock.monotonic()
                with round_survives(log, self._context.troubles, _telling(peer)):
                    try:
                        await self._ask(peer, now[0])
                        before = now
                    except LinkClosed:
                        return
                    except ClusterError as failure:
                        log.debug(f"{peer.name} was not told the state of this node: {in_passing(failure)}")
            await timer.rest(LOOK_S)

    def _again_s(self, peer: Peer) -> float:
        told = self._told.get(peer.link)
        row = None if told is None else told.clock()
        return LOOK_S if row is not None and is_apart(row) else AGAIN_S

    async def _ask(self, peer: Peer, own: LeftOutFiles) -> None:
        clock = self._context.clock
        asked, begun = clock.wall(), clock.monotonic()
        answer = await peer.request(commands.NODE_STATE, dump_json(msgspec.to_builtins(own)), small=True)
        took_s = clock.monotonic() - begun
        theirs = _parse(answer, _Answer)
        told = self._of(peer)
        told.offset_s, told.off_by_s = theirs.wall_s - (asked + took_s / 2), took_s / 2
        told.measured_at = asked + took_s
        if peer.info.kind == "master" and theirs.items is not None:
            self._compare_items(set(theirs.items))

    def _compare_items(self, of_master: set[str]) -> None:
        """Says once, and shows in `status`, what this worker synchronises and its master does not."""
        context = self._context
        unknown = [item.key for item in context.settings.rules.items if item.key not in of_master]
        log = context.tag_log(context.tag, GUARD)
        if unknown:
            text = (
                f"The master's cluster.json does not name {shorten(', '.join(unknown))}: files in it are not "
                "synchronised. Name it under `files` of the master, too, or of this node no more."
            )
            context.troubles.begin(ITEMS, text, log)
        else:
            context.troubles.end(ITEMS, "The master synchronises all directories that this node does.", log)

    async def told(self, peer: Peer, payload: bytes) -> bytes:
        """`node_state`. Raises ClusterError 1000."""
        found = _parse(payload, LeftOutFiles)
        told = self._of(peer)
        told.left_out = bounded(found.files, found.count)
        told.left_out_at = self._context.clock.wall()
        items = [item.key for item in self._context.settings.rules.items]
        return dump_json({"wall_s": self._context.clock.wall(), "items": items})

    def forget(self, peer: Peer) -> None:
        """The link is gone."""
        self._context.troubles.end(_telling(peer))
        if peer.info.kind == "master":
            self._context.troubles.end(ITEMS)
        self._told.pop(peer.link, None)
        self._timers.pop(peer.link, None)

    def _of(self, peer: Peer) -> _Neighbour:
        return self._told.setdefault(peer.link, _Neighbour(peer.name))

    # ---- for status --------------------------------------------------------------------------------------------------

    def left_out(self) -> dict[str, Any]:
        """By node, this one first: `count`, `files` (path to reason), `at` (when it was told; None for this node). Only
        nodes that leave out any."""
        found: dict[str, Any] = {}
        own = self._own()
        if own.count:
            found[self._context.node_name] = {"count": own.count, "files": own.files, "at": None}
        for told in self._told.values():
            if told.left_out.count:
                left = told.left_out
                found[told.node] = {"count": left.count, "files": left.files, "at": told.left_out_at}
        return found

    def clocks(self) -> dict[str, Any]:
        """By node: `offset_s` (its wall clock less ours), `off_by_s` (how wrong that can be), `at` (when it was
        measured)."""
        rows = {told.node: told.clock() for told in self._told.values()}
        return {node: row for node, row in rows.items() if row is not None}


def _telling(peer: Peer) -> str:
    return f"telling {peer.name} the state of this node"


def _parse(payload: bytes, kind: type[T]) -> T:
    try:
        return msgspec.convert(load_json(payload, limit=SMALL), kind)
    except msgspec.ValidationError as problem:
        raise ClusterError(1000, f"node_state is not what it should be: {problem}") from None

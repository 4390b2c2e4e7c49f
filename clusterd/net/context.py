"""What all parts of net share: settings, log, clock, slabs, and the measure of net's own work."""

import time
from typing import Protocol

from clusterd.clock import Clock
from clusterd.listening.strangers import StrangerLines
from clusterd.logs import Log
from clusterd.messages.links import NetToSync
from clusterd.net.disk import DiskThread
from clusterd.net.fence import Fence
from clusterd.net.limits import BURST_LINES, LineBudget
from clusterd.net.slabs import NetSlabs
from clusterd.rounds import Rounds
from clusterd.settings import Settings
from ipc.board import BoardRow

MAIN = "Main"
OWN_SUBTAG = "Net"
SLOW_NS = 5_000_000
_NAME_IN_USE, _MASTERS_NAME, _OTHER_CLUSTER, _OTHER_VERSION = 3028, 3029, 3030, 3031
"""Codes of a refused hello (wire.md 1.4)."""


class ToSync(Protocol):
    """The part of the bridge that links use."""

    def tell(self, message: NetToSync) -> None: ...

    def slabs_written(self, slabs: list[int]) -> None: ...


class Expiring(Protocol):
    """A link with requests that wait for a response."""

    def expire(self, now: float) -> None: ...


class Beating(Protocol):
    """A link whose two ends have agreed to send something every few seconds."""

    def beat(self, now: float) -> None: ...


class Meter:
    """Counters for the board. Work is the CPU time of net's thread within one callback: for that time every other link
    waits."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "frames_in",
        "frames_out",
        "refused",
        "refused_cluster",
        "refused_hello",
        "refused_key",
        "refused_name",
        "refused_silent",
        "refused_version",
        "requests",
        "work_max_us",
        "work_over_5ms",
    )

    def __init__(self) -> None:
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self.refused = self.refused_key = self.refused_hello = self.refused_name = 0
        self.refused_cluster = self.refused_version = self.refused_silent = 0
        self.requests = self.work_max_us = self.work_over_5ms = 0

    def worked(self, began_ns: int) -> None:
        """Counts a callback that began at `began_ns` (time.thread_time_ns)."""
        spent = time.thread_time_ns() - began_ns
        if spent > SLOW_NS:
            self.work_over_5ms += 1
        if spent > self.work_max_us * 1000:
            self.work_max_us = spent // 1000

    def refuse_hello(self, code: int) -> None:
        """Counts a refused hello by its reason: the code of the answer."""
        if code in (_NAME_IN_USE, _MASTERS_NAME):
            self.refused_name += 1
        elif code == _OTHER_CLUSTER:
            self.refused_cluster += 1
        elif code == _OTHER_VERSION:
            self.refused_version += 1
        else:
            self.refused_hello += 1

    def show(self, row: BoardRow) -> None:
        for counter in self.__slots__:
            row.set(counter, getattr(self, counter))


class NetContext:
    """Made once in process.py. A reload replaces `settings`; the rest stays. `asking`, `beating`: maintained by the
    links. `scratch`: buffer into which all links read small frames."""

    def __init__(self, settings: Settings, log: Log, clock: Clock, slabs: NetSlabs, fence: Fence | None = None) -> None:
        """`fence`: of a master in an election."""
        self.settings = settings
        self.fence = fence
        self.log = log
        self.clock = clock
        """Of this process: peers are judged by `awake`."""
        self.slabs = slabs
        self.disk = DiskThread()
        self.meter = Meter()
        self.rounds = Rounds(self.own_line)
        self.asking: set[Expiring] = set()
        self.beating: set[Beating] = set()
        self.scratch = memoryview(bytearray(65536))
        self._last_link = 0
        limits = settings.clusterd.limits
        self.strangers = StrangerLines(limits.log_lines_per_address_s, limits.log_lines, self.own_line)
        self.insiders = StrangerLines(limits.log_lines_per_address_s, limits.log_lines, self.own_line)
        self.set_settings(settings)

    def set_settings(self, settings: Settings) -> None:
        limits = settings.clusterd.limits
        self.settings = settings
        for lines in (self.strangers, self.insiders):
            lines.set_bounds(limits.log_lines_per_address_s, limits.log_lines)
        self._ordinary = LineBudget(BURST_LINES, limits.log_lines_per_address_s)

    def begin_life(self, incarnation: int) -> int:
        """Called once, before the first link. Returns the number after which links and requests of this life of net are
        numbered, so that a late answer of sync to an earlier life is never taken for an answer to another peer."""
        self.slabs.life = incarnation
        self._last_link = incarnation << 32
        return self._last_link

    def new_link_number(self) -> int:
        self._last_link += 1
        return self._last_link

    @property
    def divided_bytes(self) -> int:
        """Most bytes of all divided messages that a node or program may have begun."""
        return min(self.settings.clusterd.limits.divided_bytes, self.slabs.divided_bytes)

    @property
    def role_tag(self) -> str:
        """The tag of lines about the node itself."""
        cluster = self.settings.cluster
        return "Master" if self.settings.is_master else f"Worker {cluster.node_name}"

    def ordinary_line(self, level: str, tag: str, address: str, text: str) -> None:
        """A line that each connection causes: many per address, but a bounded number."""
        if self.log.is_on(level) and self._ordinary.allows(address, self.clock.awake()):
            self.log.line(level, tag, MAIN, text)

    def abuse_line(
        self, level: str, tag: str, subtag: str, address: str, kind: str, text: str, *, is_insider: bool = False
    ) -> None:
        """A line about a bad connection. Each address and kind of abuse gets one line per period, with a count of the
        rest, and there is a limit for all lines. `is_insider`: the line is about a node with our key, a program of this
        machine, or this node; a flood by strangers does not suppress it."""
        if not self.log.is_on(level):
            return
        lines = self.insiders if is_insider else self.strangers
        left_out = lines.admit((address, kind), self.clock.awake())
        if left_out is None:
            return
        self.log.line(level, tag, subtag, text)
        if left_out:
            self.own_line("INFO", f"{left_out} more lines like the one about {address} ({kind}) were left out.")

    def own_line(self, level: str, text: str) -> None:
        """A line of our own, under a subtag that stock does not have."""
        self.log.line(level, self.role_tag, OWN_SUBTAG, text)

"""What sync needs of the framework: to know whether it has a function, and to run it (architecture.md, section 1)."""

import asyncio
import itertools
import zlib
from collections.abc import Collection
from typing import Any, Protocol

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.sync.ports.fair_queue import FairQueue, FairQueueLimits, Ticket
from clusterd.sync.ports.framework_crew import REQUESTS_AT_ONCE, Crew, FrameworkState
from clusterd.sync.ports.framework_helper import Helper, HelperGone
from clusterd.sync.ports.spool import Spool
from clusterd.wire.results import WireCallable

KNOWN_SOURCE = 512
"""Most requests of one asker that wait or run."""
START_WAIT_S = 20.0
"""How long a request waits at least while the first process imports everything, which takes long on a busy machine. A
node that has passed the request on waits for this time, too, in addition to the function's own time
(timeout_cluster_request)."""


MOST_WAIT_S = 120.0
"""How long a request waits for a process at most, however long its function may run: one that begins later would change
something after its asker has given up (200 s)."""


class NotBegun(ClusterError):
    """The framework did not begin with the request, and will not. The caller may answer it in another way."""

    def __init__(self, why: str) -> None:
        super().__init__(3009, why)


class Framework(Protocol):
    """The installed framework of this node."""

    @property
    def state(self) -> FrameworkState: ...

    def can_run(self, name: WireCallable) -> bool:
        """Returns whether this framework has the function, as far as is known before it was started. `run` may still
        fail, and says why."""

    async def run(
        self,
        request: Text,
        *,
        timeout_s: float | None,
        is_read_only: bool,
        name: WireCallable,
        asker: str = "",
        begin_by: float | None = None,
    ) -> Text:
        """Returns the answer as the framework's encoder has written it; a file of it must be removed by the caller, and
        so must the request's.

        `timeout_s`: how long the request may wait for a process (MOST_WAIT_S at most), and how long it may then run.
        `begin_by`: monotonic seconds after which it is not to begin.
        `name`: the function that the request names. `asker`: shares the processes fairly with other askers. A request
        that only reads is run once more when its process dies. Raises NotBegun, and ClusterError: 3021 at the deadline,
        1000 when the process died."""

    def shown(self) -> dict[str, Any]:
        """Returns the part of `status` about the framework."""


class MissingFramework:
    """A framework that should be there and cannot be started: it is installed in part, or closed to the node's user. It
    begins with no request. So nobody answers in its place where its users or their tokens matter, as while it fails."""

    state: FrameworkState = "failed"

    def __init__(self, why: str, mode: str) -> None:
        self._why = why
        self._mode = mode

    def can_run(self, name: WireCallable) -> bool:
        return False

    async def run(self, request: Text, **how: Any) -> Text:
        raise NotBegun(f"the framework cannot be used: {self._why}")

    def shown(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "reason": self._why,
            "mode": self._mode,
            "version": None,
            "functions": None,
            "missing": {},
            "helpers": [],
        }


class FrameworkPort:
    """Runs requests on the helpers of `crew`, askers in turn."""

    def __init__(
        self, crew: Crew, names: Collection[tuple[str, str]], most_processes: int, spool: Spool, clock: Clock
    ) -> None:
        """`names`: modules and qualified names of the functions that may be asked for."""
        self.crew = crew
        self._names = frozenset(names)
        self._spool = spool
        self._clock = clock
        self._lanes = itertools.count()
        most = most_processes * REQUESTS_AT_ONCE
        self._turns = FairQueue(
            FairQueueLimits(
                most, most, most, max(1, most * 3 // 4), known_source=KNOWN_SOURCE, bytes_source=1 << 40, bytes=1 << 40
            )
        )

    @property
    def state(self) -> FrameworkState:
        return self.crew.state

    def shown(self) -> dict[str, Any]:
        return {**self.crew.shown(), "running": self._turns.running}

    def can_run(self, name: WireCallable) -> bool:
        return not self._why_not(name)

    def _why_not(self, name: WireCallable) -> str:
        key = (name.module, name.qualname)
        if name.wazuh is not None or key not in self._names:
            return f"{name.qualname[:100]} is not one that the framework is asked for"
        if self.crew.known is not None and key not in self.crew.known:
            return f"the installed framework has no {name.module}.{name.qualname}"
        return ""

    async def run(
        self,
        request: Text,
        *,
        timeout_s: float | None,
        is_read_only: bool,
        name: WireCallable,
        asker: str = "",
        begin_by: float | None = None,
    ) -> Text:
        """See Framework.run."""
        self._check(name)
        try:
            turn = self._turns.join(zlib.crc32(asker.encode()), str(next(self._lanes)), "the framework", 0)
        except ClusterError as refusal:
            raise NotBegun(str(refusal.extra)) from None
        try:
            helper = await self._its_turn(turn, name, timeout_s, begin_by)
            deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._ask(helper, request, deadline)
                except HelperGone as gone:
                    if not is_read_only:
                        raise ClusterError(1000, str(gone)) from None
                try:
                    return await self._ask(await self._free_helper(name), request, deadline)
                except HelperGone as gone:
                    raise ClusterError(1000, str(gone)) from None
        except TimeoutError:
            raise ClusterError(3021) from None
        finally:
            self._turns.leave(turn)

    async def _its_turn(
        self, turn: Ticket, name: WireCallable, timeout_s: float | None, begin_by: float | None
    ) -> Helper:
        """Waits for the turn and for a helper. Raises NotBegun."""
        wait_s = MOST_WAIT_S if timeout_s is None else min(timeout_s, MOST_WAIT_S)
        if self.state in ("idle", "starting"):
            wait_s = max(wait_s, START_WAIT_S)
        if begin_by is not None:
            wait_s = min(wait_s, max(0.0, begin_by - self._clock.monotonic()))
        try:
            async with asyncio.timeout(wait_s):
                await self._turns.begin(turn, None)
                return await self._free_helper(name)
        except TimeoutError:
            raise NotBegun(f"no process of the framework was free within {wait_s:g} s") from None

    def _check(self, name: WireCallable) -> None:
        why = self._why_not(name)
        if not why and self.state == "failed":
            why = f"the framework cannot be used: {self.crew.cannot}"
        if why:
            raise NotBegun(why)

    async def _ask(self, helper: Helper, request: Text, deadline: float | None) -> Text:
        call = helper.ask(request, self._spool.new_path("answer"), self._clock.monotonic())
        try:
            return await call.answer
        except BaseException:
            if call.answer.done() and not call.answer.cancelled():
                self._spool.remove(call.out)  # an answer that came at the very moment when its asker gave up
            else:
                self.crew.abandon(helper, call, deadline)
            raise

    async def _free_helper(self, name: WireCallable) -> Helper:
        """Waits for a helper that takes a request. Raises NotBegun."""
        while True:
            self._check(name)
            helper = self.crew.free()
            if helper is not None:
                return helper
            await self.crew.change()

"""The helpers of a node, which are the processes of the framework: how many run, which one is replaced, which one takes
a request.

The supervisor starts and kills them. None runs before the first request that needs one, unless `clusterd.framework` is
`on`.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from clusterd.clock import Clock
from clusterd.errors import calm
from clusterd.messages.base import INLINE_BYTES
from clusterd.messages.framework import HelperEnded, HelperNotStarted, HelperStarted
from clusterd.settings import Settings
from clusterd.sync.ports.framework_helper import Helper, HelperCall
from clusterd.sync.ports.framework_output import PrintedLines
from clusterd.sync.ports.framework_supply import Supply, Take
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles, round_survives

FrameworkState = Literal["off", "absent", "idle", "starting", "ready", "failed"]
"""`idle`: installed, and no request has needed it yet."""
REQUESTS_AT_ONCE = 8
"""Most requests that one helper runs at a time, each in a thread."""
BUSY = 4
"""With this many requests on the least loaded helper, another one is started if more are allowed."""
TICK_S = 0.5
START_S = 120.0
"""How long a helper may take to import everything; some twenty other busy processes may slow it down."""
SUPERVISOR_S = 10.0
ABANDONED_S = 30.0
"""How long a function may run on after its asker has gone, if the request had no deadline."""
RETIRING_S = 300.0
ENDING_S = 10.0
SPARE_IDLE_S = 300.0
"""An additional helper ends when it was not used for this time."""
LONG_LIFE_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
TOO_MUCH = 2
"""A helper that exceeds its memory limit this many times is killed without waiting for its requests."""
SUBJECT = "framework"
VERSION_SUBJECT = "framework version"


class MakeSupply(Protocol):
    """Makes a Supply, or what a test uses instead."""

    def __call__(self, take: Take, tell: Callable[[HelperNotStarted | HelperEnded], None]) -> Supply: ...


class Crew:
    """`forever` runs as long as sync does; `close` ends the helpers. `cannot`: why no helper can be had; empty while
    one is only not ready yet. `known`: the functions of the helper that was started last, None before the first."""

    def __init__(
        self,
        settings: Settings,
        names: Mapping[tuple[str, str], bool],
        make_supply: MakeSupply,
        *,
        spool: Spool,
        log: TagLog,
        troubles: Troubles,
        clock: Clock,
    ) -> None:
        """`names`: modules and qualified names of the functions that may be asked for, and whether each is a
        coroutine."""
        self._settings = settings
        self._own = settings.clusterd.framework
        self._names = [[*name, is_coroutine] for name, is_coroutine in sorted(names.items())]
        self._remove = spool.remove
        self._log = log
        self._troubles = troubles
        self._clock = clock
        self._supply = make_supply(self._started, self._told)
        self._helpers: dict[int, Helper] = {}
        self._last: Helper | None = None
        self._is_wanted = self._own.mode == "on"
        self._is_closing = False
        self._asked_at: float | None = None
        self._failures = 0
        self._again_at = 0.0
        self._starts = 0
        self._change: asyncio.Future[None] | None = None
        self._printed = PrintedLines(log, clock.monotonic)
        self.cannot = ""
        self.known: frozenset[tuple[str, str]] | None = None

    @property
    def state(self) -> FrameworkState:
        if any(helper.state == "ready" for helper in self._helpers.values()):
            return "ready"
        if self.cannot:
            return "failed"
        return "starting" if self._is_wanted else "idle"

    def shown(self) -> dict[str, Any]:
        hello = self._last.hello if self._last is not None else None
        return {
            "state": self.state,
            "reason": self.cannot or None,
            "mode": self._own.mode,
            "python": self._settings.framework_python,
            "python_version": hello.python if hello else None,
            "version": hello.version if hello else None,
            "functions": len(hello.names) if hello else None,
            "missing": {f"{module}.{name}": why for module, name, why in hello.missing} if hello else {},
            "marked": hello.has_marker if hello else None,
            "started": self._starts,
            "helpers": [
                {
                    "name": helper.name,
                    "pid": helper.pid,
                    "state": helper.state,
                    "requests": helper.requests,
                    "running": helper.load,
                    "rss_bytes": helper.rss_bytes,
                    "started_at": self._clock.wall() - (self._clock.monotonic() - helper.started_at),
                }
                for helper in self._helpers.values()
            ],
        }

    # ---- who takes a request -----------------------------------------------------------------------------------------

    def free(self) -> Helper | None:
        """Returns a helper that takes a request now. If there is none, starts one and returns None; ask again after
        `change`."""
        self._is_wanted = True
        free = [helper for helper in self._serving() if helper.state == "ready" and helper.load < REQUESTS_AT_ONCE]
        if not free:
            self._start_if_useful()
            return None
        # A worn helper is used only if there is no other.
        helper = min(free, key=lambda helper: (bool(helper.worn), helper.load))
        if helper.load >= BUSY:
            self._start_if_useful()
        return helper

    async def change(self) -> None:
        """Waits until a request may be taken that was not before."""
        if self._change is None:
            self._change = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._change)

    def _wake(self) -> None:
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    def abandon(self, helper: Helper, call: HelperCall, deadline: float | None) -> None:
        """Called when the asker has gone. A function in a thread cannot be cancelled, so it may run until its
        deadline."""
        now = self._clock.monotonic()
        call.answer.cancel()
        call.overdue_at = now + ABANDONED_S if deadline is None else deadline
        self._retire_overdue(helper, now)

    # ---- how many there are ------------------------------------------------------------------------------------------

    def _serving(self) -> list[Helper]:
        return [helper for helper in self._helpers.values() if helper.state in ("starting", "ready")]

    def _start_if_useful(self) -> None:
        """Starts one helper at a time; one above the configured number while one of them is worn."""
        serving = self._serving()
        is_starting = self._asked_at is not None or any(helper.state == "starting" for helper in serving)
        if is_starting or self._clock.monotonic() < self._again_at:
            return
        if sum(not helper.worn for helper in serving) < self._own.processes:
            if self._supply.start():
                self._asked_at = self._clock.monotonic()
            else:
                self._failed("the supervisor does not take what it is told")

    def _started(self, message: HelperStarted, connection: socket.socket, output: int) -> None:
        self._asked_at = None
        self._starts += 1
        helper = Helper(
            message.number,
            message.pid,
            connection,
            output,
            self._clock.monotonic(),
            remove=self._remove,
            log=self._log,
            print_lines=self._printed.take,
            changed=self._changed,
        )
        self._helpers[message.number] = helper
        key = self._settings.cluster.key.value.decode("utf-8", "replace")
        setup = {
            "names": self._names,
            "mask": [key] if key else [],
            "answer_bytes": self._own.answer_bytes,
            "inline_bytes": INLINE_BYTES,
            "threads": REQUESTS_AT_ONCE,
        }
        helper.open(json.dumps(setup).encode())

    def _told(self, message: HelperNotStarted | HelperEnded) -> None:
        if isinstance(message, HelperNotStarted):
            self._asked_at = None
            self._failed(message.text)
        else:
            self._log.info(calm(f"The process framework-{message.number} ended {message.how}."))

    def _changed(self, helper: Helper) -> None:
        now = self._clock.monotonic()
        if helper.state == "gone":
            self._gone(helper, now)
        elif helper.state == "starting" and helper.hello is not None:
            self._ready(helper, now)
        elif helper.state == "retiring" and not helper.load:
            helper.end(now)
        self._wake()

    def _ready(self, helper: Helper, now: float) -> None:
        hello = helper.hello
        assert hello is not None
        helper.set_state("ready", now)
        self._last = helper
        self.known = frozenset(hello.names)
        self.cannot = ""
        self._troubles.end(SUBJECT, "The framework can be used again.", self._log)
        version = hello.version or "unknown"
        self._log.info(
            f"The framework (version {version}, Python {hello.python}) is ready after {now - helper.started_at:.1f} s: "
            f"{helper.name}, pid {helper.pid}, {len(hello.names)} functions, {len(hello.missing)} missing."
        )
        ours = self._settings.clusterd.version
        if hello.version and hello.version.split(".")[:2] != ours.split(".")[:2]:
            text = (
                f"The framework has version {version}, this node speaks {ours}: see which functions are missing "
                "(status)"
            )
            self._troubles.begin(VERSION_SUBJECT, text, self._log)
        else:
            self._troubles.end(VERSION_SUBJECT)
        for other in self._serving():
            if other.worn:
                self._retire(other, now)
                break

    def _gone(self, helper: Helper, now: float) -> None:
        self._helpers.pop(helper.number, None)
        self._supply.kill(helper.number)  # what it has started, and itself if it only closed its connection
        if self._is_closing:
            return
        if helper.hello is None:
            lines = "; ".join(helper.last_lines)
            said = helper.cannot or (f"it ended and said: {lines}" if lines else "it ended and said nothing")
            self._failed(said)
        elif not helper.was_told:
            self._died(helper, now)

    def _died(self, helper: Helper, now: float) -> None:
        """Called when a helper died by itself. The next one starts at once after a long life, otherwise after a growing
        pause."""
        is_short = now - helper.state_at < LONG_LIFE_S
        self._failures = self._failures + 1 if is_short else 0
        self._again_at = now + self._pause_s() if is_short else 0.0
        lines = "; ".join(helper.last_lines)
        text = f"The framework process {helper.name} (pid {helper.pid}) died after {helper.requests} requests."
        self._log.warning(calm(f"{text} It said last: {lines}" if lines else text))

    def _failed(self, why: str) -> None:
        """Called when no helper could be started. Running helpers go on; without any, waiting requests fail with this
        reason."""
        self._failures += 1
        self._again_at = self._clock.monotonic() + self._pause_s()
        if not any(helper.state == "ready" for helper in self._helpers.values()):
            self.cannot = why
        text = f"The framework at {self._settings.framework_python} cannot be started: {why}. It is tried again"
        self._troubles.begin(SUBJECT, text, self._log, "ERROR")
        self._wake()

    def _pause_s(self) -> float:
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16))

    # ---- time --------------------------------------------------------------------------------------------------------

    async def forever(self) -> None:
        self._supply.open()
        while True:
            with round_survives(self._log, self._troubles, "looking after the framework"):
                self._look(self._clock.monotonic())
            await asyncio.sleep(TICK_S)

    async def close(self) -> None:
        self._is_closing = True
        for helper in list(self._helpers.values()):
            await helper.close()
        self._supply.close()

    def renew(self) -> None:
        """Replaces all helpers, one after the other, because the framework or its settings may have changed."""
        for helper in self._serving():
            helper.worn = helper.worn or "a reload"

    def _look(self, now: float) -> None:
        if self._asked_at is not None and now - self._asked_at > SUPERVISOR_S:
            self._asked_at = None
            self._failed(f"the supervisor did not start it within {SUPERVISOR_S:.0f} s")
        for helper in list(self._helpers.values()):
            self._look_at(helper, now)
        serving = self._serving()
        if self._is_wanted and (not serving or any(helper.worn for helper in serving)):
            self._start_if_useful()
        self._printed.tick()
        self._wake()

    def _look_at(self, helper: Helper, now: float) -> None:
        spent = now - helper.state_at
        match helper.state:
            case "starting" if spent > START_S:
                helper.cannot = f"it was not ready after {START_S:.0f} s"
                self._kill(helper, now)
            case "ready":
                if spent > LONG_LIFE_S:
                    self._failures = 0
                self._look_at_memory(helper, now)
                self._retire_overdue(helper, now)
                if len(self._serving()) > 1 and not helper.load and now - helper.used_at > SPARE_IDLE_S:
                    self._retire(helper, now)
            case "retiring":
                if helper.load == helper.overdue(now) or spent > RETIRING_S:
                    self._kill(helper, now)
            case "ending" if spent > ENDING_S:
                self._kill(helper, now)

    def _look_at_memory(self, helper: Helper, now: float) -> None:
        rss_bytes = helper.rss_bytes
        if rss_bytes > TOO_MUCH * self._own.memory_bytes:
            self._log.warning(f"{helper.name} (pid {helper.pid}) has {rss_bytes >> 20} MiB of memory and is killed.")
            self._kill(helper, now)
        elif not helper.worn and rss_bytes > self._own.memory_bytes:
            helper.worn = f"{rss_bytes >> 20} MiB of memory"
        elif not helper.worn and helper.requests >= self._own.requests:
            helper.worn = f"{helper.requests} requests"

    def _retire_overdue(self, helper: Helper, now: float) -> None:
        if helper.state == "ready" and helper.overdue(now):
            self._log.warning(
                f"A function in {helper.name} (pid {helper.pid}) has run for longer than it may: the process takes no "
                "more requests and is killed once it has answered the others."
            )
            self._retire(helper, now)

    def _retire(self, helper: Helper, now: float) -> None:
        if helper.worn:
            self._log.info(f"{helper.name} (pid {helper.pid}) is replaced after {helper.worn}.")
        helper.set_state("retiring", now)
        if not helper.load:
            helper.end(now)
        if not self._serving():
            self._start_if_useful()

    def _kill(self, helper: Helper, now: float) -> None:
        if self._supply.kill(helper.number):
            helper.set_state("ending", now)

"""`clusterd.hooks`: programs that run on events, as the daemon's user, for each hook one at a time. They get the event
as JSON on standard input and a small environment. The daemon's own environment may hold the cluster key, so they get
nothing of it."""

import asyncio
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence

from clusterd.config.hooks import program_problem
from clusterd.errors import calm
from clusterd.messages.journal import AnyEvent
from clusterd.monitor.feed import Heard
from clusterd.programs import Say, environment, run_program
from clusterd.settings import HookSettings

MOST_WAITING = 100
PER_MINUTE = 60
"""Most runs of one hook in a minute."""


class Hooks:
    """Owner of the hooks of a node. `count`: `runs`, `failed` and `dropped` (events that found no room)."""

    def __init__(
        self, root: str, node: str, say: Say, problem: Callable[[str, str], None], count: Callable[[str], None]
    ) -> None:
        """`say`: logs a text at a level; `problem`: takes a subject and its problem, "" when that is over; `count`:
        adds one to a counter."""
        self._environment = environment(root, node)
        self._say = say
        self._problem = problem
        self._count = count
        self._hooks: list[_Hook] = []
        self._made = 0

    def adopt(self, settings: Sequence[HookSettings]) -> None:
        """Takes the hooks of the configuration. An unchanged hook keeps its waiting events; a removed one ends when its
        program has ended."""
        kept = {hook.settings: hook for hook in self._hooks}
        wanted = list(dict.fromkeys(settings))
        self._hooks = [kept.pop(one) if one in kept else self._make(one) for one in wanted]
        for hook in kept.values():
            hook.retire()

    def _make(self, settings: HookSettings) -> "_Hook":
        """Each has a subject of its own: two hooks may run one program, and the next one of that name may work."""
        self._made += 1
        subject = f"hook {self._made}"
        return _Hook(settings, self._environment, self._say, lambda text: self._problem(subject, text), self._count)

    def take(self, batch: Sequence[Heard]) -> None:
        """Takes new events. Neither waits nor raises."""
        for hook in self._hooks:
            for heard in batch:
                if matches(hook.settings.on, heard.event):
                    hook.take(heard)

    async def close(self) -> None:
        """Kills running programs."""
        hooks, self._hooks = self._hooks, []
        await asyncio.gather(*(hook.close() for hook in hooks))


def matches(on: Sequence[str], event: AnyEvent) -> bool:
    """Whether a hook with this `on` wants the event."""
    return event.kind in on or f"{event.kind}:{event.outcome}" in on


class _Hook:
    def __init__(
        self,
        settings: HookSettings,
        environment: dict[str, str],
        say: Say,
        problem: Callable[[str], None],
        count: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self._name = os.path.basename(settings.run[0])
        self._environment = environment
        self._say = say
        self._problem = problem
        self._count = count
        self._waiting: deque[Heard] = deque()
        self._started: deque[float] = deque(maxlen=PER_MINUTE)
        self._is_failing = False
        self._is_full = False
        self._is_retired = False
        self._task: asyncio.Task[None] | None = None

    def take(self, heard: Heard) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._count("hooks_dropped")
            if not self._is_full:
                self._is_full = True
                self._say("WARNING", f"{self._name}: {MOST_WAITING} events wait, more are not told to it.")
            return
        self._waiting.append(heard)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work_off())

    def retire(self) -> None:
        """What becomes of the program that runs is no problem of the node any more: nothing would end it."""
        self._is_retired = True
        self._waiting.clear()
        self._problem("")

    async def close(self) -> None:
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work_off(self) -> None:
        while self._waiting:
            await self._have_turn()
            if not self._waiting:
                return  # retired meanwhile
            heard = self._waiting.popleft()
            if len(self._waiting) < MOST_WAITING // 2:
                self._is_full = False
            self._count("hooks_run")
            try:
                why = program_problem(self.settings.run[0], os.geteuid()) or await self._run(heard)
            except (OSError, subprocess.SubprocessError) as failure:
                why = f"{self.settings.run[0]} cannot be run: {getattr(failure, 'strerror', None) or failure}"
            self._ended(heard, why)

    async def _have_turn(self) -> None:
        if len(self._started) == PER_MINUTE:
            await asyncio.sleep(max(0.0, self._started[0] + 60.0 - time.monotonic()))
        self._started.append(time.monotonic())

    def _ended(self, heard: Heard, why: str) -> None:
        """Logs a problem once, until the hook works again. `why`: what went wrong."""
        if why:
            self._count("hooks_failed")
            if not self._is_retired:
                self._problem(f"{self._name} (clusterd.hooks), event {heard.seq}: {calm(why)}")
            if not self._is_failing:
                self._say("WARNING", f"{self._name}, event {heard.seq} ({heard.event.kind}): {calm(why)}.")
        elif self._is_failing:
            self._problem("")
            self._say("INFO", f"{self._name} works again.")
        self._is_failing = bool(why)

    async def _run(self, heard: Heard) -> str:
        """Returns what went wrong, empty if nothing. Raises OSError."""
        settings = self.settings
        data = heard.text.encode() + b"\n"
        return await run_program(settings.run, self._environment, data, settings.timeout_s, self._say, self._name)

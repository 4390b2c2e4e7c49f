"""All children of a node: those of its role, those that outlive a change of role, and the helpers of the framework.
Starts and ends them in their order."""

import os
import random
import signal
import time
from collections.abc import Callable, Collection, Sequence

from clusterd.listening.doors import doors
from clusterd.logs import Log
from clusterd.messages.journal import ProcessEvent
from clusterd.supervisor.child import ChildSpec, reap_orphans
from clusterd.supervisor.family import SUBTAG, TAG, Family, Timing
from clusterd.supervisor.helpers import STAGE as HELPERS_STAGE
from clusterd.supervisor.helpers import Helpers
from clusterd.supervisor.plan import ASKERS_STAGE, NodeResources, make_arena, served_by_children

KILLED_WAIT_S = 10.0
STOP_SIGNALS = frozenset({int(signal.SIGTERM), int(signal.SIGINT)})


class Children:
    """`wait`: waits for a signal for so many seconds; returns its number or None. `must_stop`: a stop signal came while
    something else was waited for."""

    def __init__(
        self,
        node: NodeResources,
        log: Log,
        pace: Timing,
        *,
        plan: Callable[[NodeResources], list[ChildSpec]],
        lasting: Callable[[NodeResources], list[ChildSpec]],
        crash_log: str,
        reason: Callable[[], str],
        tell: Callable[[ProcessEvent], None],
        wait: Callable[[float], int | None],
        own_descriptors: Callable[[], Sequence[int]],
    ) -> None:
        """`own_descriptors`: those of the supervisor, which every child closes; otherwise as Family."""
        self._node, self._log, self._pace, self._plan = node, log, pace, plan
        self._crash_log, self._reason, self._tell, self._wait = crash_log, reason, tell, wait
        self._own_descriptors = own_descriptors
        self.must_stop = False
        self._is_first = os.getpid() == 1
        self._make()
        self._lasting = self._family_of(lasting(node))

    def _family_of(self, specs: list[ChildSpec], worked: Collection[str] | None = None) -> Family:
        return Family(
            specs,
            self._node.board,
            self._log,
            self._pace,
            crash_log=self._crash_log,
            reason=self._reason,
            spread=random.random,
            not_for_child=self.descriptors,
            tell=self._tell,
            worked=worked,
        )

    def _make(self, worked: Collection[str] | None = None) -> None:
        """All that is forked for the present role. `worked`: see Family."""
        self._family = self._family_of(self._plan(self._node), worked)
        settings = self._node.settings
        most = settings.clusterd.framework.processes
        self._helpers = Helpers(settings.framework_python, settings.root, most, self._node.board.row("sync"))
        self._node.framework_fd = self._helpers.sync_end

    def renew(self) -> None:
        """Others for another role, while none of those of the role lives."""
        self._helpers.close()
        self._node.arena.close()
        self._node.arena = make_arena(self._node.settings)
        self._make(self._family.worked)

    def descriptors(self, child: str) -> tuple[int, ...]:
        """Those that this child closes."""
        helpers = self._helpers.own_end, None if child == "sync" else self._helpers.sync_end
        others = doors.descriptors(*served_by_children(self._node.settings, child))
        return tuple(fd for fd in (*self._own_descriptors(), *helpers, *others) if fd is not None)

    # ---- coming up, watching -----------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Forks everything."""
        self._lasting.start(now)
        self._family.start(now)

    def start_role(self, now: float) -> None:
        """Forks the children of the role."""
        self._family.start(now)

    def look(self, now: float) -> None:
        """See Family.look. Does not see after helpers."""
        for family in self._families:
            family.look(now)
        if self._is_first:
            reap_orphans({*self._helpers.pids(), *(pid for family in self._families for pid in family.pids())})

    def look_after_helpers(self, now: float) -> None:
        self._helpers.look(now)

    @property
    def _families(self) -> tuple[Family, Family]:
        return self._family, self._lasting

    def set_pace(self, pace: Timing) -> None:
        self._pace = pace
        for family in self._families:
            family.pace = pace

    def paused(self) -> None:
        for family in self._families:
            family.paused()

    def next_moment(self) -> float | None:
        moments = (*(family.next_moment() for family in self._families), self._helpers.next_moment())
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def failure(self) -> str:
        return self._family.failure or self._lasting.failure

    @property
    def is_ready(self) -> bool:
        return all(family.is_ready for family in self._families)

    @property
    def waiting_for(self) -> list[str]:
        return [name for family in self._families for name in family.waiting_for]

    @property
    def waited_s(self) -> float:
        return max(family.waited_s for family in self._families)

    def send_all(self, number: signal.Signals) -> None:
        for family in self._families:
            family.send_all(number)

    def send_lasting(self, number: signal.Signals) -> None:
        """To those that a change of role does not end."""
        self._lasting.send_all(number)

    # ---- going down --------------------------------------------------------------------------------------------------

    def end_role(self) -> None:
        """Before the role changes. A stop signal meanwhile is obeyed afterwards (`must_stop`)."""
        self._stop_stages(self._family, in_haste=True)
        self._kill_role()
        self._gone(self._living_of_role, KILLED_WAIT_S)

    def stop(self) -> list[str]:
        """Stage by stage; what does not end in its time is killed. A second stop signal kills the rest at once. Returns
        who cannot be killed."""
        doors.close()
        self._stop_stages(self._family)
        self._stop_stages(self._lasting)
        return self.living()

    def kill(self) -> None:
        """All at once, and waits for their end."""
        self._kill_all()
        self._gone(self.living, KILLED_WAIT_S)

    def close(self) -> None:
        doors.close()
        self._helpers.close()

    def _stop_stages(self, family: Family, *, in_haste: bool = False) -> None:
        """`in_haste`: those whose askers have ended stop all at once."""
        stages = family.stages()
        groups = [[stage] for stage in stages]
        if in_haste:
            asked = [stage for stage in stages if stage > ASKERS_STAGE]
            groups = [[stage] for stage in stages if stage <= ASKERS_STAGE] + ([asked] if asked else [])
        for group in groups:
            self._stop_group(family, group)

    def _stop_group(self, family: Family, stages: list[int]) -> None:
        with_helpers = family is self._family and HELPERS_STAGE in stages

        def living() -> list[str]:
            found = [name for stage in stages for name in family.living(stage)]
            return found + (self._helpers.living() if with_helpers else [])

        allowed_s = max(family.ask_to_stop(stage) for stage in stages)
        if with_helpers:
            allowed_s = max(allowed_s, self._helpers.ask_to_stop())
        if not self._gone(living, allowed_s):
            late = ", ".join(living())
            self._log.line("WARNING", TAG, SUBTAG, f"Did not end in {allowed_s:.0f} s and is killed: {late}.")
            for stage in stages:
                family.kill(stage)
            if with_helpers:
                self._helpers.kill()
            self._gone(living, KILLED_WAIT_S)

    def _gone(self, living: Callable[[], list[str]], allowed_s: float) -> bool:
        """Whether these end within this time. A stop signal meanwhile kills everything."""
        deadline = time.monotonic() + allowed_s
        while living():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._wait(min(left, self._pace.tick_s)) in STOP_SIGNALS:
                self.must_stop = True
                self._kill_all()
        return True

    def living(self) -> list[str]:
        return self._living_of_role() + self._lasting.living()

    def _living_of_role(self) -> list[str]:
        return self._family.living() + self._helpers.living()

    def _kill_role(self) -> None:
        self._family.kill()
        self._helpers.kill()

    def _kill_all(self) -> None:
        self._kill_role()
        self._lasting.kill()

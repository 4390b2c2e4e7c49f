"""The children of one node: starts, watches, replaces and ends them. Single-threaded and never blocking; run.py drives
it."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from clusterd.logs import Log, RateLimiter
from clusterd.messages.journal import ProcessEvent
from clusterd.rounds import Rounds
from clusterd.supervisor.child import BirthPlan, Child, ChildSpec, fork
from clusterd.supervisor.restart import GiveUp, History, Life, Restart, decide, how
from clusterd.vitals import Watch
from ipc.board import Board, BoardRow, RowSnapshot

TAG = "Cluster"
SUBTAG = "Supervisor"
SAME_LINE_S = 60.0
LATEST_AGAIN_S = 5.0
FORK_AGAIN_S = 1.0
MOST_CRASH_LOG = 16 << 20


class Timing(msgspec.Struct, frozen=True):
    """Times in seconds. `start_s`: how long a new child may take to become ready, waits for a core or the disk
    excluded; `stuck_after_s`: how long a child may be idle without a heartbeat; `stuck_busy_after_s`: how long it may
    compute or wait for the disk without one (a hidden process: or for a core); `dump_s`: between the order to dump its
    stacks and its kill; `tick_s`: how often a serving node is checked; `asleep_s`: a supervisor whose tick is this late
    was itself stopped, and its children with it.

    Waiting for a core, where it can be seen, never counts against a child: on a busy machine a new one would wait as
    long."""

    start_s: float = 60.0
    stuck_after_s: float = 30.0
    stuck_busy_after_s: float = 600.0
    dump_s: float = 2.0
    tick_s: float = 1.0
    asleep_s: float = 3.0


class Slot:
    """One child across all its lives. `child` is None while it is down; `due_at`: when it is forked again."""

    def __init__(self, spec: ChildSpec, row: BoardRow, *, worked: bool) -> None:
        """`worked`: as in Family.worked, in the last role."""
        self.spec = spec
        self.worked = worked
        self.row = row
        self.child: Child | None = None
        self.incarnation = self.born_before = row.snapshot().incarnation
        """More than 0 after a change of role: numbers of lives go on."""
        self.history = History(ever_ready=worked)
        self.due_at: float | None = None
        self.kill_at: float | None = None
        self.watch = Watch()


class Family:
    """Owns all children. Every method takes `now`, seconds on the monotonic clock.

    `failure` is set for good when a child could not start its work: then the node must stop."""

    def __init__(
        self,
        specs: Iterable[ChildSpec],
        board: Board,
        log: Log,
        pace: Timing,
        *,
        crash_log: str,
        reason: Callable[[], str],
        spread: Callable[[], float],
        not_for_child: Callable[[str], Sequence[int]],
        tell: Callable[[ProcessEvent], None],
        worked: Collection[str] | None = None,
    ) -> None:
        """`reason`: returns, once, a child's own text why it could not start. `not_for_child`: the descriptors that the
        child of this name closes. `tell`: takes what happens to children, for the journal. `worked`: as that of the
        family before; the node waits for none of these that fails. None: there was none before."""
        self._is_first = worked is None
        self._slots = [Slot(spec, _row_of(board, spec.name), worked=spec.name in (worked or ())) for spec in specs]
        self._log = log
        self._limiter = RateLimiter(SAME_LINE_S)
        self._rounds = Rounds(self._say)
        self.pace = pace
        self._crash_log = crash_log
        self._reason = reason
        self._spread = spread
        self._not_for_child = not_for_child
        self._tell = tell
        self.failure = ""

    # ---- coming up ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Forks all children, in reverse order of stopping."""
        for slot in reversed(self._slots):
            self._fork(slot, now)

    @property
    def is_ready(self) -> bool:
        """Whether every child is ready."""
        return not self.waiting_for

    @property
    def waiting_for(self) -> list[str]:
        """Names of the children that are not ready, but those that have worked in the last role and fail in this
        one."""
        waited = [
            slot for slot in self._slots if not (slot.worked and (slot.history.lives or slot.kill_at is not None))
        ]
        return [slot.spec.name for slot in waited if slot.child is None or slot.row.state != "ready"]

    @property
    def worked(self) -> list[str]:
        """Names of the children that have been ready and do the same in any role."""
        return [slot.spec.name for slot in self._slots if slot.spec.any_role and slot.history.ever_ready]

    @property
    def waited_s(self) -> float:
        """The longest time that a child which is not ready has waited for a core or the disk."""
        starting = [slot for slot in self._slots if slot.row.state != "ready"]
        return max((slot.watch.start.waited_s for slot in starting), default=0.0)

    def _fork(self, slot: Slot, now: float) -> None:
        slot.due_at = slot.kill_at = None
        slot.watch = Watch()
        slot.incarnation += 1
        slot.row.begin(0, slot.incarnation)
        slot.row.set_restarts(slot.incarnation - slot.born_before - 1)
        plan = BirthPlan(
            close_fds=tuple(self._not_for_child(slot.spec.name)),
            crash_log=self._crash_log,
            on_crash=lambda stack: self._log.line("ERROR", TAG, SUBTAG, f"{slot.spec.name} met a bug:\n{stack}"),
            begin=lambda: self._log.report_to(slot.row),
        )
        try:
            slot.child = fork(slot.spec, slot.incarnation, now, plan)
        except OSError as failure:
            why = failure.strerror or str(failure)
            self._ended(slot, Life(0.0, failure.errno or 1, False), "could not be forked", now, why)
            return
        slot.row.set_pid(slot.child.pid)
        self._tell(ProcessEvent(process=slot.spec.name, what="started", pid=slot.child.pid))

    def pids(self) -> list[int]:
        """Those that nobody has waited for."""
        return [slot.child.pid for slot in self._slots if slot.child is not None]

    # ---- watching ----------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Reaps children that ended, decides their replacement, forks those that are due, and ends those that are
        stuck."""
        for slot in self._slots:
            with self._rounds.survive(f"looking after {slot.spec.name}"):
                self._look_at(slot, now)

    def paused(self) -> None:
        """The supervisor itself did not run for a while (machine or process group stopped). Neither did the children,
        so that time does not count."""
        for slot in self._slots:
            slot.watch.skip()

    def next_moment(self) -> float | None:
        """The next time at which `look` has something to do, apart from its ticks."""
        moments = [at for slot in self._slots for at in (slot.due_at, slot.kill_at) if at is not None]
        return min(moments, default=None)

    def _look_at(self, slot: Slot, now: float) -> None:
        child = slot.child
        if child is None:
            if slot.due_at is not None and now >= slot.due_at and not self.failure:
                self._fork(slot, now)
            return
        status = child.collect()
        facts = slot.row.snapshot()
        if status is not None:
            slot.child = None
            life = Life(now - child.started_at, status, facts.state in ("ready", "stopping"))
            what = "died" if slot.kill_at is None else "killed"
            why = how(status) if slot.kill_at is None else "it gave no sign of life"
            self._tell(ProcessEvent(process=slot.spec.name, what=what, pid=child.pid, why=why))
            self._ended(slot, life, f"(pid {child.pid}) ended {how(status)}", now)
        elif slot.kill_at is not None:
            if now >= slot.kill_at:
                child.send(signal.SIGKILL)
                slot.kill_at = now + self.pace.dump_s
        else:
            slot.watch.look(child.pid, facts.heartbeat_ns, now, self.pace.tick_s)
            why = self._what_is_wrong(slot, facts, now)
            if why:
                self._end_stuck(slot, child, why, now)

    def _what_is_wrong(self, slot: Slot, facts: RowSnapshot, now: float) -> str:
        """Why this child must be ended; empty if it must not."""
        pace, silence = self.pace, slot.watch.silence
        if silence.idle_s > pace.stuck_after_s or silence.busy_s > pace.stuck_busy_after_s:
            return f"gave no sign of life for {now - facts.heartbeat_ns / 1e9:.0f} s ({silence})"
        if facts.state == "starting" and slot.child is not None:
            taken_s = now - slot.child.started_at - slot.watch.start.waited_s
            if taken_s > pace.start_s:
                return f"was not ready after {pace.start_s:.0f} s ({slot.watch.start})"
        if silence.disk_s > pace.stuck_after_s and not slot.watch.warned:
            slot.watch.warned = True
            self._say("WARNING", f"{slot.spec.name} has waited for the disk for {silence.disk_s:.0f} s.")
        return ""

    def _end_stuck(self, slot: Slot, child: Child, what: str, now: float) -> None:
        """Asks for its stacks in the crash log: faulthandler answers SIGABRT even in a busy loop, and in a stopped
        process once it continues."""
        slot.kill_at = now + self.pace.dump_s
        self._say("WARNING", f"{slot.spec.name} (pid {child.pid}) {what}; its stacks go to {self._crash_log}.")
        moment = time.strftime("%Y/%m/%d %H:%M:%S")
        self._append_crash_log(f"{moment} {slot.spec.name} (pid {child.pid}, {child.incarnation}. life) {what}\n")
        child.send(signal.SIGABRT)
        child.send(signal.SIGCONT)

    def _append_crash_log(self, text: str) -> None:
        try:
            fd = os.open(self._crash_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as failure:
            self._say("WARNING", f"{self._crash_log} cannot be written: {failure.strerror}")

    def _bound_crash_log(self) -> None:
        """A child that dies again and again must not fill the disk with its stacks. Those that live have the file
        open: it is emptied, not moved."""
        with contextlib.suppress(OSError):
            if os.stat(self._crash_log).st_size <= MOST_CRASH_LOG:
                return
            try:
                shutil.copyfile(self._crash_log, f"{self._crash_log}.1")
            finally:
                os.truncate(self._crash_log, 0)

    def _ended(self, slot: Slot, life: Life, what: str, now: float, why: str = "") -> None:
        """Records the end of a life on the board and in the log, and plans the next one. `why`: known to us; else the
        child may have told it."""
        slot.kill_at = None
        self._bound_crash_log()
        slot.due_at = now + LATEST_AGAIN_S  # whatever comes in between: a child that is gone comes back
        reason = why or self._reason()
        answer: Restart | GiveUp = Restart(FORK_AGAIN_S)
        if self._is_first or not why:
            # Else the system is short of processes, which ends no node that has served: nobody else would start it.
            slot.history, answer = decide(slot.history, life, self._spread())
        name = slot.spec.name
        if isinstance(answer, GiveUp):
            slot.row.set_down(failed=True)
            slot.due_at = None
            if not self.failure:
                text = f"{name} {what if why else answer.why}"
                self.failure = f"{text}: {reason}" if reason else text
            return
        slot.row.set_down()
        slot.due_at = now + answer.pause_s
        left_out = self._limiter.admit((name, life.status, reason), now)
        if left_out is not None:
            when = "now" if answer.pause_s == 0 else f"in {answer.pause_s:.1f} s"
            more = f" The same happened {left_out} more times before." if left_out else ""
            text = f"{name} {what}{f': {reason}' if reason else ''}. It comes back {when}.{more}"
            self._say("WARNING" if life.was_ready else "ERROR", text)

    def _say(self, level: str, text: str) -> None:
        self._log.line(level, TAG, SUBTAG, text)

    # ---- going down --------------------------------------------------------------------------------------------------

    def send_all(self, number: signal.Signals) -> None:
        """In the order in which they start: the pool knows the new settings before sync gives it work by them."""
        for slot in reversed(self._slots):
            if slot.child is not None:
                slot.child.send(number)

    def stages(self) -> list[int]:
        """Numbers of the stages of a stop, in order."""
        return sorted({slot.spec.stage for slot in self._slots})

    def ask_to_stop(self, stage: int) -> float:
        """Sends SIGTERM to the children of this stage; returns how many seconds they may take."""
        slots = [slot for slot in self._slots if slot.spec.stage == stage and slot.child is not None]
        for slot in slots:
            assert slot.child is not None
            slot.child.send(signal.SIGTERM)
            slot.child.send(signal.SIGCONT)
        return max((slot.spec.stop_s for slot in slots), default=0.0)

    def living(self, stage: int | None = None) -> list[str]:
        """Reaps children that ended without replacing them; returns the names of those of this stage (or of all) that
        live."""
        names = []
        for slot in self._slots:
            if slot.child is not None and (status := slot.child.collect()) is not None:
                pid, slot.child = slot.child.pid, None
                if slot.row.state in ("ready", "stopping"):
                    slot.history = msgspec.structs.replace(slot.history, ever_ready=True)
                slot.row.set_down()
                self._tell(
                    ProcessEvent(process=slot.spec.name, what="stopped", pid=pid, why=how(status) if status else "")
                )
            if slot.child is not None and stage in (None, slot.spec.stage):
                names.append(slot.spec.name)
        return names

    def kill(self, stage: int | None = None) -> None:
        for slot in self._slots:
            if slot.child is not None and stage in (None, slot.spec.stage):
                slot.child.send(signal.SIGKILL)


def _row_of(board: Board, name: str) -> BoardRow:
    """The row that a child of this name has had before a change of role, or a new one."""
    try:
        return board.row(name)
    except KeyError:
        return board.add_row(name)

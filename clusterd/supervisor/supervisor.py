"""The supervisor's loop: forks the node's children, replaces those that die, stops them in order.

It has no threads, no ZeroMQ context and no data, so it can fork again at any time. It waits only for signals and the
next tick: its signals stay blocked and are taken one by one with sigtimedwait.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from clusterd.config.loading import load
from clusterd.event_sender import EventSender
from clusterd.leadership import Leadership
from clusterd.logs import Log
from clusterd.memory import MemoryGauge
from clusterd.messages.journal import ProcessEvent, ReloadEvent
from clusterd.pidfile import PidFile
from clusterd.reload import adopt, changes
from clusterd.rounds import Rounds
from clusterd.rundir import board_path, reason_path, run_dir
from clusterd.settings import Clusterd, Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.supervisor.child import SIGNALS, ChildSpec, freeze
from clusterd.supervisor.children import Children
from clusterd.supervisor.family import SUBTAG, TAG, Timing
from clusterd.supervisor.notify import Notifier
from clusterd.supervisor.plan import LEAVE_S, NodeResources, make_arena
from clusterd.supervisor.preload import preload
from clusterd.supervisor.role_follow import RoleFollower
from clusterd.supervisor.run_files import RunFiles
from clusterd.supervisor.starter import CouldNotStart, Starter, StartResult
from clusterd.supervisor.status_line import StatusLine
from ipc.board import SUPERVISOR, Board

STARTING_TICK_S = 0.02

Plans = tuple[Callable[[NodeResources], list[ChildSpec]], Callable[[NodeResources], list[ChildSpec]]]
"""The children of a role, and those that live on while the role changes."""

STOP_LINES = {
    signal.SIGTERM: "SIGNAL [(15)-(SIGTERM)] received. Exit...",
    signal.SIGINT: "SIGINT received. Bye!",
}


class Supervisor:
    """The loop of one node: starting, serving, stopping. `crash_fd`: the open crash log."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        pid_file: PidFile,
        crash_log: str,
        crash_fd: int,
        starter: Starter,
        plans: Plans,
        pace: Timing,
    ) -> None:
        self._crash_fd = crash_fd
        self._root = settings.root
        self._log = log
        self._pid_file = pid_file
        self._starter = starter
        self._pace = pace
        self._notifier = Notifier(os.environ, os.getpid())
        self._board = Board.create(board_path(settings.root))
        self._row = self._board.add_row(SUPERVISOR)
        log.report_to(self._row)
        self._row.begin(os.getpid(), 1)
        self._gauge = MemoryGauge(self._row.set_own_bytes)
        self._node = NodeResources(settings, make_arena(settings), self._board, log)
        self._events = EventSender(self._root, SUPERVISOR, is_on=settings.clusterd.has_monitor)
        make_plan, make_lasting = plans
        self._children = Children(
            self._node,
            log,
            pace,
            plan=make_plan,
            lasting=make_lasting,
            crash_log=crash_log,
            reason=self._take_reason,
            tell=self._events.tell,
            wait=self._wait,
            own_descriptors=self._own_descriptors,
        )
        self._role = RoleFollower(
            self._node,
            self._children,
            self._row,
            log,
            crash_log,
            reason=self._take_reason,
            wait=self._wait,
            changing=self._notifier.changing,
        )
        self._run_files = RunFiles(self._root)
        self._serving = False
        self._status_line = StatusLine(self._notifier, self._board)
        self._must_reload = False
        """Whether SIGHUP has come. During a change of role the configuration is read again when the change is done."""
        self._started = 0.0
        self._rounds = Rounds(lambda level, text: log.line(level, TAG, SUBTAG, text))

    def tell_of_earlier(self, stale: list[str]) -> None:
        """The journal hears now that an earlier life was killed. `stale`: the pid files that it left."""
        for name in (name for name in stale if "_child_" not in name):
            pid = int(name.removesuffix(".pid").rpartition("-")[2])
            why = "it was not stopped: killed, or the machine was"
            self._events.tell(ProcessEvent(process=SUPERVISOR, what="died", pid=pid, why=why))

    def run(self) -> None:
        """Until a stop signal. Raises CouldNotStart."""
        preload()
        freeze()
        try:
            self._role.begin()
            if self._children.must_stop:
                return
            self._started = time.monotonic()
            self._children.start(self._started)
            self._loop()
        finally:
            self._children.kill()
            self._notifier.close()
            self._children.close()
            self._node.arena.close()
            self._log.report_to_nobody()
            self._board.close()

    def _loop(self) -> None:
        looked = time.monotonic()
        while True:
            number = self._wait(self._pause())
            now = time.monotonic()
            if now - looked > self._pace.tick_s + self._pace.asleep_s:
                self._children.paused()
            looked = now
            if number in STOP_LINES:
                self._log.line("INFO", TAG, "Main", STOP_LINES[signal.Signals(number)])
                self._stop()
                return
            if number in (signal.SIGHUP, ROLE_WRITTEN) or self._role.is_due(now):
                if self._role.look():
                    self._serving = False
                    self._started = time.monotonic()
                    self._children.start_role(self._started)
                if self._children.must_stop:
                    self._stop()
                    return
            if number == ROLE_WRITTEN:
                self._children.send_all(ROLE_WRITTEN)
            if self._must_reload:
                self._must_reload = False
                self._notifier.reloading()
                with self._rounds.survive("reloading the configuration"):
                    self._reload()
                if self._serving:  # whatever came of it: systemd waits for this
                    self._status_line.ready(self._node.settings)
            self._children.look(now)
            with self._rounds.survive("looking after the framework"):
                self._children.look_after_helpers(now)
            with self._rounds.survive("keeping the pid file"):
                if self._pid_file.restore():
                    text = f"Another program has removed {self._pid_file.path}: it is there again."
                    self._log.line("WARNING", TAG, SUBTAG, text)
            with self._rounds.survive("keeping the run directory"):
                if self._run_files.look():
                    text = f"Another program has removed {run_dir(self._root)}: its files are there again."
                    self._log.line("WARNING", TAG, SUBTAG, text)
            self._row.stamp()
            self._gauge.tick(now)
            if self._serving:
                self._status_line.look(self._node.settings)
            failure = self._children.failure
            if not self._serving and not failure:
                if self._children.is_ready:
                    self._serve()
                elif now - self._started - self._children.waited_s > self._pace.start_s:
                    waiting = ", ".join(self._children.waiting_for)
                    failure = f"not ready after {self._pace.start_s:.0f} s: {waiting}; see logs/cluster.log"
            if failure:
                self._stop()
                raise CouldNotStart(failure)

    def _pause(self) -> float:
        pause = self._pace.tick_s if self._serving else STARTING_TICK_S
        if self._notifier.watchdog_s is not None:
            pause = min(pause, self._notifier.watchdog_s)
        moment = self._children.next_moment()
        if moment is not None:
            pause = min(pause, moment - time.monotonic())
        return max(0.0, pause)

    def _wait(self, pause_s: float) -> int | None:
        """The next signal, or None after the pause. Tells systemd that the loop turns."""
        self._events.flush()
        found = signal.sigtimedwait(SIGNALS, pause_s)
        self._notifier.alive()
        if found is None:
            return None
        self._must_reload = self._must_reload or found.si_signo == signal.SIGHUP
        return found.si_signo

    def _serve(self) -> None:
        self._serving = True
        self._row.set_ready()
        settings = self._node.settings
        what = f"{settings.role_text} {settings.cluster.node_name} of cluster {settings.cluster.name}"
        self._log.line("INFO", TAG, SUBTAG, f"The node serves: {what}, pid {os.getpid()}.")
        self._status_line.ready(settings)
        self._starter.tell(StartResult(True, pid=os.getpid()))

    def _reload(self) -> None:
        """SIGHUP: read the files again; with a mistake in them everything stays as it is."""
        loaded = load(self._root, conf=self._node.settings.conf or None)
        if loaded.settings is None:
            count, first = len(loaded.problems), loaded.problems[0]
            text = f"The configuration was not reloaded, it has mistakes ({count}); the first one: {first}"
            self._log.line("ERROR", TAG, SUBTAG, text)
        else:
            before = self._node.settings
            self._node.settings, waiting = adopt(before, loaded.settings)
            changed = tuple(changes(before, self._node.settings))
            self._events.tell(ReloadEvent(changed=changed, needs_restart=tuple(waiting)))
            self._log.set_level(self._node.settings.log_level)
            self._set_pace(before.clusterd, self._node.settings.clusterd)
            needs = f" These changes need a restart: {', '.join(waiting)}." if waiting else ""
            self._log.line("INFO", TAG, SUBTAG, f"The configuration was reloaded.{needs}")
            self._children.send_all(signal.SIGHUP)

    def _set_pace(self, before: Clusterd, own: Clusterd) -> None:
        if (before.stuck_after_s, before.stuck_busy_after_s) == (own.stuck_after_s, own.stuck_busy_after_s):
            return
        self._pace = msgspec.structs.replace(
            self._pace, stuck_after_s=own.stuck_after_s, stuck_busy_after_s=own.stuck_busy_after_s
        )
        self._children.set_pace(self._pace)

    def _stop(self) -> None:
        """Stage by stage; what does not end in its time is killed. A second stop signal kills the rest at once."""
        self._row.set_stopping()
        self._notifier.stopping("stopping")
        self._hand_over()
        left = self._children.stop()
        if left:
            self._log.line("ERROR", TAG, SUBTAG, f"Cannot be killed and is left: {', '.join(left)}.")

    def _hand_over(self) -> None:
        """A leader of an election has another one lead before it stops; not for long, nor after another stop signal."""
        settings = self._node.settings
        if not (settings.has_election and settings.is_master):
            return
        leadership, election = Leadership(self._board, settings), self._board.row("election")
        self._children.send_lasting(ROLE_WRITTEN)
        if leadership.holds():
            text = f"Another node is to lead first, within {LEAVE_S:.0f} s. One more signal: stop without; two: kill."
            self._log.line("INFO", TAG, SUBTAG, text)
        until = time.monotonic() + LEAVE_S
        while leadership.holds() and election.state == "ready" and time.monotonic() < until:
            self._row.stamp()
            if self._wait(STARTING_TICK_S) in STOP_LINES:
                text = "Stopped again: what this leader answered last may be missing on the next one."
                self._log.line("WARNING", TAG, SUBTAG, text)
                return

    # ---- small things ------------------------------------------------------------------------------------------------

    def _take_reason(self) -> str:
        """What a child wrote about why it could not start; read once."""
        path = Path(reason_path(self._root))
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""
        with contextlib.suppress(OSError):  # a disk that is read-only by now
            path.unlink()
        return text

    def _own_descriptors(self) -> tuple[int, ...]:
        """Those that no child needs."""
        found = (self._starter.fd, self._notifier.fileno(), self._crash_fd)
        return tuple(fd for fd in found if fd is not None)

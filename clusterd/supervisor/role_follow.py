"""The role of a node changes while its supervisor lives (docs/ha.md): what `role.json` says counts at once."""

import os
import signal
import time
from collections.abc import Callable

import msgspec

from clusterd.listening.doors import doors
from clusterd.logs import Log
from clusterd.role import NodeRole, RoleDamaged, after_deposing, read_role
from clusterd.rundir import reason_path
from clusterd.supervisor import role_change, sweep
from clusterd.supervisor.child import BirthPlan, ChildSpec, fork
from clusterd.supervisor.children import STOP_SIGNALS, Children
from clusterd.supervisor.family import SUBTAG, TAG
from clusterd.supervisor.plan import NodeResources, pool_size, served_by_children
from clusterd.supervisor.restart import how
from ipc.board import BoardRow

TICK_S = 0.02
AGAIN_S = 1.0
TAKE_BACK_S = 5.0
"""How often taking back a failed change is tried again while that fails, too, on a full disk for example."""


class RoleFollower:
    """Ends the children of the old role, has the steps of the change done, and makes the children of the new one. The
    process, its pid and the node's configuration stay."""

    def __init__(
        self,
        node: NodeResources,
        children: Children,
        row: BoardRow,
        log: Log,
        crash_log: str,
        *,
        reason: Callable[[], str],
        wait: Callable[[float], int | None],
        changing: Callable[[str], None],
    ) -> None:
        """`row`: the supervisor's own. `reason`: why a child ended; `changing`: says what goes on, for systemd."""
        self._node, self._children, self._row, self._log = node, children, row, log
        self._root, self._crash_log = node.settings.root, crash_log
        self._reason, self._wait, self._changing = reason, wait, changing
        self._failed = ""
        """Why a change has failed that is not taken back yet: it stands in the file as under way."""
        self._take_back_at = 0.0
        self._said = ""
        self._has_looked = False
        """Whether the file was read since this process has its pid file: before, a command does not tell of what it
        writes."""

    def begin(self) -> None:
        """Before anything is served: a change of role that was killed goes on."""
        given = self._node.settings.role
        if given is not None and given.change is not None:
            self._take(given)
        elif given is not None:
            role_change.tidy(self._node.settings, given)

    def is_due(self, now: float) -> bool:
        """Whether `look` is to be called without a signal."""
        return not self._has_looked or (bool(self._failed) and now >= self._take_back_at)

    def look(self) -> bool:
        """Follows the file. Returns whether the children of the role are new ones, which were not forked yet."""
        is_new, self._has_looked = False, True
        # While children are waited for, signals are taken, too: what was written meanwhile is looked at here.
        while not self._children.must_stop and self._look_once():
            is_new = True
        return is_new and not self._children.must_stop

    def _look_once(self) -> bool:
        """Returns whether the role has changed, and the children with it."""
        running = self._node.settings
        is_back = bool(self._failed) and self._take_back()
        try:
            given = after_deposing(read_role(self._root), self._node.board.deposed_term)
        except RoleDamaged as failure:
            self._log.line("ERROR", TAG, SUBTAG, f"The role stays what it is: {failure}")
            given = after_deposing(running.role, self._node.board.deposed_term)
        if not is_back:
            if given is None or given == running.role:
                return False
            if given.change is None and role_change.role_of(running.with_role(given)) == role_change.role_of(running):
                # A higher term of the same master's: net has told everybody who must know.
                self._node.settings = running.with_role(given)
                return False
        self._log.line("INFO", TAG, SUBTAG, f"The role changes: this node was {running.role_text}.")
        self._changing("changing its role")
        self._row.begin(os.getpid(), 1)
        doors.keep(served_by_children(running))
        self._children.end_role()
        try:
            sweep.empty_spool(self._root)
        except OSError as failure:
            text = f"What is left of the earlier role is not removed before the next start: {failure}"
            self._log.line("WARNING", TAG, SUBTAG, text)
        if not self._children.must_stop:
            self._take(given)
        return True

    def _take(self, begun: NodeRole | None) -> None:
        """Finishes what was begun, and makes children for the role that this node has then."""
        given = begun if begun is None or begun.change is None else self._finish(begun)
        running = self._node.settings
        settings = running.with_role(given)
        # Never fewer processes of the pool: each has a row on the board.
        self._node.least_pool = max(self._node.least_pool, pool_size(running, len(os.sched_getaffinity(0))))
        self._node.settings = settings
        while not self._is_renewed() and not self._children.must_stop:
            self._row.stamp()
            self._children.must_stop = self._wait(AGAIN_S) in STOP_SIGNALS
        self._log.line("INFO", TAG, SUBTAG, f"The role of this node is {settings.role_text}.")

    def _is_renewed(self) -> bool:
        """Without memory or descriptors for the next processes the node waits: nobody else would make them."""
        try:
            self._children.renew()
        except OSError as failure:
            text = f"The processes of the role cannot be made yet, it is tried again: {failure}"
            if text != self._said:
                self._said = text
                self._log.line("WARNING", TAG, SUBTAG, text)
            return False
        return True

    def _finish(self, given: NodeRole) -> NodeRole | None:
        """Runs the steps of a change in a process of their own, which may take long. Returns the role afterwards."""
        settings, reason = self._node.settings, reason_path(self._root)
        spec = ChildSpec("role", lambda: role_change.run(settings, given, self._log, reason))
        plan = BirthPlan(
            close_fds=self._children.descriptors("role"),
            crash_log=self._crash_log,
            on_crash=lambda stack: self._log.line("ERROR", TAG, SUBTAG, f"role met a bug:\n{stack}"),
            begin=lambda: None,
        )
        try:
            child = fork(spec, 1, time.monotonic(), plan)
        except OSError as failure:
            return self._not_changed(given, f"its process cannot be started: {failure.strerror}")
        while (status := child.collect()) is None:
            self._row.stamp()
            if self._wait(TICK_S) in STOP_SIGNALS:
                self._children.must_stop = True
                child.send(signal.SIGKILL)
        if self._children.must_stop:
            return None
        if status != 0:
            return self._not_changed(given, self._reason() or f"its process ended {how(status)}; see the log")
        return self._role_now(given)

    def _not_changed(self, given: NodeRole, why: str) -> NodeRole | None:
        """Takes it back. Returns the role afterwards."""
        self._log.line("ERROR", TAG, SUBTAG, f"The role was not changed: {why}")
        self._failed = why
        self._take_back()
        return self._role_now(given)

    def _role_now(self, given: NodeRole) -> NodeRole | None:
        try:
            return read_role(self._root)
        except RoleDamaged:
            return msgspec.structs.replace(given, change=None)

    def _take_back(self) -> bool:
        """The change that has failed. Returns whether that is done; if not, it is tried again."""
        self._take_back_at = time.monotonic() + TAKE_BACK_S
        try:
            role_change.give_up(self._node.settings, self._failed)
        except OSError as failure:
            text = f"The change of role that failed is not taken back yet, it is tried again: {failure}"
            if text != self._said:
                self._said = text
                self._log.line("WARNING", TAG, SUBTAG, text)
            return False
        except RoleDamaged:
            pass  # another program has, or it must be mended by hand
        self._failed = ""
        return True

"""Cutover and back: checks, announces and makes the changes, and with `now` swaps the running daemon."""

import contextlib
import errno
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.adoption import BIN
from clusterd.config.loading import load
from clusterd.exits import ExitCode
from clusterd.pidfile import OURS, STOCK, running_daemon
from hashing.atomic import FileOps
from tools import adopt_switch
from tools.adopt_checks import CONTROL, Check, checks
from tools.adopting import CannotAdopt, Change, carry_out, changes_to_adopt, changes_to_undo, clean, opened
from tools.outcome import Outcome

CHECKED = "configuration"


class Cutover:
    """One call of `clusterd adopt`. Keeps its findings, changes and notes for `facts`. `ops` and `check` are for
    tests."""

    def __init__(
        self,
        root: str,
        python: str,
        *,
        say: Callable[[str], None],
        dry_run: bool = False,
        ops: FileOps | None = None,
        check: Callable[[str, str], list[Check]] = checks,
    ) -> None:
        self._root = root
        self._python = python
        self._reader = say
        self._dry_run = dry_run
        self._ops = ops or FileOps()
        self._check = check
        self._checks: list[Check] = []
        self._changes: list[Change] = []
        self._notes: list[str] = []

    def facts(self) -> dict[str, Any]:
        """Returns, for programs: `checks`, `changes` (made, or planned with dry_run), `notes`."""
        return {
            "checks": [msgspec.structs.asdict(one) for one in self._checks],
            "changes": [msgspec.structs.asdict(one) for one in self._changes],
            "notes": self._notes,
        }

    def adopt(self, *, now: bool) -> Outcome:
        """Puts the launchers in place. If the outcome is not good, nothing was changed, or the text tells what was."""
        self._checks = self._check(self._root, self._python)
        for one in self._checks:
            self._say(f"{'ok ' if one.ok else 'NOT'}  {one.name}: {one.text}")
            for warning in one.warnings:
                self._say(f"     warning: {warning}")
        failed = [one for one in self._checks if not one.ok]
        if failed:
            code = ExitCode.BAD_CONFIGURATION if failed[0].name == CHECKED else ExitCode.FAILED
            names = ", ".join(one.name for one in failed)
            return Outcome(False, f"nothing was changed, because of: {names}", int(code))
        outcome = self._change(lambda: changes_to_adopt(self._root, self._python), "clusterd is in place already")
        if not outcome.ok or self._dry_run:
            return self._would_swap(OURS) if now and outcome.ok else outcome
        return self._swap_to_ours() if now else self._tell_what_runs(STOCK, "clusterd")

    def undo(self, *, now: bool) -> Outcome:
        """Puts the stock files back. Checks nothing, so that undo is always possible."""
        outcome = self._change(lambda: changes_to_undo(self._root), "the stock files are in place already")
        if not outcome.ok or self._dry_run:
            return self._would_swap(STOCK) if now and outcome.ok else outcome
        return self._swap(STOCK) if now else self._tell_what_runs(OURS, "the stock daemon")

    def _change(self, plan: Callable[[], list[Change]], nothing: str) -> Outcome:
        try:
            with opened(self._root) as bin_fd:
                changes = plan()
                self._changes += changes
                if self._dry_run:
                    for change in changes:
                        self._say(f"would change {self._root}/{change.text}")
                elif changes:
                    carry_out(
                        changes,
                        self._root,
                        self._python,
                        bin_fd,
                        ops=self._ops,
                        say=lambda text: self._say(f"{self._root}/{text}"),
                    )
                else:
                    clean(bin_fd, self._ops)
        except CannotAdopt as problem:
            return Outcome(False, str(problem), int(ExitCode.FAILED))
        except OSError as failure:
            cure = "What was done stays, and is whole: repeat the command, or use --undo"
            if failure.errno in (errno.EACCES, errno.EPERM):
                cure = "Run this as root"
            elif failure.errno == errno.EROFS:
                cure = "Make it writable, then repeat the command"
            return Outcome(False, f"{self._root}/{BIN}: {failure.strerror}. {cure}", int(ExitCode.FAILED))
        if not changes:
            self._note(nothing)
        return Outcome(True)

    def _say(self, text: str) -> None:
        """The reader of our output may have gone (`| head`): that must not end the call between the stop of one daemon
        and the start of the other."""
        with contextlib.suppress(OSError):
            self._reader(text)

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._say(text)

    # ---- the daemon that runs ----------------------------------------------------------------------------------------

    def _tell_what_runs(self, other: str, next_one: str) -> Outcome:
        """Notes which daemon runs, and how to get the other one. Does not touch the running daemon."""
        running = running_daemon(self._root)
        control = f"{self._root}/{BIN}/{CONTROL}"
        if running is not None and running[1] == other:
            self._note(
                f"{other} (pid {running[0]}) goes on until the manager is restarted ({control} restart); to swap the "
                "cluster daemon alone, repeat this with --now"
            )
        elif running is None:
            self._note(f"{next_one} starts with the manager ({control} start), or alone with --now")
        return Outcome(True)

    def _swap_to_ours(self) -> Outcome:
        before = running_daemon(self._root)
        started = self._swap(OURS)
        if started.ok or before is None:
            return started
        back = self.undo(now=True)
        end = (
            "the stock daemon is back in its place and runs"
            if back.ok
            else f"nor is the stock daemon back: {back.reason}"
        )
        return Outcome(False, f"clusterd did not start: {started.reason}. {end}", started.code)

    def _swap(self, wanted: str) -> Outcome:
        """Stops the other daemon and starts the `wanted` one (OURS, STOCK)."""
        running = running_daemon(self._root)
        if running is not None and running[1] == wanted:
            self._note(f"{wanted} runs (pid {running[0]})")
            return Outcome(True)
        if running is not None:
            self._note(f"stopping {running[1]} (pid {running[0]})")
            stopped = adopt_switch.stop_running(self._root)
            if running_daemon(self._root) is not None:
                return stopped
        settings = load(self._root).settings
        if settings is not None and settings.cluster.disabled:
            self._note("the cluster is disabled in etc/ossec.conf: there is nothing to start")
            return Outcome(True)
        self._note(f"starting {wanted}")
        started = adopt_switch.start(self._root, wanted)
        for line in started.lines:
            self._note(line)
        return started

    def _would_swap(self, wanted: str) -> Outcome:
        running = running_daemon(self._root)
        if running is None or running[1] != wanted:
            first = "" if running is None else f"stop {running[1]} (pid {running[0]}) and "
            self._note(f"would then {first}start {wanted}")
        return Outcome(True)

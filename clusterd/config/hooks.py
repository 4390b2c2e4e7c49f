"""`clusterd.hooks` of cluster.json: programs that run on events."""

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

from clusterd.config.json_section import ABSENT
from clusterd.messages.journal import KINDS, OUTCOMES
from clusterd.settings import HookSettings

KEY = "hooks"
MOST = 32
LONGEST_TIMEOUT_S = 3600.0
ALLOWED = 'a list of objects like {"on": ["worker:lost"], "run": ["/usr/local/bin/page"], "timeout": 30}'
Wrong = Callable[[str, str, object], None]
"""Takes a mistake: the key, what is allowed, what was found."""


def read_hooks(value: object, wrong: Wrong) -> tuple[HookSettings, ...]:
    """The hooks that the file names; mistakes go to `wrong`."""
    if value is ABSENT:
        return ()
    if not isinstance(value, list) or len(value) > MOST:
        wrong(KEY, f"{ALLOWED}, at most {MOST}", "(not shown)")
        return ()
    found = [_read_hook(f"{KEY}.{number}", one, wrong) for number, one in enumerate(value)]
    return tuple(hook for hook in found if hook is not None)


def _read_hook(key: str, value: object, wrong: Wrong) -> HookSettings | None:
    if not isinstance(value, dict) or not {"on", "run"} <= value.keys() <= {"on", "run", "timeout"}:
        wrong(key, "an object with on, run and perhaps timeout", "(not shown)")
        return None
    on, run, timeout = value["on"], value["run"], value.get("timeout", 30)
    is_good = True
    if not isinstance(on, list) or not on or not all(is_event(word) for word in on):
        wrong(f"{key}.on", f"a list of events: {', '.join(KINDS)}, or with an outcome like worker:lost", on)
        is_good = False
    if not isinstance(run, list) or not run or not all(isinstance(word, str) and "\0" not in word for word in run):
        wrong(f"{key}.run", "a list of a program's absolute path and its arguments", "(not shown)")
        is_good = False
    elif not run[0].startswith("/"):
        wrong(f"{key}.run", "an absolute path of a program", run[0])
        is_good = False
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool) and math.isfinite(timeout)
    if not is_number or not 0.1 <= timeout <= LONGEST_TIMEOUT_S:
        wrong(f"{key}.timeout", f"a number from 0.1 to {LONGEST_TIMEOUT_S:g}", timeout)
        is_good = False
    return HookSettings(tuple(on), tuple(run), float(timeout)) if is_good else None


def is_event(word: object) -> bool:
    """Whether this names events: a kind, or a kind and an outcome."""
    if not isinstance(word, str):
        return False
    kind, colon, outcome = word.partition(":")
    return kind in KINDS and (not colon or outcome in OUTCOMES[kind])


def program_problem(path: str, user: int) -> str:
    """Why the daemon, whose user this is, must not or cannot run this program; empty if it can."""
    try:
        found = os.stat(path)
        real = os.path.realpath(path)  # a link leads through other directories
        parents = [(str(one), os.stat(one)) for one in dict.fromkeys((*Path(path).parents, *Path(real).parents))]
    except OSError as failure:
        return f"{path} cannot be run: {failure.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is no file"
    if not found.st_mode & 0o111:
        return f"{path} may not be executed: chmod +x {path}"
    return unsafe_program(path, found, parents, user)


def unsafe_program(path: str, found: os.stat_result, parents: list[tuple[str, os.stat_result]], user: int) -> str:
    """Who else could put another program there; empty if nobody can."""
    if found.st_uid not in (0, user) or found.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        return f"others than root and the daemon's user may write {path}: chown root {path}; chmod go-w {path}"
    for parent, status in parents:
        if status.st_uid not in (0, user):
            return f"the owner of {parent} may replace {path}: chown root {parent}"
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            return f"every user of this machine may replace {path}: chmod o-w {parent}"
    return ""

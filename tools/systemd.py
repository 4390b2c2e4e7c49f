"""The systemd unit that runs a node. A node that is started again outside of its unit has no sandbox and no watchdog,
does not come back after a crash, and `systemctl` takes it for dead: `start` and `restart` ask systemd instead."""

import os
import shlex
import subprocess
import sys

UNIT = "clusterd.service"
BOOTED = "/run/systemd/system"
"""Is there where systemd runs the machine: sd_booted(3)."""
SHOW_S = 10.0


def unit_of(pid: int, proc: str = "/proc") -> str | None:
    """Returns the unit whose main process this is, None where there is none. A manager's unit is none: its launchers
    put many daemons into the background (`forking`), and of those this node alone is started again."""
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            rows = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    # Of version 2 (number 0), or systemd's own of version 1.
    paths = [row[2] for row in rows if len(row) == 3 and (row[0] == "0" or row[1] == "name=systemd")]
    units = [part for path in paths for part in path.split("/") if part.endswith(".service")]
    for unit in reversed(units):
        shown = _shown(unit)
        if shown.get("MainPID") == str(pid) and shown.get("Type") != "forking":
            return unit
    return None


def enabled_unit(root: str, default_root: str) -> str | None:
    """Returns the unit that would start the node of this root with the machine, None where there is none."""
    if os.geteuid() != 0 or not os.path.isdir(BOOTED):
        return None
    shown = _shown(UNIT)
    if shown.get("UnitFileState") != "enabled" or shown.get("Type") != "notify":
        return None
    return UNIT if os.path.realpath(_root_of(shown, default_root)) == os.path.realpath(root) else None


def _root_of(shown: dict[str, str], default_root: str) -> str:
    """`--root` of the command, then CLUSTERD_ROOT of the environment, as clusterd itself finds it."""
    words = iter(shown.get("ExecStart", "").split())
    for word in words:
        if word.startswith("--root"):
            return word.partition("=")[2] or next(words, default_root)
    try:
        named = dict(word.partition("=")[::2] for word in shlex.split(shown.get("Environment", "")))
    except ValueError:  # an apostrophe in something else
        return default_root
    return named.get("CLUSTERD_ROOT", default_root)


def other_program(unit: str) -> str | None:
    """Returns the program that the unit would start if it is another clusterd than this one (after an upgrade)."""
    program = next((word[5:] for word in _shown(unit).get("ExecStart", "").split() if word.startswith("path=")), "")
    if os.path.basename(program) != "clusterd":  # a wrapper
        return None
    its = os.path.realpath(program)
    if its == os.path.realpath(sys.argv[0]):  # without an environment of its own Python is somewhere else
        return None
    return None if os.path.realpath(os.path.dirname(sys.executable)) == os.path.dirname(its) else program


def tell(order: str, unit: str) -> bool:
    """Gives systemd an order, `start` or `restart`, and waits until it is carried out. Returns whether it was."""
    return subprocess.run(["systemctl", "--quiet", order, unit], stdin=subprocess.DEVNULL, check=False).returncode == 0


def _shown(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", "--property=MainPID,UnitFileState,Type,Environment,ExecStart", unit]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SHOW_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())

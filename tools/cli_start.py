"""`clusterd start` and `clusterd restart`: the commands that load the whole daemon, because they become it."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Literal

import click
from click.core import ParameterSource

from clusterd.config.loading import load
from clusterd.exits import START_TIMEOUT_S, ExitCode
from clusterd.gate import has_node, no_node
from clusterd.pidfile import running_pid
from clusterd.rundir import DEFAULT_ROOT, root_problem
from clusterd.status.status import StatusReader
from tools import stopping
from tools.check import check
from tools.seconds import Seconds
from tools.show import echo, fail, goes_on, outlives_terminal, show_lines, try_to_say, try_to_warn, warn
from tools.systemd import enabled_unit, other_program, tell, unit_of

LogFormat = Literal["text", "json"]
WAIT_MASTER_S = 3.0
POLL_S = 0.1
STARTS = "a start that has begun goes on: clusterd status"


@click.command()
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground, log to stderr too.")
@click.option("-d", "debug", count=True, help="More log: once DEBUG, twice DEBUG2.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--timeout", "timeout_s", type=Seconds(1), default=START_TIMEOUT_S, show_default=True, help="Seconds.")
@click.option(
    "--wait-master",
    "wait_s",
    type=Seconds(0),
    default=WAIT_MASTER_S,
    show_default=True,
    help="On a worker: seconds for the master to answer.",
)
@click.pass_obj
def start(root: str, foreground: bool, debug: int, log_format: LogFormat, timeout_s: float, wait_s: float) -> None:
    """Start the node; returns when it serves."""
    _need_short(root)
    if not foreground and running_pid(root) is None and (unit := enabled_unit(root, DEFAULT_ROOT)) is not None:
        if debug or log_format != "text":
            warn(f"with these options the node is started outside of {unit}, which is enabled")
        elif load(root).settings is not None:  # mistakes are told below: systemd would only say where to look for them
            _say_limit(unit, "TimeoutStartSec=")
            _start_unit(root, unit, "start", wait_s)
            return
    from tools import starting  # the whole daemon: not for --help, nor before the configuration is known to be good

    with contextlib.nullcontext() if foreground else goes_on(STARTS):
        started = starting.start(
            root, foreground=foreground, debug=debug, log_format=log_format, timeout_s=timeout_s, say=warn
        )
    if not started.ok:
        fail(started.reason, started.code)
    if not foreground:
        echo(f"clusterd runs (pid {started.pid}).")
        _say_master(root, wait_s)


def _say_limit(unit: str, name: str) -> None:
    if click.get_current_context().get_parameter_source("timeout_s") is ParameterSource.COMMANDLINE:
        warn(f"--timeout has no effect on {unit}: its limit is {name}")


def _start_unit(root: str, unit: str, order: str, wait_s: float) -> None:
    """Lets systemd start the node, or start it again."""
    if (other := other_program(unit)) is not None:
        fail(
            f"{unit} would start {other}, which is not this clusterd: change its ExecStart= and ExecReload= "
            f"(systemctl edit --full {unit}), or call that one. Nothing was done"
        )
    with goes_on(f"systemd goes on: systemctl status {unit}"):
        is_done = tell(order, unit)
    if not is_done:
        fail(f"{unit} did not start: journalctl -n 20 -u {unit}", ExitCode.COULD_NOT_START)
    pid = running_pid(root)  # a unit of another type than `notify` does not wait for it
    echo(f"clusterd runs (pid {pid}), as {unit}." if pid is not None else f"{unit} starts: clusterd status")
    _say_master(root, wait_s)


def _say_master(root: str, wait_s: float) -> None:
    """Shows the state of a worker's link to its master, after at most `wait_s`. A worker without a link runs on and
    dials again."""
    reader, deadline = StatusReader(root), time.monotonic() + wait_s
    while wait_s:
        found = reader.read_sync()
        if found["node"] is not None and found["node"]["type"] == "master":
            return
        master = next((peer for peer in found["peers"] or [] if peer["kind"] == "master"), None)
        if master is not None:
            echo(f"Connected to the master at {master['name']}.")
            return
        if time.monotonic() >= deadline:
            warn(found["problem"] or "the master has not answered yet; see clusterd status")
            return
        time.sleep(POLL_S)


@click.command()
@click.option("--timeout", "timeout_s", type=Seconds(0.1), default=30.0, show_default=True, help="Seconds.")
@click.option("-d", "debug", count=True, help="More log: once DEBUG, twice DEBUG2.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def restart(root: str, timeout_s: float, debug: int, log_format: LogFormat) -> None:
    """Stop the node if it runs, then start it. A configuration with mistakes, or a disk without room for a start, stops
    nothing. Goes on when its terminal is closed."""
    _need_short(root)
    checked = check(root)
    if not checked.ok:
        show_lines(checked.lines)
        fail("the configuration has mistakes; the node was left as it is", ExitCode.BAD_CONFIGURATION)
    pid = running_pid(root)
    unit = unit_of(pid) if pid is not None else enabled_unit(root, DEFAULT_ROOT)
    if unit is not None:
        if os.geteuid() != 0:
            fail(f"{unit} runs this node: systemctl restart {unit}, as root")
        if debug or log_format != "text":
            fail(f"{unit} runs this node: these options belong to its ExecStart=, or: clusterd log-level")
        with _can_start_again(root):
            _say_limit(unit, "TimeoutStopSec=")
            _start_unit(root, unit, "restart", WAIT_MASTER_S)
        return
    with outlives_terminal():
        with _can_start_again(root):
            with goes_on("the node goes on stopping, and is not started again: clusterd start"):
                stopped = stopping.stop(root, timeout_s=timeout_s)
        if not stopped.ok:
            if running_pid(root) is not None:
                fail(stopped.reason, stopped.code)
            try_to_warn(stopped.reason)  # it was killed: the more it has to be started again
        for line in stopped.lines:
            try_to_say(line)
        from tools import starting  # the whole daemon: not for --help, nor before the configuration is known to be good

        with goes_on(STARTS):
            started = starting.start(
                root, foreground=False, debug=debug, log_format=log_format, timeout_s=START_TIMEOUT_S, say=try_to_warn
            )
    if not started.ok:
        fail(started.reason, started.code)
    echo(f"clusterd runs (pid {started.pid}).")
    _say_master(root, WAIT_MASTER_S)


@contextlib.contextmanager
def _can_start_again(root: str) -> Iterator[None]:
    """Ends the command if what a start needs is missing: a node that runs, whatever fails in it, is more than none."""
    settings, pid = load(root).settings, running_pid(root)
    if settings is None or pid is None or not _may_signal(pid):  # the stop says so
        yield
        return
    from tools.restarting import room_to_start

    with room_to_start(settings) as problem:
        if problem:
            fail(f"{problem}. The node was left as it is", ExitCode.COULD_NOT_START)
        yield


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _need_short(root: str) -> None:
    problem = root_problem(root)
    if problem is not None:
        fail(problem, ExitCode.BAD_CONFIGURATION)
    if not has_node(root):
        fail(no_node(root), ExitCode.NOT_RUNNING)

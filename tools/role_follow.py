"""What `clusterd promote` and `clusterd demote` share: their result, and watching the node change its role."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from clusterd.exits import ExitCode
from clusterd.listening.addresses import look_up
from clusterd.net.dial import Address
from clusterd.pidfile import running_pid
from clusterd.role import NodeRole, RoleDamaged, read_role
from clusterd.rundir import run_dir
from clusterd.settings import Settings
from clusterd.supervisor.role_change import FAILED
from clusterd.wire.terms import TermNote

POLL_S = 0.1
Say = Callable[[str], None]


class RoleOutcome(msgspec.Struct, frozen=True):
    """The result, also for programs. `reasons`: why nothing was done, each with what to do; `steps`: what was done;
    `then`: what is left to the operator."""

    ok: bool
    term: int = 0
    reasons: list[str] = []
    steps: list[str] = []
    then: list[str] = []
    code: int = int(ExitCode.OK)


def refused(*reasons: str, code: int = ExitCode.FAILED) -> RoleOutcome:
    return RoleOutcome(False, reasons=list(reasons), code=int(code))


def own_note(settings: Settings, given: NodeRole | None) -> TermNote:
    """What this node knows, for questions to others; it never claims to lead."""
    name, cluster = settings.cluster.node_name, settings.cluster.name
    if given is None:
        return TermNote(0, False, name, cluster=cluster)
    return TermNote(given.term, False, name, given.master, given.master_name, cluster)


def tell_supervisor(root: str) -> str:
    """Makes the running node read its role again. Returns why it cannot; empty if it was told."""
    pid = running_pid(root)
    if pid is None:
        return "clusterd is not running"
    Path(run_dir(root), FAILED).unlink(missing_ok=True)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as failure:
        return f"no permission to signal pid {pid} ({failure.strerror}): run this as root or as the node's owner"
    return ""


def follow(root: str, say: Say, timeout_s: float) -> tuple[NodeRole | None, list[str], str]:
    """Shows the steps of the change under way until it has ended. Returns the new role (None: the change failed), the
    steps, and the reason."""
    deadline, steps = time.monotonic() + timeout_s, list[str]()
    while time.monotonic() < deadline:
        failed = Path(run_dir(root), FAILED)
        given: NodeRole | None = None
        try:
            given = read_role(root)
            if failed.exists():
                return None, steps, f"{failed.read_text(errors='replace').strip()}. Nothing has changed"
        except (RoleDamaged, OSError) as failure:
            return None, steps, str(failure)
        done = () if given is None else given.steps if given.change is None else given.change.done
        for line in done[len(steps) :]:
            steps.append(line)
            say(line)
        if given is not None and given.change is None:
            return given, steps, ""
        if running_pid(root) is None:
            return None, steps, f"the node has ended; clusterd --root {root} start finishes the change"
        time.sleep(POLL_S)
    return None, steps, f"not done within {timeout_s:g} s; see logs/cluster.log, or run this command again"


def own_address(settings: Settings, towards: list[Address]) -> str:
    """Returns the address at which peers most likely reach this node: the one that the system would use towards
    them."""
    for address in towards:
        try:
            found = look_up(address.host, address.port, kind=socket.SOCK_DGRAM)
            family, kind, protocol, _, where = found[0]
            with socket.socket(family, kind, protocol) as sock:
                sock.connect(where)  # sends nothing
                host = sock.getsockname()[0]
        except OSError:
            continue
        return str(Address(host, settings.cluster.port))
    return str(Address(socket.getfqdn(), settings.cluster.port))

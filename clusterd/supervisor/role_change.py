"""The steps of a change of role, run in a process of their own while none of the node's children lives.

Each step may be run again: a change that was killed goes on at the next start. A step that is done is in `role.json`,
with a sentence for the operator who waits.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from clusterd import left_behind
from clusterd.errors import StartFailure
from clusterd.exits import ExitCode
from clusterd.logs import Log
from clusterd.net.dial import parse_address
from clusterd.net.term_question import ask_term
from clusterd.role import NodeRole, Role, RoleChange, RoleDamaged, forget_role, read_role, update_role
from clusterd.rundir import REPLICA_FILE, run_dir
from clusterd.settings import Settings
from clusterd.store.replica_db import own_as_replica, remove_file
from clusterd.supervisor import promotion
from clusterd.wire.terms import TermNote

SUBTAG = "Role"
FAILED = "role.failed"
"""In the run directory: why the last change was given up, for the command that asked for it."""


RECENT_S = 60.0
"""A promotion that was begun longer ago is not what its operator has looked at: the others are asked again."""
ASK_S = 5.0


class NotChanged(Exception):
    """The role cannot be changed. The text says why; the node goes on as it was."""


Step = tuple[str, Callable[[], str]]


def run(settings: Settings, given: NodeRole, log: Log, reason: str) -> int:
    """The main function of that process. Returns its exit code; `reason`: the file that takes the cause of a
    failure."""
    change = given.change
    assert change is not None
    tag = "Cluster"
    try:
        if change.kind == "promote" and abs(time.time() - given.since) > RECENT_S:
            _ask_others(settings, given)
        done = change.done
        if done and change.kind == "promote" and not change.without_agents and not promotion.is_kept(settings):
            done = ()  # it was begun and put back: all of it is done anew
            _note(settings.root, None)
        if not done:
            # What an earlier change has left beside the files belongs to the role of then.
            tidy(settings, None if change.before is None else msgspec.convert(change.before, NodeRole))
        for name, work in steps(settings, given, change):
            if any(line.startswith(f"{name}: ") for line in done):
                continue
            line = f"{name}: {work()}"
            log.line("INFO", tag, SUBTAG, f"{line}.")
            _note(settings.root, line)
        update_role(settings.root, lambda before: _ended(settings, before))
        with contextlib.suppress(OSError):  # the next start tries again
            promotion.forget_before(settings)
    except (OSError, sqlite3.Error, ValueError, StartFailure, NotChanged, promotion.NotPromoted) as failure:
        Path(reason).write_text(f"{failure}\n", encoding="utf-8")
        return int(ExitCode.FAILED)
    return int(ExitCode.OK)


def steps(settings: Settings, given: NodeRole, change: RoleChange) -> list[Step]:
    """Name and work of each step; the work returns what it has done."""
    if change.keeps_agents:
        return [("agents", lambda: "this node's own: it was the master before")]
    if change.kind == "promote":
        return promotion.steps(settings, given.term, without_agents=change.without_agents)
    was_worker = (change.before or {}).get("role") == "worker"
    kept = ("kept", lambda: left_behind.keep(settings.root, settings.rules, given.term, was_worker=was_worker))
    if was_worker or not settings.has_replica:
        return [kept]
    return [kept, ("replica", lambda: _keep_replica(settings.root))]


def _keep_replica(root: str) -> str:
    """It saves a full copy, and no more than that."""
    try:
        return own_as_replica(root)
    except (OSError, sqlite3.Error) as failure:
        with contextlib.suppress(OSError):
            remove_file(Path(root) / f"{REPLICA_FILE}.own")
        return f"all agents are copied: {failure}"


def _ask_others(settings: Settings, given: NodeRole) -> None:
    """A promotion that was killed goes on at the next start, whenever that is. Another node may lead by then, in this
    same term even. Raises NotChanged."""
    own = settings.cluster.node_name
    note = TermNote(given.term - 1, False, own, cluster=settings.cluster.name)  # nobody is told of this term yet
    for node in dict.fromkeys((*settings.configured.nodes, *given.former)):
        answer = ask_term(settings, parse_address(node, settings.cluster.port), note, ASK_S)
        other = answer.note
        if other is not None and other.node != own and (other.leads or other.term >= given.term):
            raise NotChanged(
                f"the promotion was begun long ago, and {other.node} at {node} "
                f"{'leads' if other.leads else 'knows of a master'} in term {other.term} now"
            )
        if answer.kind == "unknown":
            raise NotChanged(f"the promotion was begun long ago, and now {answer.text}")


def _note(root: str, line: str | None) -> None:
    """One step more is done; None: no step is."""

    def add(before: NodeRole | None) -> NodeRole:
        if before is None or before.change is None:
            raise NotChanged("another program has taken the change of role back")
        change = msgspec.structs.replace(before.change, done=() if line is None else (*before.change.done, line))
        return msgspec.structs.replace(before, change=change)

    update_role(root, add)


def _ended(settings: Settings, before: NodeRole | None) -> NodeRole:
    if before is None or before.change is None:
        raise NotChanged("another program has taken the change of role back")
    kind, steps = before.change.kind, before.change.done
    given: Role = "master" if kind == "promote" else "worker"
    role = msgspec.structs.replace(before, role=given, since=time.time(), by=before.by, change=None, steps=steps)
    return msgspec.structs.replace(role, led=role.term) if kind == "promote" else role


def give_up(settings: Settings, why: str) -> None:
    """Takes back a change that failed: files and role are what they were before, but a node that was to be demoted
    still knows that another one leads. One that was done when its process ended stays. Raises OSError, RoleDamaged."""
    root = settings.root
    with contextlib.suppress(RoleDamaged):
        found = read_role(root)
        if found is not None and found.change is None and found.role == "master":
            tidy(settings, found)
            return
    with contextlib.suppress(OSError):  # a full disk must not keep the term
        Path(run_dir(root), FAILED).write_text(f"{why}\n", encoding="utf-8")
    # First: where the disk is full, this makes room. Killed behind it, the change is done anew from its first step.
    promotion.put_back(settings)
    before: NodeRole | None = None

    def back(now: NodeRole | None) -> NodeRole:
        nonlocal before
        if now is None or now.change is None:
            raise RoleDamaged("nothing is under way")
        before = None if now.change.before is None else msgspec.convert(now.change.before, NodeRole)
        if now.change.kind == "demote":
            known = before or NodeRole(now.term)
            before = msgspec.structs.replace(
                known,
                term=now.term,
                led=0 if known.led == now.term else known.led,
                master=now.master,
                master_name=now.master_name,
            )
        return before or now

    update_role(root, back)
    if before is None:
        forget_role(root)


def tidy(settings: Settings, given: NodeRole | None) -> None:
    """With no change under way, and before one: what a kill behind the end of one, with this role, has left. What a
    node has since it was promoted is its own, also when another one leads now. Raises OSError."""
    is_promoted = given is not None and given.role == "master"
    (promotion.forget_before if is_promoted else promotion.put_back)(settings)


def role_of(settings: Settings) -> tuple[object, ...]:
    """What a node's processes depend on: another one needs other processes."""
    given = settings.role
    return settings.is_master, settings.is_deposed, ("", 0) if given is None else (given.role, given.led)

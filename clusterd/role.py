"""The role that a node was given beside its configuration, and the highest term it has seen (docs/ha.md):
`queue/cluster/.clusterd/role.json`.

Without the file the configured role counts. Everything that writes it takes the lock of its directory, and no write
makes the term smaller.
"""

import os
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import msgspec

from hashing.atomic import FileOps
from hashing.locks import locked_directory
from hashing.write import write_atomic

Role = Literal["master", "worker"]
OWN_DIR = "queue/cluster/.clusterd"
ROLE_FILE = f"{OWN_DIR}/role.json"
LEFT_BEHIND = f"{OWN_DIR}/left-behind"
"""What a former master had and the new one has not: a directory for each term."""
MODE = 0o600
MOST_BYTES = 65536
MOST_TERM = (1 << 53) - 1
"""Larger numbers are not the same in every reader of JSON."""


class RoleDamaged(ValueError):
    """The file is there and cannot be understood. The text says what to do."""


class RoleChange(msgspec.Struct, frozen=True):
    """A change of role that was begun. `done`: its steps so far, with what they did. `before`: the file before it
    (None: there was none), which comes back if the change fails: nobody has been told of the term by then.
    `keeps_agents`: a master that leads again keeps its own agent database; `without_agents`: a worker keeps it for want
    of a replica."""

    kind: Literal["promote", "demote"]
    before: dict[str, Any] | None = None
    done: tuple[str, ...] = ()
    without_agents: bool = False
    keeps_agents: bool = False


class NodeRole(msgspec.Struct, frozen=True):
    """The file. `term`: the highest one that this node has seen. `role`: the one it was given; empty: it has only heard
    of a term, the configured one counts. `led`: the term in which it leads, or led. `master`: HOST:PORT of the master
    of `term`, `master_name` its node name; on the master its own. `former`: addresses of masters of earlier terms,
    which are told. `since`: wall-clock seconds; `by`: what wrote it. `change`: what is under way;
    `steps`: what the last one did. `withheld`: of a master that waits for a decision, the candidate that has what it
    lacks, and how many units; empty otherwise."""

    term: int
    role: Literal["", "master", "worker"] = ""
    led: int = 0
    master: str = ""
    master_name: str = ""
    former: tuple[str, ...] = ()
    since: float = 0.0
    by: str = ""
    change: RoleChange | None = None
    steps: tuple[str, ...] = ()
    withheld: str = ""


class RoleNow(msgspec.Struct, frozen=True):
    """What a node is. `is_deposed`: it led, and a higher term exists: it serves nobody until it is demoted."""

    role: Role
    is_deposed: bool = False


def standing(given: NodeRole | None, configured: Role) -> RoleNow:
    """The effective role. Whoever may lead does so only in the highest term it has seen."""
    if given is None:
        return RoleNow(configured)
    if (given.role or configured) == "worker":
        return RoleNow("worker")
    return RoleNow("master") if given.led == given.term else RoleNow("worker", is_deposed=True)


def role_text(given: NodeRole | None, configured: Role) -> str:
    """For people: `master`; `master (promoted, term 3; etc/ossec.conf says worker)`."""
    found = standing(given, configured)
    if given is None:
        return found.role
    if found.is_deposed and given.withheld:
        return f"master whose disk was set back (leads no more, term {given.term})"
    if found.is_deposed:
        return f"former master (leads no more, term {given.term} exists; etc/ossec.conf says {configured})"
    if not given.role:
        return f"{found.role} (term {given.term})"
    word = "promoted" if found.role == "master" else "demoted"
    if found.role == configured:
        return f"{found.role} (term {given.term})"
    return f"{found.role} ({word}, term {given.term}; etc/ossec.conf says {configured})"


def deposed_text(given: NodeRole, *, is_elected: bool = False) -> str:
    """What the operator of a former master must know. `is_elected`: an election makes a worker of it."""
    if given.withheld:
        promote = "clusterd promote --old-master-is-down"
        return (
            f"This master's disk was set back, so it leads no more: {given.withheld}. To go on with what that node "
            f"has: {promote} there, then clusterd demote --master HOST here. To go on with what this node has: "
            f"{promote} --without-agents --unchecked-files here"
        )
    who = given.master or "another node"
    name = f" ({given.master_name})" if given.master_name else ""
    text = f"This node leads no more: term {given.term} exists, its master is {who}{name}"
    if is_elected:
        return f"{text}. It becomes a worker by itself"
    return f"{text}. Run: clusterd demote --master {given.master or 'HOST'}"


# ---- the file --------------------------------------------------------------------------------------------------------


def read_role(root: str) -> NodeRole | None:
    """None where no term was ever seen. Raises RoleDamaged, also for what cannot be read: whoever does not know its
    term must not lead."""
    path = Path(root) / ROLE_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except PermissionError:
        user = "run this as root or as the node's user, or give the file to that user"
        raise RoleDamaged(f"the role of this node is not known, {path} may not be read by this user: {user}") from None
    except OSError as failure:
        raise RoleDamaged(_damaged(path, failure.strerror or str(failure))) from None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RoleDamaged(_damaged(path, "it is no file"))
        try:
            found = msgspec.json.decode(file.read(MOST_BYTES), type=NodeRole)
        except (OSError, msgspec.MsgspecError, RecursionError) as failure:
            raise RoleDamaged(_damaged(path, str(failure))) from None
    if not 1 <= found.term <= MOST_TERM or not 0 <= found.led <= found.term:
        raise RoleDamaged(_damaged(path, f"there is no term {found.term} that was led as {found.led}"))
    return found


def has_term(root: str) -> bool:
    """Whether a term was ever seen: the lead may change hands. Costs one look at a directory."""
    return os.path.lexists(os.path.join(root, ROLE_FILE))


def _damaged(path: Path, why: str) -> str:
    return (
        f"the role of this node is not known, {path} cannot be understood: {why}. If another node leads: clusterd "
        "demote --master HOST. If none does, and this one is to: remove the file, start the node, and see docs/ha.md"
    )


def update_role(root: str, change: Callable[[NodeRole | None], NodeRole], *, mend: bool = False) -> NodeRole:
    """Writes what `change` makes of the file, durably; returns it. With `mend` a damaged file counts as none. Raises
    RoleDamaged, OSError: nothing is changed."""
    with _locked(root):
        try:
            before = read_role(root)
        except RoleDamaged:
            if not mend:
                raise
            before = None
        after = change(before)
        if after.term > MOST_TERM:
            # It would be a damaged file for whoever reads it.
            raise RoleDamaged(f"there is no term after {MOST_TERM}, see docs/ha.md")
        if after != before:
            _write(root, after)
    return after


def forget_role(root: str) -> None:
    """Removes the file: no term was ever seen. For a change that failed where none had been before."""
    with _locked(root):
        (Path(root) / ROLE_FILE).unlink(missing_ok=True)


def refuse_two(before: NodeRole | None) -> None:
    """Raises RoleDamaged while a change is under way."""
    if before is not None and before.change is not None:
        raise RoleDamaged("a change of role is under way")


def with_change(
    before: NodeRole | None,
    change: RoleChange,
    term: int,
    master: str,
    name: str,
    by: str,
    former: tuple[str, ...] = (),
) -> NodeRole:
    """Returns the role with this change, which begins now; `name`: of the master of `term`. Raises RoleDamaged."""
    refuse_two(before)
    saved = None if before is None else msgspec.to_builtins(before)
    return msgspec.structs.replace(
        before or NodeRole(term),
        steps=(),
        term=term,
        master=master,
        master_name=name,
        former=former,
        since=time.time(),
        by=by,
        change=msgspec.structs.replace(change, before=saved),
        withheld="",
    )


def withheld(before: NodeRole | None, node: str, lost: int) -> NodeRole:
    """The file of a master that leads no more, because candidate `node` has so many units of its own time as master
    that it lacks. Another term has to begin, here or there. Raises RoleDamaged."""
    refuse_two(before)
    what = f"{lost} agents and groups that {node} has of this term are not here, or not as they were"
    given = before or NodeRole(1)
    return msgspec.structs.replace(given, led=0, master="", master_name="", since=time.time(), withheld=what)


def heard(before: NodeRole | None, term: int, master: str, name: str, now: float) -> NodeRole:
    """The file after this node has heard of a master of `term` at `master`.

    Promotions by hand, without contact, can give one term to two nodes. Of these the one whose `name` is the greater
    text counts, on every node alike: the other one has not led in this term (`led` 0)."""
    if before is None:
        return NodeRole(term, master=master, master_name=name, since=now, by="heard of it")
    if term < before.term or (term == before.term and not master):
        return before
    led = before.led
    if term == before.term:
        if before.master_name and name < before.master_name:
            return before
        if name == before.master_name and (led == term or master == before.master):
            return before
        led = 0 if led == term else led
    return msgspec.structs.replace(
        before,
        term=term,
        led=led,
        master=master,
        master_name=name,
        since=now,
        by="heard of it",
        change=None,
        withheld="",
    )


def after_deposing(given: NodeRole | None, term: int) -> NodeRole | None:
    """What the file would say if net could have written that another node leads in `term` (ipc/board.py): a full disk
    keeps no master. 0: nobody deposed this node."""
    if term == 0 or (given is not None and given.led > term):
        return given
    if given is None or given.term < term:
        given = msgspec.structs.replace(given or NodeRole(term), term=term, master="", master_name="")
    return msgspec.structs.replace(given, led=0) if given.led == given.term else given


def _locked(root: str) -> AbstractContextManager[None]:
    directory = Path(root) / OWN_DIR
    directory.mkdir(mode=0o770, parents=True, exist_ok=True)
    return locked_directory(directory)


def _write(root: str, role: NodeRole) -> None:
    path = Path(root) / ROLE_FILE
    write_atomic(_OwnedBy(path.parent), str(path), msgspec.json.format(msgspec.json.encode(role)) + b"\n", MODE)


class _OwnedBy(FileOps):
    """Files belong to whom their directory belongs to: a command run by root writes for the daemon's user."""

    def __init__(self, directory: Path) -> None:
        found = directory.stat()
        self._owner = found.st_uid, found.st_gid

    def create(self, name: str, mode: int, *, dir_fd: int | None = None) -> int:
        fd = super().create(name, mode, dir_fd=dir_fd)
        if os.geteuid() == 0:
            os.fchown(fd, *self._owner)
        return fd

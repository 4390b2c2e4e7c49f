"""Puts our launchers into a manager's `bin`, and removes them again.

Each change is one rename, link or unlink within that directory. After each of them the directory is in a state that
`clusterd/adoption.py` knows: the stock file or our launcher exists at every moment, and the stock file never loses its
last name. So if a call is killed, the next call finishes it or undoes it.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from clusterd.adoption import BIN, MODULES, STOCK, FoundProgram, State, launcher_text, look, look_at_all
from hashing.atomic import OPEN_DIRECTORY, FileOps, create_temporary, temporary_name
from hashing.locks import lock

Does = Literal["keep", "keep again", "launch", "restore", "forget"]
_GOOD_FOR: dict[Does, frozenset[State]] = {
    "launch": frozenset({State.HALF, State.ADOPTED, State.KEPT}),
    "restore": frozenset({State.ADOPTED, State.KEPT}),
}
"""Changes that write over `bin/NAME`: in which states no file of a package is lost by that."""
_OWNER = "adopt"
_AGAIN = "adopt-again"
TEXTS: dict[Does, str] = {
    "keep": "bin/{0}.stock: a second name for the stock file, which stays as it is",
    "keep again": "bin/{0}.stock: becomes the stock file that the package has put there; the older one goes",
    "launch": "bin/{0}: becomes a launcher of {1}",
    "restore": "bin/{0}: becomes the stock file again, which was bin/{0}.stock",
    "forget": "bin/{0}.stock: is removed; bin/{0} is the stock file",
}


class Change(msgspec.Struct, frozen=True):
    """One change to a file in `bin`. `text`: a description, for people."""

    name: str
    does: Does
    text: str


class CannotAdopt(Exception):
    """The text names the obstacle and what to do."""


def changes_to_adopt(root: str, python: str) -> list[Change]:
    """Returns the changes in their order; none if everything is adopted. Raises CannotAdopt, OSError."""
    changes = []
    for found in look_at_all(root):
        _need_known(root, found)
        steps: tuple[Does, ...] = ("launch",)  # of HALF, KEPT, and of a launcher that is not as it should be
        if found.state is State.STOCK:
            steps = ("keep", "launch")
        elif found.state is State.UPGRADED:
            steps = ("keep again", "launch")
        elif found.state is State.ADOPTED and found.text == launcher_text(root, found.name, python):
            steps = ()
        changes += [_change(found.name, does, python) for does in steps]
    return changes


def changes_to_undo(root: str) -> list[Change]:
    """Returns the changes that undo an adopt. Files that were never adopted are left alone."""
    changes = []
    for found in reversed(look_at_all(root)):
        if found.state is State.MISSING and not os.path.lexists(f"{root}/{BIN}/{found.name}{STOCK}"):
            continue
        _need_known(root, found)
        if found.state in (State.ADOPTED, State.KEPT):
            changes.append(_change(found.name, "restore"))
        elif found.state in (State.HALF, State.UPGRADED):
            changes.append(_change(found.name, "forget"))
    return changes


def _change(name: str, does: Does, python: str = "") -> Change:
    return Change(name, does, TEXTS[does].format(name, python))


def _need_known(root: str, found: FoundProgram) -> None:
    path = f"{root}/{BIN}/{found.name}"
    if found.state is State.MISSING:
        raise CannotAdopt(f"{path} is missing: install the manager's package again")
    if found.state is State.ODD:
        raise CannotAdopt(f"{path} or {path}{STOCK} is no plain file: nothing was changed; look at it")
    if found.state is State.ALONE:
        raise CannotAdopt(
            f"{path} is a launcher of clusterd, and the stock file beside it is gone: install the manager's package of "
            "this version again, then repeat this"
        )


@contextlib.contextmanager
def opened(root: str) -> Iterator[int]:
    """Opens `bin` as a descriptor, locked against a second adopt. Raises CannotAdopt, OSError."""
    try:
        fd = os.open(f"{root}/{BIN}", OPEN_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise CannotAdopt(f"there is no manager at {root}: it has no directory {BIN}") from None
    try:
        try:
            lock(fd, 0)
        except TimeoutError:
            raise CannotAdopt(f"another adopt works in {root}/{BIN}: wait for its end") from None
        yield fd
    finally:
        os.close(fd)


def carry_out(
    changes: list[Change], root: str, python: str, bin_fd: int, *, ops: FileOps, say: Callable[[str], None]
) -> None:
    """Makes the changes, and announces each one before. Raises OSError, CannotAdopt; the next call makes the remaining
    changes."""
    clean(bin_fd, ops)
    for change in changes:
        say(change.text)
        if change.does in _GOOD_FOR and look(root, change.name).state not in _GOOD_FOR[change.does]:
            raise CannotAdopt(
                f"{root}/{BIN}/{change.name} was replaced in this moment, by a package: repeat the command"
            )
        try:
            _make(change, launcher_text(root, change.name, python), bin_fd, ops)
        except OSError:
            with contextlib.suppress(OSError):
                clean(bin_fd, ops)
            raise


def clean(bin_fd: int, ops: FileOps) -> None:
    """Removes the temporary files of an interrupted call."""
    for name in MODULES:
        for owner in (_OWNER, _AGAIN):
            with contextlib.suppress(FileNotFoundError):
                ops.unlink(temporary_name(name, owner), dir_fd=bin_fd)


def _make(change: Change, text: str, bin_fd: int, ops: FileOps) -> None:
    name, kept = change.name, change.name + STOCK
    if change.does == "keep":
        ops.link(name, kept, dir_fd=bin_fd)
    elif change.does == "keep again":
        beside = temporary_name(name, _AGAIN)
        ops.link(name, beside, dir_fd=bin_fd)
        ops.rename(beside, kept, dir_fd=bin_fd)
    elif change.does == "launch":
        _write_launcher(name, text, os.stat(kept, dir_fd=bin_fd, follow_symlinks=False), bin_fd, ops)
    elif change.does == "restore":
        ops.rename(kept, name, dir_fd=bin_fd)
    else:
        ops.unlink(kept, dir_fd=bin_fd)
    ops.fsync(bin_fd)  # before the next change: a crash of the machine must not keep a later one and lose this


def _write_launcher(name: str, text: str, stock: os.stat_result, bin_fd: int, ops: FileOps) -> None:
    """Gives the launcher owner and mode of the stock file, so that the same users may read and run it."""
    fd, temporary = create_temporary(ops, name, 0o600, dir_fd=bin_fd, owner=_OWNER)
    try:
        if os.geteuid() == 0:
            ops.chown(fd, stock.st_uid, stock.st_gid)
        ops.chmod(fd, stat.S_IMODE(stock.st_mode) & 0o777)
        ops.write(fd, text.encode())
        ops.fsync(fd)
    finally:
        os.close(fd)
    ops.rename(temporary, name, dir_fd=bin_fd)

"""From root to the owner of the files, once, before anything else is made; and whether that owner can work in the tree."""

import grp
import os
import pwd
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from clusterd.rights import DEFAULT_OWNER

WORKING_DIRECTORIES = ("etc", "logs", "queue/cluster", "var/run")
"""Below the root; the owner must be able to write there. Made by `clusterd init`, or by the product's packages."""

OWN_FILES = ("logs/cluster.log", "logs/clusterd-crash.log")
OWN_TREES = ("queue/cluster/.clusterd",)
"""What an earlier run as another user may have left, and what this one has to write."""

UMASK = 0o007


class Owner(msgspec.Struct, frozen=True):
    """Who the node runs as."""

    name: str
    uid: int
    gid: int


class PrivilegeProblem(Exception):
    """The node cannot run as it should; the text says why and what to do."""


def owner_to_become(configured: str) -> Owner | None:
    """The user that a daemon started as root becomes: the one configured, else `wazuh` if it exists. None: stay.

    Raises PrivilegeProblem for a configured user that does not exist."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(configured or DEFAULT_OWNER)
    except KeyError:
        if not configured:
            return None
        raise PrivilegeProblem(
            f"there is no user {configured!r} on this machine: correct clusterd.owner in etc/cluster.json"
        ) from None
    return Owner(found.pw_name, found.pw_uid, found.pw_gid) if found.pw_uid else None


def become(owner: Owner) -> None:
    """Change group, supplementary groups and user, for good. Raises PrivilegeProblem when the system refuses."""
    try:
        os.setgid(owner.gid)
        os.initgroups(owner.name, owner.gid)
        os.setuid(owner.uid)
    except OSError as failure:
        raise PrivilegeProblem(f"cannot become user {owner.name}: {failure.strerror}") from failure


def answer_as(owner: Owner, ask: Callable[[], str]) -> str:
    """The answer of another user, asked as root; that it cannot be asked is an answer, too. At most 4096 bytes. Never in a process
    with threads."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(owner)
            os.write(write_fd, ask().encode()[:4096])
        except PrivilegeProblem as failure:
            os.write(write_fd, str(failure).encode()[:4096])
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text.decode(errors="replace")


def hand_over_own_files(root: str, owner: Owner) -> None:
    """As root: give the owner what an earlier run as another user left. Links, and files with a second name, are left
    alone: the directories belong to the owner, who must not be able to point root at a file of somebody else."""
    for relative in OWN_FILES:
        try:
            fd = os.open(Path(root) / relative, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            _hand_over(fd, owner)
        finally:
            os.close(fd)
    for relative in OWN_TREES:
        if not (Path(root) / relative).is_dir():
            continue
        for _, _, files, directory_fd in os.fwalk(Path(root) / relative, follow_symlinks=False):
            os.fchown(directory_fd, owner.uid, owner.gid)
            for name in files:
                try:
                    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory_fd)
                except OSError:
                    continue
                try:
                    _hand_over(fd, owner)
                finally:
                    os.close(fd)


def _hand_over(fd: int, owner: Owner) -> None:
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and (found.st_uid, found.st_gid) != (owner.uid, owner.gid):
        os.fchown(fd, owner.uid, owner.gid)


def tree_problem(root: str) -> str | None:
    """Why this process cannot work in the tree (to be asked after `become`), or None."""
    me = _user_name(os.geteuid())
    for directory in [*reversed(Path(root).parents), Path(root)]:
        if directory.exists() and not os.access(directory, os.X_OK, effective_ids=True):
            return (
                f"user {me} cannot enter {directory}: give it the right to ({_describe(directory)}), "
                f"or move the root, or set clusterd.owner in etc/cluster.json"
            )
    for relative in WORKING_DIRECTORIES:
        path = Path(root) / relative
        if not path.is_dir():
            return f"{path} is missing: make the tree with clusterd init"
        if not os.access(path, os.R_OK | os.X_OK | (os.W_OK if relative != "etc" else 0), effective_ids=True):
            return (
                f"user {me} cannot work in {path} ({_describe(path)}): give it to {me}, "
                f"or set clusterd.owner in etc/cluster.json"
            )
    return None


def _describe(path: Path) -> str:
    found = path.stat()
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"{_user_name(found.st_uid)}:{group} {stat.S_IMODE(found.st_mode):04o}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def allow_open_files(wanted: int) -> str | None:
    """Raise the limit of open files to at least `wanted` where that is allowed; a warning when it is not enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return None
    reachable = wanted if hard == unlimited else min(wanted, hard)
    if os.geteuid() == 0 and reachable < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (OSError, ValueError):
            pass
        else:
            return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < wanted:
        return f"Only {reachable} open files are allowed, the configured limits of connections want {wanted}."
    return None

"""Changes from root to the owner of the files, once, before anything else is made; checks that the owner can work in
the tree."""

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
"""Directories below the root that the owner must be able to write. `clusterd init` or the product's packages make
them."""

OWN_FILES = ("logs/cluster.log", "logs/clusterd-crash.log")
OWN_TREES = ("queue/cluster/.clusterd",)
"""Files that an earlier run as another user may have left and this run must write."""

UMASK = 0o007


class Owner(msgspec.Struct, frozen=True):
    """The user that the node runs as."""

    name: str
    uid: int
    gid: int


class PrivilegeProblem(Exception):
    """The node cannot run as it should; the text says why and what to do."""


def owner_to_become(configured: str) -> Owner | None:
    """The user that a daemon started as root becomes: the configured one, else `wazuh` if it exists. None: stay root.

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
    """Changes group, supplementary groups and user for good. Raises PrivilegeProblem when the system refuses."""
    try:
        os.setgid(owner.gid)
        os.initgroups(owner.name, owner.gid)
        os.setuid(owner.uid)
    except OSError as failure:
        raise PrivilegeProblem(f"cannot become user {owner.name}: {failure.strerror}") from failure


def answer_as(owner: Owner, ask: Callable[[], str]) -> str:
    """Returns the answer that a function gives as another user, asked as root; a failure to ask is an answer, too. At
    most 4096 bytes. Do not call it in a process with threads."""
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
    """As root: gives the owner the files that an earlier run as another user left."""
    for relative in OWN_FILES:
        _hand_over(f"{root}/{relative}", owner)
    for relative in OWN_TREES:
        if not (Path(root) / relative).is_dir():
            continue
        for _, _, files, directory_fd in os.fwalk(Path(root) / relative, follow_symlinks=False):
            os.fchown(directory_fd, owner.uid, owner.gid)
            for name in files:
                _hand_over(name, owner, directory_fd)


def _hand_over(path: str, owner: Owner, directory_fd: int | None = None) -> None:
    """Links and files with a second name are skipped: the owner owns the directories and must not be able to make root
    change another user's file. So is what cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory_fd)
    except OSError:
        return
    try:
        found = os.fstat(fd)
        is_plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if is_plain and (found.st_uid, found.st_gid) != (owner.uid, owner.gid):
            os.fchown(fd, owner.uid, owner.gid)
    finally:
        os.close(fd)


def tree_problem(root: str) -> str | None:
    """Why this process cannot work in the tree (call it after `become`), or None."""
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
        if relative != "etc" and os.statvfs(path).f_flag & os.ST_RDONLY:
            return f"{path} is on a file system that is mounted read-only: see dmesg, then mount it writable"
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
    """Raises the limit of open files to at least `wanted` where that is allowed; returns a warning when it is not
    enough."""
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

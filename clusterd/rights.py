"""Rights of the node's processes, and what others may see of them."""

import contextlib
import ctypes
import os
import pwd
import resource
from collections.abc import Iterator

DEFAULT_OWNER = "wazuh"
DEBUGGABLE = "CLUSTERD_DEBUGGABLE"
"""Environment variable: if not empty, programs of the same user may inspect the processes, as a debugger or the rig
does."""
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def keep_memory_private() -> None:
    """Disables core dumps of this process and its children, on disk or to a program (core(5)): a dump would hold the
    cluster key. And only root may inspect them: other programs of the same user get neither /proc/PID/mem nor ptrace.
    Call it after changing the user, which resets this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not os.environ.get(DEBUGGABLE):
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@contextlib.contextmanager
def own_files_of_proc() -> Iterator[None]:
    """While the block runs, this process's files in /proc/self belong to its user and can be written; those of a
    process with private memory belong to root."""
    before = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_DUMPABLE, 1 if before == 1 else 0, 0, 0, 0)


def owner_for_daemon(directory: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns user and group that a file of root's commands gets in this directory, so that the daemon can read it: the
    directory's, or where that is root's the user that a node which root starts becomes. A group of the directory stays:
    the node may run as another user (clusterd.owner), who reads what is there as a member of it."""
    found = os.stat(directory)
    if found.st_uid == 0:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(DEFAULT_OWNER)
            return user.pw_uid, found.st_gid or user.pw_gid
    return found.st_uid, found.st_gid


def too_many_rights(owner: str) -> str | None:
    """The warning for a node that stays root because no user was named (`owner`: as configured), else None."""
    if os.geteuid() != 0 or owner:
        return None
    try:
        pwd.getpwnam(DEFAULT_OWNER)
    except KeyError:
        return (
            f"the node runs as root, with all rights of root, because there is no user {DEFAULT_OWNER}: make that "
            "user, or name one as clusterd.owner in etc/cluster.json (root, if that is meant)"
        )
    return None

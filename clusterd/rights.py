"""What the node's processes may do, and what others may see of them."""

import contextlib
import ctypes
import os
import pwd
import resource
from collections.abc import Iterator

DEFAULT_OWNER = "wazuh"
DEBUGGABLE = "CLUSTERD_DEBUGGABLE"
"""In the environment, not empty: programs of the same user may look into the processes, as a debugger or the rig does."""
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def keep_memory_private() -> None:
    """No core of this process or its children, on disk or through a program (core(5)): it would hold the cluster's key. And
    nobody but root looks into them: neither /proc/PID/mem nor ptrace, for other programs of the same user. To be called
    after the user was changed, which sets this anew."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not os.environ.get(DEBUGGABLE):
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@contextlib.contextmanager
def own_files_of_proc() -> Iterator[None]:
    """While it lasts, files of /proc/self belong to this process's user, and may be written: those of a process whose memory
    is private belong to root."""
    before = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_DUMPABLE, 1 if before == 1 else 0, 0, 0, 0)


def too_many_rights(owner: str) -> str | None:
    """What to say of a node that is root because nobody said who else (`owner`: as configured), None of any other."""
    if os.geteuid() != 0 or owner:
        return None
    try:
        pwd.getpwnam(DEFAULT_OWNER)
    except KeyError:
        return (
            f"the node runs as root, with all rights of root, because there is no user {DEFAULT_OWNER}: make that user, or "
            "name one as clusterd.owner in etc/cluster.json (root, if that is meant)"
        )
    return None

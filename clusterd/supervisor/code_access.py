"""Checks that the node's user may read the program that the node runs: interpreter and packages."""

import importlib.util
import os
import sys
from pathlib import Path

from clusterd.supervisor.privileges import Owner, answer_as

PACKAGES = ("clusterd", "hashing", "ipc", "msgspec", "zmq")
"""Our own packages, and two that we depend on: a pure one and one with shared libraries."""


def unreadable_code() -> str:
    """The first part of the program that this process may not read, with the directory that prevents it; empty if it
    may read everything."""
    for path in code_paths():
        for above in [*reversed(path.parents), path]:
            wanted = os.X_OK if above != path else os.R_OK | (os.X_OK if os.path.isdir(path) else 0)
            if not os.access(above, wanted, effective_ids=True):
                return f"{path} (no access to {above})" if above != path else str(path)
    return ""


def unreadable_code_of(owner: Owner) -> str:
    """The same for another user, asked as root. Do not call it in a process with threads."""
    return answer_as(owner, unreadable_code)


def access_warning(user: str, unreadable: str) -> str:
    """For people."""
    return (
        f"user {user} cannot read {unreadable}: the node runs with what it loaded as root, but no command of {user} "
        f"starts, and a service that starts as {user} would not. Install where {user} may read, or set clusterd.owner "
        "in etc/cluster.json"
    )


def code_paths() -> list[Path]:
    """The interpreter, its resolved path, and the packages."""
    found = [Path(sys.executable), Path(sys.executable).resolve()]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found += [Path(spec.origin).parent, Path(spec.origin)]
    return found

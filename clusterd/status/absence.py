"""What is said of a root at which no node of ours runs."""

import os

from clusterd.pidfile import running_daemon, running_pid


def not_running(root: str) -> str:
    """Returns a text for a root without a running node: how to start it, or what runs instead, or that there is
    none."""
    running = running_daemon(root)
    if running is None and not has_node(root):
        return f"there is no node at {root}. Make one with: clusterd --root {root} init ..., or give the right --root"
    text = f"clusterd is not running at {root}."
    if running is not None:
        return f"{text} {running[1].capitalize()} runs there (pid {running[0]})."
    return f"{text} Start it with: clusterd --root {root} start"


def has_node(root: str) -> bool:
    """Whether there is a node's, or a manager's, directory tree."""
    return os.path.exists(f"{root}/etc/ossec.conf") or os.path.isdir(f"{root}/queue/cluster")


def is_running(root: str) -> bool:
    return running_pid(root) is not None

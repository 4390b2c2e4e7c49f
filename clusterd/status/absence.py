"""What is said of a root at which no node of ours runs."""

from clusterd.gate import has_node, no_node
from clusterd.pidfile import running_daemon, running_pid


def not_running(root: str) -> str:
    """Returns a text for a root without a running node: how to start it, or what runs instead, or that there is
    none."""
    running = running_daemon(root)
    if running is None and not has_node(root):
        return no_node(root)
    text = f"clusterd is not running at {root}."
    if running is not None:
        return f"{text} {running[1].capitalize()} runs there (pid {running[0]})."
    return f"{text} Start it with: clusterd --root {root} start"


def is_running(root: str) -> bool:
    return running_pid(root) is not None

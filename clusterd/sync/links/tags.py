"""Tags of log lines: whose work a line is about (wire.md 9.2)."""

MASTER = "Master"


def worker_tag(name: str) -> str:
    return f"Worker {name}"


def role_tag(name: str, *, is_master: bool) -> str:
    """The tag of a node's own work."""
    return MASTER if is_master else worker_tag(name)

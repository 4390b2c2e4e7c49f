"""Exit codes of the commands, the same everywhere (docs/operations.md)."""

OK = 0
FAILED = 1
"""What was asked for did not happen; the line on stderr says why."""
BAD_CONFIGURATION = 2
NOT_RUNNING = 3
"""`status`, `reload`: no node runs at this root."""
ALREADY_RUNNING = 4
"""`start`: a node runs at this root."""
USAGE = 64

"""Exit codes, the same for every command and every process. docs/operations/reference.md lists them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of a command or a process of the node. A child that ended by signal N is -N in our own records."""

    OK = 0
    """Done; for a daemon: it was asked to stop."""

    FAILED = 1
    """A failure without a code of its own; a line says what."""

    BAD_CONFIGURATION = 2
    """The configuration has mistakes; all of them were shown."""

    COULD_NOT_START = 3
    """The node, or one of its processes, could not begin its work: port taken, root out of reach, disabled."""

    NOT_RUNNING = 4
    """There is no node at this root, or the command needs a running one."""

    ALREADY_RUNNING = 5
    """A second start; the message names the pid of the first."""

    TIMED_OUT = 6
    """The task was not finished before its deadline."""

    DEGRADED = 10
    """`status`: the node works, and something needs a look; the first line says what."""

    DOWN = 11
    """`status`: the node runs and does not do its work; the first line says why."""

    USAGE = 64
    """Wrong usage of a command."""

    INTERRUPTED = 130
    """Ctrl-C, as shells have it."""


START_TIMEOUT_S = 600.0
"""How long a caller waits for a node's start before TIMED_OUT. The node itself knows sooner that it cannot start; on a
machine where it waits for a core it may take this long."""

"""Between sync and the supervisor: requests to start and stop framework processes, and reports of their start and end.
Each is one datagram on a socket pair that both inherited from before the fork. HelperStarted carries two descriptors:
our end of the connection, and the one that the process's output is read from.

`sync`: the incarnation of the sync process that requests or receives this; requests of an earlier one are dropped."""

from clusterd.messages.base import Message


class StartHelper(Message, frozen=True, tag="start-helper"):
    """Start one more."""

    sync: int


class KillHelper(Message, frozen=True, tag="kill-helper"):
    """End this one now, with all processes that it has started."""

    sync: int
    number: int


class HelperStarted(Message, frozen=True, tag="helper-started"):
    """`number`: unique in the life of this node."""

    sync: int
    number: int
    pid: int


class HelperNotStarted(Message, frozen=True, tag="helper-not-started"):
    """`text`: the reason, for people."""

    sync: int
    text: str


class HelperEnded(Message, frozen=True, tag="helper-ended"):
    """`how`: as `with exit code 1`, `by SIGKILL`."""

    sync: int
    number: int
    how: str


ToSupervisor = StartHelper | KillHelper
ToSync = HelperStarted | HelperNotStarted | HelperEnded
LARGEST = 8192
"""Most bytes of one datagram."""

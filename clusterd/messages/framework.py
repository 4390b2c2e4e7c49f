"""Between sync and the supervisor: processes of the framework, wanted and gone. One datagram each on a socket pair that
both have from before the fork; with HelperStarted go two descriptors: our end of the connection, and where its output
is read.

`sync`: the incarnation of the sync process that wants it, or to which it is told; what an earlier one wanted is
dropped."""

from clusterd.messages.base import Message


class StartHelper(Message, frozen=True, tag="start-helper"):
    """Start one more."""

    sync: int


class KillHelper(Message, frozen=True, tag="kill-helper"):
    """End this one now, with whatever it has started."""

    sync: int
    number: int


class HelperStarted(Message, frozen=True, tag="helper-started"):
    """`number`: no other one has it, in the life of this node."""

    sync: int
    number: int
    pid: int


class HelperNotStarted(Message, frozen=True, tag="helper-not-started"):
    """`text`: why, for people."""

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
"""Bytes of one of them."""

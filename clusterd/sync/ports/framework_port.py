"""What sync asks of the framework process: whether it can run a function, and to run it (architecture.md, section 1)."""

from typing import Literal, Protocol

from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.wire.results import WireCallable

FrameworkState = Literal["off", "absent", "idle", "starting", "ready", "failed"]
"""`idle`: installed, and nobody has asked for it yet."""


class NotBegun(ClusterError):
    """The framework did not begin with the request, and will not: whoever can answer it otherwise may do so."""


class Framework(Protocol):
    """The installed framework of this node."""

    @property
    def state(self) -> FrameworkState: ...

    def can_run(self, name: WireCallable) -> bool:
        """Whether there is a framework that has this function, as far as is known before it was started."""

    async def run(
        self, request: Text, *, timeout_s: float | None, is_read_only: bool, name: WireCallable, asker: str = ""
    ) -> Text:
        """The answer as the framework's encoder has written it; a file of it is the caller's to remove, as is the request's.

        `name`: the function that the request names. `asker`: whose turns are shared fairly with those of others. One that only reads
        is run once more when its process dies. Raises NotBegun, and ClusterError: 3021 at the deadline, 1000 when the process died."""

"""Small answers of the API as the response to the request itself, between two nodes with capability `answer`.

Stock's way needs four round trips for an answer: queued, length, content, name. Here `dapi_now {id} {request}` is
answered by `ok` with ANSWER and the content, when the answer is small and there soon. If not, `ok` is what `dapi` is
answered, and the answer comes as it does for `dapi`. That a response belongs to a request of ours on that very link is
seen to by net.
"""

import asyncio

from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.sync.links.outgoing import INLINE_CHUNK
from clusterd.wire import commands

SOON_S = 1.0
"""So long at most an asker waits for the response; far below its own timeout, and below that of its keepalives."""
SOON_AT_ONCE = 24
"""Requests of one link that are open like that; more are queued as `dapi` has it. Net reads from no link that has
`requests_per_link` (64) open ones."""
ANSWER = b"="
"""Before the content, so that no answer can be taken for the text that says it was queued."""


class PromptAnswer:
    """The response to one request: settled once, by the answer, or by None when that comes in another way.

    `is_late`: net was told of a task; `has_ended`: whoever makes the answer is done. Written by who serves the
    request."""

    __slots__ = ("_future", "_timer", "has_ended", "is_late")

    def __init__(self, seconds: float = SOON_S) -> None:
        loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bytes | None] = loop.create_future()
        self._timer = loop.call_later(seconds, self.give_up)
        self.is_late = False
        self.has_ended = False

    def take(self, text: Text) -> bool:
        """Whether this answer is the response. If not, none is any more."""
        if self._future.done() or text.path or len(text.payload) > INLINE_CHUNK:
            self.give_up()
            return False
        self._settle(ANSWER + text.payload)
        return True

    def give_up(self) -> None:
        """The answer comes later, or never."""
        if not self._future.done():
            self._settle(None)

    def _settle(self, payload: bytes | None) -> None:
        self._timer.cancel()
        self._future.set_result(payload)

    async def wait(self) -> bytes | None:
        """The payload of the response, None when there is no answer yet."""
        return await self._future


def answer_in(payload: bytes) -> Text | None:
    """What the response to `dapi_now` holds: the answer, or None when it comes later. Raises ClusterError 1000."""
    if payload.startswith(ANSWER):
        return Text(payload[len(ANSWER) :])
    if payload == commands.DAPI_QUEUED:
        return None
    raise ClusterError(1000, f"{commands.DAPI_NOW} was answered by something else than an answer")

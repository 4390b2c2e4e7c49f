"""Small answers of the API as the response to the request itself, between two nodes with capability `answer`.

The stock way needs four round trips for an answer: queued, length, content, name. Here `dapi_now {id} {request}` is
answered by `ok` with ANSWER and the content, if the answer is small and soon ready. Otherwise `ok` holds the same as
for `dapi`, and the answer follows in the stock way. Net makes sure that a response belongs to a request of ours on the
same link.
"""

import asyncio

from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.sync.links.outgoing import INLINE_CHUNK
from clusterd.wire import commands

SOON_S = 1.0
"""How long an asker waits for the response at most; far below its own timeout, and below that of its keepalives."""
SOON_AT_ONCE = 24
"""Most such requests that are open on one link; further ones are queued as for `dapi`. Net does not read from a link
that has `requests_per_link` (64) open ones."""
ANSWER = b"="
"""Precedes the content, so that no answer can be mistaken for the text of a queued request."""


class PromptAnswer:
    """The response to one request: settled once, by the answer, or by None when the answer follows in another way.

    `is_late`: net was told of a task; `has_ended`: the request has been dealt with. Both are written by the server of
    the request."""

    __slots__ = ("_future", "_timer", "has_ended", "is_late")

    def __init__(self, seconds: float = SOON_S) -> None:
        loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bytes | None] = loop.create_future()
        self._timer = loop.call_later(seconds, self.give_up)
        self.is_late = False
        self.has_ended = False

    def take(self, text: Text) -> bool:
        """Makes this answer the response if it can. If not, no later answer can be."""
        if self._future.done() or text.path or len(text.payload) > INLINE_CHUNK:
            self.give_up()
            return False
        self._settle(ANSWER + text.payload)
        return True

    def give_up(self) -> None:
        """Settles the response without an answer."""
        if not self._future.done():
            self._settle(None)

    def _settle(self, payload: bytes | None) -> None:
        self._timer.cancel()
        self._future.set_result(payload)

    async def wait(self) -> bytes | None:
        """Returns the payload of the response, None if there is no answer yet."""
        return await self._future


def answer_in(payload: bytes) -> Text | None:
    """Returns the answer in the response to `dapi_now`, or None if it follows later. Raises ClusterError 1000."""
    if payload.startswith(ANSWER):
        return Text(payload[len(ANSWER) :])
    if payload == commands.DAPI_QUEUED:
        return None
    raise ClusterError(1000, f"{commands.DAPI_NOW} was answered by something else than an answer")

"""The response contains the answer, or says that the answer comes later."""

import asyncio

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.sync.links.outgoing import INLINE_CHUNK
from clusterd.sync.requests.prompt_answer import ANSWER, PromptAnswer, answer_in
from clusterd.wire.commands import DAPI_QUEUED
from clusterd.wire.connection import INLINE_LIMIT
from clusterd.wire.token import sealed_length


def test_small_answer_in_time_is_the_response_and_is_read_again() -> None:
    async def work() -> None:
        soon = PromptAnswer()
        assert soon.take(Text(b'{"a": 1}'))
        payload = await soon.wait()
        assert payload is not None
        assert answer_in(payload) == Text(b'{"a": 1}')
        assert not soon.take(Text(b"second")), "a request has one answer"

    asyncio.run(work())


@pytest.mark.parametrize("text", [Text(b"x" * (INLINE_CHUNK + 1)), Text(b"", "/spool/1", 10)])
def test_large_answer_is_not_and_the_response_says_so_at_once(text: Text) -> None:
    async def work() -> None:
        soon = PromptAnswer(60)
        assert not soon.take(text)
        assert await asyncio.wait_for(soon.wait(), 30) is None

    asyncio.run(work())


def test_late_answer_is_not() -> None:
    async def work() -> None:
        soon = PromptAnswer(0.01)
        assert await soon.wait() is None
        assert not soon.take(Text(b"{}"))

    asyncio.run(work())


def test_largest_answer_fits_into_a_response_that_net_opens() -> None:

    assert sealed_length(INLINE_CHUNK + len(ANSWER)) <= INLINE_LIMIT


def test_queued_is_no_answer_and_anything_else_is_refused() -> None:
    assert answer_in(DAPI_QUEUED) is None
    assert answer_in(b"=") == Text(b"")
    for odd in (b"", b"{}", b"Added request", DAPI_QUEUED + b" ", b"None"):
        with pytest.raises(ClusterError, match="something else"):
            answer_in(odd)

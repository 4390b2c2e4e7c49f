"""Batches of waiting messages."""

from collections import deque

from clusterd.messages.base import INLINE_BYTES
from clusterd.messages.links import CloseLink, GiveString, Reply
from ipc.batch import LARGE_BYTES, MOST, take_batch


def test_small_messages_go_together_in_their_order_up_to_a_number() -> None:
    waiting = deque(CloseLink(number, "") for number in range(MOST + 3))
    assert [message.link for message in take_batch(waiting)] == list(range(MOST))
    assert [message.link for message in take_batch(waiting)] == [MOST, MOST + 1, MOST + 2]


def test_large_message_ends_its_batch() -> None:
    large = b"x" * INLINE_BYTES
    waiting: deque[Reply | GiveString] = deque(
        [Reply(1, 1, "ok", b"x" * LARGE_BYTES), Reply(1, 2, "ok", large), GiveString(1, 3, "dapi_res", "", large)]
    )
    waiting.append(Reply(1, 4, "ok"))
    assert [len(take_batch(waiting)) for _ in range(3)] == [2, 1, 1]

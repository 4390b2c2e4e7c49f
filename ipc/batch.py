"""Messages that wait for the same receiver, taken in portions: many small ones, few with a large payload."""

from collections import deque
from typing import TypeVar

MOST = 32
LARGE_BYTES = 4096
"""A message with a larger payload ends its batch, so that a batch has hardly more bytes than the largest message, and the
high-water mark of a channel still bounds what waits in it."""

M = TypeVar("M")


def take_batch(waiting: deque[M]) -> list[M]:
    """The next messages, in order; at least one, which must be there."""
    batch = [waiting.popleft()]
    while waiting and len(batch) < MOST and _payload_bytes(batch[-1]) <= LARGE_BYTES:
        batch.append(waiting.popleft())
    return batch


def _payload_bytes(message: object) -> int:
    return len(getattr(message, "payload", b"")) + len(getattr(message, "content", b""))

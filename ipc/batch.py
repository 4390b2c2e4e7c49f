"""Takes waiting messages for one receiver in batches: many small ones, few with a large payload."""

from collections import deque
from typing import TypeVar

MOST = 32
LARGE_BYTES = 4096
"""A message with a larger payload ends its batch. So a batch is hardly larger than the largest message, and the
high-water mark of a channel still bounds what waits in it."""

M = TypeVar("M")


def take_batch(waiting: deque[M]) -> list[M]:
    """Removes and returns the next messages in order; there must be at least one."""
    batch = [waiting.popleft()]
    while waiting and len(batch) < MOST and _payload_bytes(batch[-1]) <= LARGE_BYTES:
        batch.append(waiting.popleft())
    return batch


def _payload_bytes(message: object) -> int:
    return len(getattr(message, "payload", b"")) + len(getattr(message, "content", b""))

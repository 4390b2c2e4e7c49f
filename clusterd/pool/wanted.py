"""Ends jobs on a package that nobody wants any more: sync removes the package's file, and the job notices."""

import os
import time
from collections.abc import Callable

from clusterd.pool.failure import Failure

LOOK_S = 0.2


def while_there(path: str, on_step: Callable[[], None]) -> Callable[[], None]:
    """`on_step` of such a job. Raises Failure `unwanted` soon after the file is gone."""
    look_at = 0.0

    def step() -> None:
        nonlocal look_at
        on_step()
        now = time.monotonic()
        if now >= look_at:
            look_at = now + LOOK_S
            if not os.path.lexists(path):
                raise Failure("unwanted", "the package was taken away")

    return step

"""Endless loops of processes other than sync: a failed round ends the round, never the loop (sync has
sync/ports/troubles.py, which also shows it in `status`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clusterd import stacks


class Rounds:
    """The rounds of one process. `say`: logs a text at a level."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._failing: set[str] = set()

    @contextmanager
    def survive(self, subject: str) -> Iterator[None]:
        """Wraps one round. An exception is logged once, with its origin unless the system raised it, until a round of
        the subject succeeds. Cancellation, and anything else that is no Exception, passes."""
        try:
            yield
        except Exception as failure:  # whatever it is, the next round must come
            if subject in self._failing:
                return
            self._failing.add(subject)
            what = str(failure)
            if not isinstance(failure, OSError):
                what = f"Unexpected failure: {stacks.told(failure)}"
            self._say("ERROR", f"{subject}: {what}")
        else:
            if subject in self._failing:
                self._failing.discard(subject)
                self._say("INFO", f"{subject}: works again")

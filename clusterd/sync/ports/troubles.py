"""Whatever keeps this node from doing its work: logged once, and shown by `status` until it is over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clusterd import stacks
from clusterd.errors import ClusterError, calm
from clusterd.messages.journal import LONGEST_TEXT, AnyEvent, ProblemEvent
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.tag_log import TagLog


class Troubles:
    """Owns the open troubles of this node, by subject (a few plain words: `spool`, `package for w1`). `tell`: takes
    their beginnings and ends, for the journal."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}
        self.tell: Callable[[AnyEvent], None] = lambda event: None

    def begin(self, subject: str, text: str, log: TagLog | None = None, level: str = "WARNING") -> bool:
        """Records a trouble; `text` says what is wrong and what to do. Logs it and returns True only if the subject had
        no trouble before: a text that changes (a number in it) is no news."""
        is_new = subject not in self._open
        self._open[subject] = text
        if is_new:
            self.tell(ProblemEvent(what="begins", subject=subject, text=text[:LONGEST_TEXT]))
        if is_new and log is not None:
            if level == "ERROR":
                log.error(text)
            else:
                log.warning(calm(text))
        return is_new

    def end(self, subject: str, text: str = "", log: TagLog | None = None) -> bool:
        """Records that the subject works again, and logs `text`. Returns True if it had been in trouble."""
        had = self._open.pop(subject, None) is not None
        if had:
            self.tell(ProblemEvent(what="ends", subject=subject, text=text[:LONGEST_TEXT]))
        if had and text and log is not None:
            log.info(text)
        return had

    def shown(self) -> dict[str, str]:
        """Returns subject and text of each trouble, in the order in which they began."""
        return dict(self._open)


@contextmanager
def round_survives(
    log: TagLog | None, troubles: Troubles, subject: str, *, passes: type[Exception] | tuple[()] = ()
) -> Iterator[None]:
    """Surrounds one round of a loop that lives for ever: an exception ends the round, not the loop, and is logged once
    until a round succeeds (an unexpected one with its place in the code). Cancellation passes, and so does `passes`:
    the end of the loop, which says nothing about the subject."""
    try:
        yield
    except passes:
        raise
    except Exception as failure:  # whatever it is, the next round must come
        what = str(failure) or type(failure).__name__
        if troubles.begin(subject, f"{subject}: {what}") and log is not None:
            if not isinstance(failure, OSError | ClusterError | JobError):
                what = f"Unexpected failure: {stacks.told(failure)}"
            log.error(f"{subject}: {what}")
    else:
        troubles.end(subject, f"{subject}: works again", log)

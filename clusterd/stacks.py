"""Tracebacks for the log, cut to a bounded length: an exception may come from a thousand nested calls, with a thousand
others behind it, and formatting all of them takes longer than a process may go without a heartbeat."""

import sys
import traceback

MOST_FAILURES = 4
"""Exceptions of a chain: the last one, and those before it."""
MOST_FRAMES = 30
"""Frames of each exception: the innermost ones."""
MOST_CHARACTERS = 6000
_LINK = "\nIt came while this was dealt with, or because of it:\n\n"


def told(failure: BaseException | None = None) -> str:
    """The traceback of `failure`, by default of the exception being handled."""
    if failure is None:
        failure = sys.exception()
    parts: list[str] = []
    while failure is not None and len(parts) < MOST_FAILURES:
        lines = traceback.format_exception(
            type(failure), failure, failure.__traceback__, limit=-MOST_FRAMES, chain=False
        )
        parts.append(_cut("".join(lines)))
        failure = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    if failure is not None:
        parts.append("(and more before that)\n")
    return _LINK.join(parts)


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"

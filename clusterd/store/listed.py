"""How many names of groups or agents that come or go at once are told."""

from collections.abc import Sequence

MOST_TOLD = 100
"""In the journal."""
MOST_NAMED = 10
"""In a line of the log."""


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more

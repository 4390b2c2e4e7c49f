"""A journal with some events, as a monitor would have written it."""

from collections.abc import Sequence
from pathlib import Path

from clusterd.messages.journal import AnyEvent
from clusterd.monitor.feed import EventFeed, Heard
from clusterd.monitor.journal_file import JournalFile
from clusterd.rundir import journal_path

NOW = 1_800_000_000.0


def write(root: Path, events: Sequence[AnyEvent], first: int = 1) -> None:
    """One event a second from NOW on, of node m; the first has the number `first`."""
    found: list[Heard] = []
    feed = EventFeed("m", first)
    feed.subscribe(found.extend)
    feed.hear([(NOW + number, event) for number, event in enumerate(events, first)])
    Path(journal_path(str(root))).parent.mkdir(parents=True, exist_ok=True)
    file = JournalFile(journal_path(str(root)))
    file.open()
    file.write([one.row() for one in found])
    file.close()

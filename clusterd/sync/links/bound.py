"""Binds the handlers of this process to the rows of the command table."""

from collections.abc import Mapping
from typing import NamedTuple

from clusterd.sync.links.handlers import Handler, SealedHandler
from clusterd.wire.command_table import NET, Command, LinkKind, rows_of


class Bound(NamedTuple):
    """The handler of a command: one of the two."""

    row: Command
    opened: Handler | None
    sealed: SealedHandler | None


def bind(
    link: LinkKind, opened: Mapping[str, Handler], sealed: Mapping[str, SealedHandler], *, on_master: bool
) -> dict[str, Bound]:
    """The handlers for this kind of link, by word. Raises ValueError unless every row has a handler of the right kind
    and every handler a row: otherwise net would pass on requests that nobody answers, or drop requests that somebody
    waits for."""
    rows = {word: row for word, row in rows_of(link, on_master=on_master).items() if row.handler != NET}
    wanted = {word for word, row in rows.items() if row.most_bytes is not None}
    if wanted != opened.keys() or rows.keys() - wanted != sealed.keys():
        differing = sorted((wanted ^ opened.keys()) | ((rows.keys() - wanted) ^ sealed.keys()))
        raise ValueError(f"command_table.py and the handlers for {link} differ in {', '.join(differing)}")
    return {word: Bound(row, opened.get(word), sealed.get(word)) for word, row in rows.items()}

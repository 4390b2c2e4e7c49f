"""One mistake in a configuration file, with everything a person needs to mend it."""

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """`where`: a line ("line 12") or a key ("intervals.worker.keep_alive"); empty for the whole file. `found` is shown
    unless it is empty: never put the cluster key there. `stock_text` is what the stock daemon logs for the same mistake
    (wire.md 7.2), empty where it has none."""

    file: str
    where: str
    text: str
    allowed: str = ""
    found: str = ""
    stock_text: str = ""

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        line = f"{place}: {self.text}"
        if self.allowed:
            line += f"; allowed: {self.allowed}"
        if self.found:
            line += f"; found: {self.found}"
        return line


def shown(value: object) -> str:
    """A value as a person wrote it, cut to a sensible length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Coloured text and tables for commands that answer at once: loading rich would take longer than all of such a command.
Views that go on drawing (`top`, `--watch`, progress) show the same within rich's live views.

Shown text never controls the terminal: unprintable characters are drawn as Python writes them.
"""

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

from clusterd.printable import printable, printable_lines
from clusterd.status.verdict import span
from tools.show import write

CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "bright_black": "90",
}
"""A style is some of these words; rich knows the same."""
_NO_COLOURS = ("bold", "dim")
PLAIN_SIGNS = str.maketrans({"━": "=", "─": "-", "…": "~"})
"""Replacements of one column each for what we draw with, where the terminal's encoding lacks it."""
LEAST_COLUMNS = 80
GAP = 2
BAR_CELLS = 24
_WORD = re.compile(r"\s*\S+\s*")
Span = tuple[str, str]
"""Text and style."""


def cells(text: str) -> int:
    """Returns the number of columns that the text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


class Drawn:
    """Something that can be drawn, also within a live view of rich."""

    def lines(self, width: int | None) -> list["Styled"]:
        """Returns its lines, none wider than `width` cells; None: as wide as they are."""
        raise NotImplementedError

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        for line in self.lines(options.max_width):
            yield Text.assemble(*line.spans, no_wrap=True)


class Styled(Drawn):
    """Text in which each span has a style of its own. It may have several lines."""

    __slots__ = ("spans",)

    def __init__(self, text: str = "", style: str = "") -> None:
        self.spans: list[Span] = []
        self.append(text, style)

    @classmethod
    def assemble(cls, *parts: str | Span) -> "Styled":
        whole = cls()
        for part in parts:
            whole.append(*((part,) if isinstance(part, str) else part))
        return whole

    def append(self, text: str, style: str = "") -> None:
        if text:
            self.spans.append((printable_lines(text), style))

    @property
    def plain(self) -> str:
        return "".join(text for text, _ in self.spans)

    def lines(self, width: int | None) -> list["Styled"]:
        plain, found, start = self.plain, [], 0
        for line in plain.split("\n"):
            for first, stop in _folded(line, width):
                found.append(self._part(start + first, start + stop))
            start += len(line) + 1
        return found

    def ansi(self, allowed: frozenset[str]) -> str:
        """Returns one line of text with escape sequences for the `allowed` words of its styles."""
        shown = []
        for text, style in self.spans:
            codes = ";".join(CODES[word] for word in style.split() if word in allowed)
            shown.append(f"\x1b[{codes}m{text}\x1b[0m" if codes else text)
        return "".join(shown)

    def _part(self, start: int, stop: int) -> "Styled":
        part, at = Styled(), 0
        for text, style in self.spans:
            piece = text[max(0, start - at) : max(0, stop - at)]
            if piece:
                part.spans.append((piece, style))
            at += len(text)
        return part


def _folded(line: str, width: int | None) -> Iterator[tuple[int, int]]:
    """Yields beginning and end of each line: broken between words, and anywhere in words that are too long."""
    if width is None or cells(line) <= width:
        yield 0, len(line)
        return
    start, used = 0, 0
    for word in _WORD.finditer(line):
        wanted = cells(word[0].rstrip())
        if used + wanted > width and used:
            yield start, start + len(line[start : word.start()].rstrip())
            start, used = word.start(), 0
            start += len(word[0]) - len(word[0].lstrip())
            wanted = cells(line[start : word.end()].rstrip())
        if wanted <= width:
            used += cells(line[max(start, word.start()) : word.end()])
            continue
        for place in range(start, word.end()):
            used += cells(line[place])
            if used > width and place > start:
                yield start, place
                start, used = place, cells(line[place])
    yield start, len(line.rstrip()) if line.rstrip() else len(line)


class TextTable(Drawn):
    """Columns without lines between them; a column whose name ends in `>` is aligned to the right."""

    def __init__(self, title: str, *columns: str, header: str = "dim", first_is_whole: bool = False) -> None:
        """`first_is_whole`: the first column is never folded."""
        self._title = title
        self._rights = [column.endswith(">") for column in columns]
        self._rows = [[Styled(column.removesuffix(">"), header) for column in columns]]
        self._first_is_whole = first_is_whole
        self.caption = ""

    def add_row(self, *row: str | Styled) -> None:
        assert len(row) == len(self._rights)
        self._rows.append([Styled(printable(cell)) if isinstance(cell, str) else cell for cell in row])

    def lines(self, width: int | None) -> list[Styled]:
        columns = range(len(self._rights))
        if width is not None and sum(self._full_widths()) + GAP * (len(columns) - 1) > width:  # empty ones go first
            filled = [n for n in columns if n == 0 or any(row[n].plain for row in self._rows[1:])]
            if len(filled) < len(columns) and len(self._rows) > 1:
                return self._only(filled).lines(width)
        widths = self._widths(width)
        found = Styled(self._title, "bold").lines(width) if self._title else []
        for row in self._rows:
            folded = [cell.lines(room) for cell, room in zip(row, widths, strict=True)]
            for place in range(max(map(len, folded))):
                found.append(self._line([cell[place] if place < len(cell) else Styled() for cell in folded], widths))
        return found + (Styled(self.caption, "dim").lines(width) if self.caption else [])

    def _only(self, columns: list[int]) -> "TextTable":
        table = TextTable(self._title, first_is_whole=self._first_is_whole)
        table._rights = [self._rights[n] for n in columns]
        table._rows = [[row[n] for n in columns] for row in self._rows]
        table.caption = self.caption
        return table

    def _full_widths(self) -> list[int]:
        return [max(max(map(cells, row[n].plain.split("\n"))) for row in self._rows) for n in range(len(self._rights))]

    def _widths(self, width: int | None) -> list[int]:
        """Returns the width of each column: the widest ones are narrowed, of equal ones those in which fewer rows are
        folded."""
        widths = self._full_widths()
        if width is None:
            return widths
        left = width - GAP * (len(widths) - 1)
        for folds in (range(int(self._first_is_whole), len(widths)), range(len(widths))):
            while sum(widths) > left and max(widths[n] for n in folds) > 1:
                widest = max(widths[n] for n in folds)
                next_one = max((widths[n] for n in folds if widths[n] < widest), default=1)
                equal = [n for n in folds if widths[n] == widest]
                equal.sort(key=lambda n: sum(cells(row[n].plain) >= widest for row in self._rows))
                too_much = min(sum(widths) - left, (widest - next_one) * len(equal))
                for place, n in enumerate(equal):
                    widths[n] -= too_much // len(equal) + (place < too_much % len(equal))
        return widths

    def _line(self, row: list[Styled], widths: list[int]) -> Styled:
        line, gap = Styled(), ""
        for cell, width, right in zip(row, widths, self._rights, strict=True):
            space = " " * (width - cells(cell.plain))
            if cell.spans:
                line.append(gap + space if right else gap)
                line.spans += cell.spans
                gap = "" if right else space
            else:
                gap += space
            gap += " " * GAP
        return line


class Parts(Drawn):
    """Several parts, one below the other."""

    def __init__(self, *parts: Drawn) -> None:
        self._parts = parts

    def lines(self, width: int | None) -> list[Styled]:
        return [line for part in self._parts for line in part.lines(width)]


def bar(done: int, total: int) -> Styled:
    """A progress bar; `total` 0: unknown."""
    full = round(BAR_CELLS * min(1.0, done / total)) if total else 0
    return Styled.assemble(("━" * full, "blue"), ("─" * (BAR_CELLS - full), "bright_black"))


def ago(at: float | None, now: float) -> str:
    """Shows a moment as the time since then."""
    return f"{span(max(0.0, now - at))} ago" if at else "-"


def show(what: Drawn, file: TextIO | None = None) -> None:
    """Draws it on a terminal, or writes it without colours and folding. On a terminal narrower than LEAST_COLUMNS the
    terminal breaks the lines itself, which is more legible than columns of three letters."""
    file = file or sys.stdout
    if file is None:  # closed by who started us
        return
    columns = columns_of(file)
    write(ansi(what.lines(None if columns is None else max(columns, LEAST_COLUMNS)), file), file)


def ansi(lines: list[Styled], file: TextIO, end: str = "") -> str:
    """Returns the lines with the escape sequences and the signs that `file` can show, and `end` behind each."""
    allowed = _allowed(file)
    text = "\n".join(line.ansi(allowed) + end for line in lines)
    is_plain = not (getattr(file, "encoding", None) or "utf-8").lower().startswith("utf")
    return text.translate(PLAIN_SIGNS) if is_plain else text


def is_screen(file: TextIO) -> bool:
    """Whether it is a terminal that understands escape sequences."""
    return file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _allowed(file: TextIO) -> frozenset[str]:
    """Returns the words of styles that have an effect: with NO_COLOR bold and dim only."""
    if os.environ.get("TERM") in ("dumb", "unknown") or not (file.isatty() or os.environ.get("FORCE_COLOR")):
        return frozenset()
    return frozenset(_NO_COLOURS if os.environ.get("NO_COLOR") else CODES)


def columns_of(file: TextIO) -> int | None:
    """Returns COLUMNS, or the width of the terminal of the output, or else of the input or the other output (`|
    less`)."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    for one in (file, sys.stdin, sys.stderr):
        try:
            columns = os.get_terminal_size(one.fileno()).columns
        except (OSError, ValueError, AttributeError):
            continue
        if columns:
            return columns
    return None

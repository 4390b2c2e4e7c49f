"""The console of every command. Shown text never controls the terminal, and `[red]` in a name is shown as text."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from clusterd.printable import printable_lines
from tools.drawing import PLAIN_SIGNS


class PlainConsole(Console):
    """Without markup and emoji codes; the only escape sequences are rich's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        is_plain = not self.encoding.startswith("utf")
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isprintable() and not is_plain):
                yield segment
                continue
            text = segment.text.translate(PLAIN_SIGNS) if is_plain else segment.text
            yield Segment(printable_lines(text), segment.style)

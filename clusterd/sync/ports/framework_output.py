"""What functions of the framework print. It may be anything, so the number of logged lines is limited."""

from collections.abc import Callable

from clusterd.errors import calm
from clusterd.sync.ports.tag_log import TagLog

LINE_BYTES = 1000
"""Most characters of a printed line that are logged."""
PRINTED_LINES, PRINTED_S = 20, 10.0


def shown_line(line: bytes) -> str:
    return line[:LINE_BYTES].decode("utf-8", "replace").rstrip()


class PrintedLines:
    """Logs PRINTED_LINES within PRINTED_S, and then how many more there were. `now`: monotonic seconds."""

    def __init__(self, log: TagLog, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._since = 0.0
        self._logged = 0
        self._left_out = 0

    def take(self, name: str, lines: list[bytes]) -> None:
        """`name`: of the process that printed them."""
        now = self._now()
        if now - self._since >= PRINTED_S:
            self._logged, self._since = 0, now
        taken = lines[: PRINTED_LINES - self._logged]
        self._logged += len(taken)
        self._left_out += len(lines) - len(taken)
        for text in filter(None, map(shown_line, taken)):
            self._log.info(calm(f"{name}: {text}"))

    def tick(self) -> None:
        """Call now and then: logs how many lines were left out once the period is over."""
        if self._left_out and self._now() - self._since >= PRINTED_S:
            self._log.info(f"The framework printed {self._left_out} more lines.")
            self._left_out = 0

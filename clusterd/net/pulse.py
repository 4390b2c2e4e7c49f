"""Detects a dead link between two nodes with capability `pulse`. Each side sends something every PULSE_S, an `echo` if
there is nothing else; a peer that is silent for SILENT_S is lost. Without pulses only keepalives and time-outs find
such a link, after minutes (wire.md 1.6); a new connection is equal again within seconds.

Pure arithmetic. Silence is counted in small steps, so that a process that was itself held up does not blame its peers.
The time since this side's last send counts in full, since the peers wait meanwhile.
"""

PULSE_S = 4.0
SILENT_S = 12.0
LONGEST_STEP_S = 1.0
MISSED_S = 8.5
"""A link that was silent for this long has missed two pulses; a new hello with its name replaces it."""


class Pulse:
    """The pulse of one link. Call `beat` twice a second."""

    __slots__ = ("_beaten_at", "_bytes_in", "_bytes_out", "_idle_s", "silent_s")

    def __init__(self, now: float) -> None:
        self._beaten_at = now
        self._bytes_in = self._bytes_out = -1
        self._idle_s = 0.0
        self.silent_s = 0.0

    def beat(self, now: float, bytes_in: int, bytes_out: int, *, is_read: bool) -> None:
        """`bytes_in`, `bytes_out`: totals so far. `is_read`: time in which we did not read does not count against the
        peer."""
        passed = now - self._beaten_at
        self._beaten_at = now
        if bytes_in != self._bytes_in or not is_read:
            self._bytes_in, self.silent_s = bytes_in, 0.0
        else:
            self.silent_s += min(passed, LONGEST_STEP_S)
        if bytes_out != self._bytes_out:
            self._bytes_out, self._idle_s = bytes_out, 0.0
        else:
            self._idle_s += passed

    @property
    def is_due(self) -> bool:
        """Whether it is time to send something."""
        return self._idle_s >= PULSE_S

    @property
    def is_lost(self) -> bool:
        return self.silent_s >= SILENT_S

"""Is the other end of a link still there? Between two nodes with capability `pulse`: each sends something every PULSE_S, an `echo`
if it has nothing else to send, so that one that is silent for SILENT_S is lost. Without it such a link is found by keepalives
and time-outs only, which take minutes (wire.md 1.6); a new connection is equal again within seconds.

Pure arithmetic. Silence counts in small steps, so that a process that was itself held up does not blame its peers; how long it has
sent nothing itself counts in full, since they wait meanwhile.
"""

PULSE_S = 4.0
SILENT_S = 12.0
LONGEST_STEP_S = 1.0
MISSED_S = 8.5
"""A link that was silent for so long has left out two pulses: whoever says hello with its name takes its place."""


class Pulse:
    """Of one link. `beat` is called twice a second."""

    __slots__ = ("_beaten_at", "_bytes_in", "_bytes_out", "_idle_s", "silent_s")

    def __init__(self, now: float) -> None:
        self._beaten_at = now
        self._bytes_in = self._bytes_out = -1
        self._idle_s = 0.0
        self.silent_s = 0.0

    def beat(self, now: float, bytes_in: int, bytes_out: int, *, is_read: bool) -> None:
        """`bytes_in`, `bytes_out`: all that came and went so far. `is_read`: time in which we did not read is not the peer's."""
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

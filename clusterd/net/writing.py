"""When what is queued for one peer is written: while its transport takes it, a few slices in a turn of the loop."""

import asyncio
import time
from collections.abc import Callable

from clusterd.net.context import NetContext, ToSync
from clusterd.net.outbox import Outbox
from clusterd.net.reading import HELD_OUTBOX

PUMP_BYTES = 1048576
"""Bytes written to one link before other links get their turn."""
UNREAD_BYTES = 1048576
"""When more bytes than this wait to be written, the peer's next requests are not read (wire.md R5)."""


class Writing:
    """Owner of the turns of writing. `hold`, `let_go`: stop and resume reading the peer for a reason (HELD_OUTBOX).
    `transport`: None while there is none. `closing`: close it as soon as everything is written. `sent_bytes`: so
    far."""

    def __init__(
        self,
        context: NetContext,
        sync: ToSync,
        outbox: Outbox,
        hold: Callable[[int], None],
        let_go: Callable[[int], None],
    ) -> None:
        self._clock, self._meter, self._sync = context.clock, context.meter, sync
        self._outbox = outbox
        self._hold, self._let_go = hold, let_go
        self._blocked_at: float | None = None
        self._is_due = False
        self.transport: asyncio.Transport | None = None
        self.closing = False
        self.sent_bytes = 0

    def pause(self) -> None:
        """The transport takes no more for now."""
        self._blocked_at = self._clock.awake()

    def resume(self) -> None:
        """The transport has written everything."""
        self._blocked_at = None
        self.report_unneeded(self._outbox.drained())
        self.pump()

    def blocked_s(self, now: float) -> float:
        """Returns for how long the peer has taken no data; 0 if it takes them."""
        return 0.0 if self._blocked_at is None else now - self._blocked_at

    def pump_later(self) -> None:
        """Schedules one write at the end of this turn of the loop for everything queued by then."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        began = time.thread_time_ns()
        self.pump()
        self._meter.worked(began)

    def pump(self) -> None:
        """Writes as long as the transport accepts it."""
        self._is_due = False
        transport, outbox = self.transport, self._outbox
        if transport is None or transport.is_closing():
            return
        given = 0
        while self._blocked_at is None and given < PUMP_BYTES:
            buffers = outbox.next_write()
            if not buffers:
                break
            given += sum(map(len, buffers))
            transport.writelines(buffers)
            if self._blocked_at is None:
                self.report_unneeded(outbox.drained())
        self._meter.bytes_out += given
        self.sent_bytes += given
        if given >= PUMP_BYTES:
            self.pump_later()
        if outbox.first_bytes > UNREAD_BYTES:
            self._hold(HELD_OUTBOX)
        else:
            self._let_go(HELD_OUTBOX)
        if self.closing and not outbox:
            transport.close()

    def report_unneeded(self, slabs: list[int]) -> None:
        """Tells sync that these slabs are no longer needed."""
        if slabs:
            self._sync.slabs_written(slabs)

    def end(self) -> None:
        """The transport has ended: nothing more is written."""
        self.transport = None
        self.report_unneeded(self._outbox.clear())

"""What the election asks of sync before a master hands over (docs/ha.md). The programs of workers must have the answers
to everything it has carried out: they would ask the next master for it again when its links end. And the next master
must have the files, above all those that were changed by a request that was answered."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.election import HeldChanges
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.wire import commands
from clusterd.wire.payloads import text_of
from clusterd.wire.results import dump_json

LOOK_S = 0.02
NOTICED_S = 1.0
"""A changed file is in the manifest by then."""
LONGEST_S = 60.0
READ_S = 0.05
"""By then sync has read the store's last answers."""
SETTLE_S = 1.0
"""The longest wait for a worker that takes its answers slowly."""
CHANGES_S = 0.5
"""The longest wait for requests that change files; the election asks again."""


class HandingOver:
    """`local` are its commands."""

    def __init__(self, context: Context, count: Callable[[], int], files: Callable[[str], dict[str, Any]]) -> None:
        """`count`: answers that exist but that their askers have not taken yet. `files`: what `status` says of a
        worker's files."""
        self._context, self._count, self._files = context, count, files
        self._seen_at = float("-inf")
        self._scanning = asyncio.Lock()
        self.local: dict[str, Handler] = {
            commands.HOLD: self.hold,
            commands.LACKING: self.lacking,
            commands.SETTLE: self.settle,
        }

    async def hold(self, client: Peer, payload: bytes) -> bytes:
        """`{seconds}`: no request of the API begins to change anything for so long; 0: they may again. The answer is
        HeldChanges. Raises ClusterError 1000."""
        gate, clock = self._context.changes, self._context.clock
        try:
            for_s = float(payload)
        except ValueError:
            raise ClusterError(1000, "a number of seconds is missing") from None
        if gate is None or not for_s > 0:
            if gate is not None:
                gate.open()
            return msgspec.json.encode(HeldChanges())
        runs = await gate.close(min(for_s, LONGEST_S), CHANGES_S)
        if runs or gate.changed_at is None:
            return msgspec.json.encode(HeldChanges(runs))
        try:
            async with self._scanning:  # whoever asks again has not waited for the end of a walk
                if gate.changed_at > self._seen_at:
                    began = clock.monotonic()
                    await self._context.manifests.scan(fresh=True)
                    self._seen_at = began
        except ScanFailed as failure:
            failing = self._context.manifests.failing_since
            if failing is None or gate.changed_at >= failing - NOTICED_S:
                raise ClusterError(1000, f"what was changed a moment ago cannot be carried to it: {failure}") from None
            return msgspec.json.encode(HeldChanges())  # it was carried before that
        return msgspec.json.encode(HeldChanges("", clock.monotonic() - gate.changed_at))

    async def lacking(self, client: Peer, payload: bytes) -> bytes:
        """`{node}`: its row of `results` and the time, as `status` has them. That waits for the store, which takes no
        writes by now, and while it waits nothing is registered."""
        return dump_json(self._files(text_of(payload)))

    async def settle(self, client: Peer, payload: bytes) -> bytes:
        """Returns when all answers have been taken, or after SETTLE_S."""
        await asyncio.sleep(READ_S)
        for _ in range(int(SETTLE_S / LOOK_S)):
            if not self._count():
                break
            await asyncio.sleep(LOOK_S)
        return b""

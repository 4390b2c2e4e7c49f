"""A cache of sealed bodies, sealed once and sent any number of times: which are in slabs, and which may be dropped when
slabs are short."""

import asyncio
from collections.abc import Hashable, Sequence

from clusterd.clock import Clock
from clusterd.messages.bodies import SealChunk
from clusterd.sync.ports.pool_port import JobError, PoolPort
from clusterd.sync.ports.slabs import SlabPool
from hashing.segment import Segment
from ipc.descriptor import Descriptor

IDLE_S = 5.0
"""A body that nobody has asked for in this time is dropped."""


class _Body:
    __slots__ = ("has_slab", "sealing", "used_at", "wanted")
    sealing: "asyncio.Task[Descriptor]"

    def __init__(self, now: float) -> None:
        self.has_slab = False
        self.used_at = now
        self.wanted = 0


class SealedBodyCache:
    """Bodies by key. The caller guarantees that equal keys mean equal bytes.

    Each cached body holds its slab once; each body handed out holds it once more, until `SlabPool.sent` or `drop`.
    Bodies that net is still sending survive being dropped here."""

    def __init__(self, jobs: PoolPort, slabs: SlabPool, clock: Clock) -> None:
        self._jobs = jobs
        self._slabs = slabs
        self._clock = clock
        self._bodies: dict[Hashable, _Body] = {}
        self._once = 0
        slabs.on_short = self._drop_oldest

    async def get(self, key: Hashable, prefix: bytes, segments: Sequence[Segment]) -> Descriptor:
        """The sealed body of `prefix` + the bytes of `segments`; its slab is held once for the caller. Raises JobError.

        If the caller is cancelled nothing is lost: the body stays for others, or is dropped later."""
        body = self._bodies.get(key) or self._begin(key, prefix, segments)
        body.wanted += 1
        try:
            found = await asyncio.shield(body.sealing)
            self._slabs.hold(found.slab)
        finally:
            body.wanted -= 1
            body.used_at = self._clock.monotonic()
            self._slabs.wake()  # if the caller was cancelled, the body is only kept now
        return found

    def prepare(self, key: Hashable, prefix: bytes, segments: Sequence[Segment]) -> None:
        """Begins to seal it if a slab is free."""
        if key not in self._bodies and self._slabs.free:
            self._begin(key, prefix, segments)

    async def once(self, prefix: bytes, segments: Sequence[Segment]) -> Descriptor:
        """A body that nobody else will ask for. Otherwise like `get`."""
        self._once += 1
        key = ("once", self._once)
        try:
            return await self.get(key, prefix, segments)
        finally:
            body = self._bodies.get(key)
            if body is not None and body.sealing.done():
                await self._drop(key)

    @property
    def is_roomy(self) -> bool:
        """Whether half of the slabs are free or hold only cached bodies. While they are not, no peer may have a second
        body under way: otherwise peers that take nothing could hold all slabs as long as their requests wait."""
        spare = self._slabs.free
        for body in self._bodies.values():
            if not body.has_slab:
                spare -= 1
            elif self._is_spare(body):
                spare += 1
        return 2 * spare >= self._slabs.total

    async def tidy(self, now: float) -> None:
        """Drops bodies that nobody has asked for in a while. `now`: monotonic."""
        for key, body in list(self._bodies.items()):
            if now - body.used_at >= IDLE_S and body.sealing.done() and not body.wanted:
                await self._drop(key)

    def _begin(self, key: Hashable, prefix: bytes, segments: Sequence[Segment]) -> _Body:
        body = _Body(self._clock.monotonic())
        body.sealing = asyncio.create_task(self._seal(body, prefix, list(segments)))
        self._bodies[key] = body
        body.sealing.add_done_callback(lambda sealing: self._sealed(key, body, sealing))
        return body

    async def _seal(self, body: _Body, prefix: bytes, segments: list[Segment]) -> Descriptor:
        slab = await self._slabs.take()
        body.has_slab = True
        try:
            return (await self._jobs.run(SealChunk(prefix, segments, slab), urgent=True)).body
        except JobError:
            await self._slabs.drop_now(slab)
            raise

    def _sealed(self, key: Hashable, body: _Body, sealing: "asyncio.Task[Descriptor]") -> None:
        if (sealing.cancelled() or sealing.exception() is not None) and self._bodies.get(key) is body:
            del self._bodies[key]
        self._slabs.wake()  # nobody may want it: then it can make room

    async def _drop(self, key: Hashable) -> None:
        await self._slabs.drop_now(self._bodies.pop(key).sealing.result().slab)

    def _drop_oldest(self) -> bool:
        """Of the bodies that are only cached, the one whose last use is longest ago."""
        oldest: Hashable | None = None
        oldest_at = 0.0
        for key, body in self._bodies.items():
            if not self._is_spare(body):
                continue
            if oldest is None or body.used_at < oldest_at:
                oldest, oldest_at = key, body.used_at
        if oldest is None:
            return False
        return self._slabs.drop(self._bodies.pop(oldest).sealing.result().slab)

    def _is_spare(self, body: _Body) -> bool:
        """Whether it is only cached. A failed sealing is no body any more (`_sealed`), or holds no slab."""
        if body.wanted or not body.sealing.done() or body.sealing.exception() is not None:
            return False
        return self._slabs.is_kept_only(body.sealing.result().slab)

"""Sends packages to a peer (wire.md 4.3, 4.6, 4.7): chunks are sealed in the pool, a few are in flight, the next are
prepared."""

import asyncio
import os
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice

import msgspec

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.base import INLINE_BYTES
from clusterd.messages.bodies import DigestSegments
from clusterd.sync.links.caps import RESUME
from clusterd.sync.links.peer import Peer, tell
from clusterd.sync.links.sealed_bodies import SealedBodyCache
from clusterd.sync.ports.net_port import Flight, NotSent
from clusterd.sync.ports.pool_port import JobError, PoolPort, lane_for
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.tag_log import TagLog
from clusterd.wire import commands
from clusterd.wire.payloads import build_task_failure, build_words, parse_length, parse_task_id
from clusterd.wire.transfer import chunk_bytes
from hashing.segment import Segment
from ipc.descriptor import Descriptor

INLINE_CHUNK = INLINE_BYTES // 2
"""Packages up to this size are read by sync and sealed by net: a job would cost more than it saves."""
LOCAL_CHUNK = INLINE_BYTES - 32
"""The part of a long string that fits into a message with its id."""
NO_ANSWER = 3020
MOST_IN_FLIGHT = 3
SLOW_S = 2.0
SEALED_AHEAD = 2
SLOW_LINE = 512 * 1024
"""Bytes in a second. A whole chunk takes longer than 10 s then, and whatever else goes to this peer waits for its end:
keepalives would be given up. So the peer gets small chunks."""
SMALL_CHUNK = 512 * 1024
DIGESTED = 8 * 1024 * 1024
"""Bytes in a second that a very busy peer still reads for the digest of a whole file, before it answers its end."""


class Package(msgspec.Struct, frozen=True):
    """The concatenation of `segments`: `size` bytes with SHA-256 `sha256`.

    A package for several peers (`build` is not None) goes to all of them under `shared_path`: `build` numbers the
    common part, the first `shared` bytes, and names what follows it."""

    segments: list[Segment]
    size: int
    sha256: bytes
    shared: int = 0
    shared_path: str = ""
    build: tuple[int, bytes] | None = None


class Progress(msgspec.Struct):
    """A running sync, all of it as `status` shows it. Its task updates it."""

    peer: str
    kind: str
    step: str
    started_at: float
    done_bytes: int = 0
    total_bytes: int = 0


def package_name(node: str, now: float) -> str:
    """`{NODE}-{time}-{32 hex digits}.zip` (wire.md 5.4). `now`: wall clock."""
    return f"{node}-{now}-{uuid.uuid4().hex}.zip"


def slice_segments(segments: Sequence[Segment], offset: int, length: int) -> list[Segment]:
    """The part of a concatenation at `offset`, `length` bytes long."""
    chosen = []
    for segment in segments:
        if length <= 0:
            break
        if offset >= segment.length:
            offset -= segment.length
            continue
        taken = min(segment.length - offset, length)
        chosen.append(Segment(segment.path, segment.offset + offset, taken))
        length -= taken
        offset = 0
    return chosen


def read_segments(segments: Sequence[Segment]) -> bytes:
    """Their bytes; for small packages only."""
    parts = []
    for segment in segments:
        fd = os.open(segment.path, os.O_RDONLY)
        try:
            parts.append(os.pread(fd, segment.length, segment.offset))
        finally:
            os.close(fd)
    return b"".join(parts)


class PackagePiece(msgspec.Struct, frozen=True):
    """One chunk of a package. `key`: the same bytes under the same path for every worker; None: for this sending
    only."""

    offset: int
    length: int
    key: tuple[int, bytes, int] | None


def cut_package(package: Package, path: str, start: int = 0) -> list[PackagePiece]:
    """The chunks of a package sent under this path, from byte `start` on. The common part is cut independently of the
    individual part; a package of one chunk is not cut at all."""
    step = chunk_bytes(path)
    build = package.build if path == package.shared_path else None
    shared = package.shared if package.size > step else 0
    pieces = []
    for begin, stop, whole in ((0, shared, b""), (shared, package.size, None if build is None else build[1])):
        for offset in range(begin, stop, step):
            end = min(offset + step, stop)
            if end <= start:
                continue
            if offset < start:  # the rest of a chunk goes to nobody else
                pieces.append(PackagePiece(start, end - start, None))
                continue
            key = None if build is None or whole is None else (build[0], whole, offset)
            pieces.append(PackagePiece(offset, end - offset, key))
    return pieces


def cut_small(package: Package, start: int) -> list[PackagePiece]:
    """The rest of a package for a peer on a slow line."""
    size = package.size
    return [PackagePiece(offset, min(SMALL_CHUNK, size - offset), None) for offset in range(start, size, SMALL_CHUNK)]


def note_pace(peer: Peer, length: int, took_s: float) -> None:
    """Records how long a chunk of `length` bytes took to reach the peer. The last chunks of a package are too small to
    tell."""
    if length >= SMALL_CHUNK:
        peer.is_slow = took_s > length / SLOW_LINE


class ChunkWindow:
    """How many chunks may be in flight to one peer. A slow peer holds no more than one slab."""

    def __init__(self) -> None:
        self.size = 2

    def answered(self, after_s: float) -> None:
        """A chunk was answered `after_s` seconds after it was sent."""
        self.size = 1 if after_s > SLOW_S else min(self.size + 1, MOST_IN_FLIGHT)


class Sender:
    """Sends packages over any link. Between two sendings it holds only sealed bodies."""

    def __init__(self, jobs: PoolPort, slabs: SlabPool, clock: Clock) -> None:
        self._jobs = jobs
        self._slabs = slabs
        self._clock = clock
        self.bodies = SealedBodyCache(jobs, slabs, clock)

    async def send(
        self, peer: Peer, node: str, command: str, package: Package, log: TagLog, progress: Progress
    ) -> None:
        """Asks for a task id with `command`, sends the file, ends with the command of FILE_SENT; adapts the peer's
        limit (wire.md 5.7).

        Logs the lines of 9.3/9.4. On failure tells the peer with the command of FILE_NOT_SENT and raises
        ClusterError."""
        log.debug("Sending zip file.")
        progress.step = "sending"
        progress.done_bytes, progress.total_bytes = 0, package.size
        task_id: str | None = None
        sending_s = 0.0
        try:
            task_id = parse_task_id(await peer.request(command))
            await peer.note_sending(command, task_id, is_open=True)
            started, sending_s = self._clock.monotonic(), float("inf")
            with self._path(peer, node, package) as path:
                sent = await self._transfer(peer, path, package, task_id, progress)
            sending_s = self._clock.monotonic() - started
            try:
                await peer.request(commands.FILE_SENT[command], build_words(task_id, path[1:]))
            except ClusterError:
                # After an interruption the peer does not know the task any more and must answer 3027 (5.7).
                if task_id not in peer.interrupted:
                    raise
            is_cut = task_id in peer.interrupted
        except (ClusterError, JobError, OSError) as failure:
            error = failure if isinstance(failure, ClusterError) else ClusterError(1000, str(failure))
            log.error(f"Error sending zip file: {error}")
            self._log_limit(log, peer.zip_limit.sending_ended(sending_s))
            peer.spawn(tell(peer, commands.FILE_NOT_SENT[command], build_task_failure(task_id, error)))  # wire.md 4.7
            raise error from failure
        finally:
            if task_id is not None:
                await asyncio.shield(peer.note_sending(command, task_id, is_open=False))
        if is_cut:
            log.debug(peer.zip_limit.interrupted(sent))
            raise ClusterError(3039)
        log.debug("Zip file sent.")
        self._log_limit(log, peer.zip_limit.sending_ended(sending_s))

    @contextmanager
    def _path(self, peer: Peer, node: str, package: Package) -> Iterator[str]:
        """Where the peer keeps the package: its own path, unless it shares one, which no two transfers of a link use at
        a time."""
        if not package.shared_path or package.shared_path in peer.paths:
            yield f"/queue/cluster/{node}/{package_name(node, self._clock.wall())}"
            return
        peer.paths.add(package.shared_path)
        try:
            yield package.shared_path
        finally:
            peer.paths.discard(package.shared_path)

    async def _transfer(self, peer: Peer, path: str, package: Package, task_id: str, progress: Progress) -> int:
        """Runs new_file to file_end. Returns how many bytes were sent: not all of them if the peer cancelled early."""
        start = await self._resumed(peer, package)
        await peer.request(commands.NEW_FILE, path.encode())
        prefix = f"{path} ".encode()
        sha256 = package.sha256
        if package.size <= INLINE_CHUNK:
            if package.size:
                await peer.request(commands.FILE_UPD, prefix + read_segments(package.segments))
            progress.done_bytes = arrived = package.size
        else:
            arrived = await self._send_chunks(peer, path, package, start, task_id, progress)
            if arrived < package.size:
                cut = slice_segments(package.segments, 0, arrived)
                sha256 = (await self._jobs.run(DigestSegments(cut), lane=lane_for(size=arrived))).sha256
        timeout_s = peer.timeout_s + arrived / DIGESTED
        await peer.request(commands.FILE_END, prefix + sha256, timeout_s=timeout_s)
        return arrived - start

    async def _resumed(self, peer: Peer, package: Package) -> int:
        """How many bytes of the package the peer kept from a transfer that was cut off; the file continues after them.

        Raises ClusterError for an impossible number."""
        if peer.info.kind != "worker" or RESUME not in peer.capabilities or package.size <= INLINE_CHUNK:
            return 0
        answer = await peer.request(commands.RESUME_FILE, f"{package.sha256.hex()} {package.size}".encode())
        held = parse_length(answer)
        if held > package.size:
            raise ClusterError(1000, f"{peer.name} says that it has {held} bytes of a package of {package.size}")
        return held

    async def _send_chunks(
        self, peer: Peer, path: str, package: Package, start: int, task_id: str, progress: Progress
    ) -> int:
        """Sends all chunks after `start` in order, several in flight. Returns the position reached: the end, or less if
        the peer cancelled."""
        window = ChunkWindow()
        flying: deque[tuple[Flight, float, int]] = deque()
        is_small = peer.is_slow
        waiting = deque(cut_small(package, start) if is_small else cut_package(package, path, start))
        progress.done_bytes = arrived = start
        arrived_at = self._clock.monotonic()

        async def arrive() -> None:
            nonlocal arrived, arrived_at
            flight, begun_at, stop = flying.popleft()
            await peer.response_of(commands.FILE_UPD, flight)
            now = self._clock.monotonic()
            window.answered(now - begun_at)
            note_pace(peer, stop - arrived, now - max(begun_at, arrived_at))
            progress.done_bytes = arrived = stop
            arrived_at = now

        try:
            while waiting:
                if peer.is_slow and not is_small:
                    is_small, waiting = True, deque(cut_small(package, waiting[0].offset))
                piece = waiting.popleft()
                for following in islice(waiting, SEALED_AHEAD):
                    self._prepare(path, package, following)
                while flying and not self.bodies.is_roomy:
                    await arrive()
                body = await self._body(path, package, piece)
                try:
                    while len(flying) >= window.size:
                        await arrive()
                except BaseException:
                    await self._slabs.drop_now(body.slab)
                    raise
                if task_id in peer.interrupted:
                    await self._slabs.drop_now(body.slab)
                    break
                # Each waits for those before it, too.
                timeout_s = peer.timeout_s * (len(flying) + 1)
                flight = await peer.begin(commands.FILE_UPD, body=body, timeout_s=timeout_s)
                flying.append((flight, self._clock.monotonic(), piece.offset + piece.length))
            while flying:
                await arrive()
        finally:
            for flight, _, _ in flying:
                flight.forget()
        return arrived

    def _prepare(self, path: str, package: Package, piece: "PackagePiece") -> None:
        if piece.key is not None:
            segments = slice_segments(package.segments, piece.offset, piece.length)
            self.bodies.prepare((path, piece.key), build_words(path, b""), segments)

    async def _body(self, path: str, package: Package, piece: "PackagePiece") -> Descriptor:
        prefix = build_words(path, b"")
        segments = slice_segments(package.segments, piece.offset, piece.length)
        if piece.key is None:
            return await self.bodies.once(prefix, segments)
        return await self.bodies.get((path, piece.key), prefix, segments)

    async def send_file(self, peer: Peer, path: str, segments: list[Segment], size: int) -> None:
        """Sends a single file without a task (dapi.md 0.6). Raises ClusterError, JobError, OSError."""
        digested = await self._jobs.run(DigestSegments(segments), lane=lane_for(size=size))
        package = Package(segments, size, digested.sha256)
        progress = Progress(peer.name, "file", "sending", self._clock.wall(), total_bytes=size)
        await self._transfer(peer, path, package, "", progress)

    async def send_string(self, peer: Peer, content: bytes | Sequence[Segment]) -> str:
        """Sends a peer a long string (wire.md 4.4); returns the id that it chose. Raises ClusterError 3016 if that
        fails. A peer that has not said an id in time is told by `err_str` that nothing comes: it may still reserve
        memory for all of it, and a stock node keeps that until the link ends."""
        size = len(content) if isinstance(content, bytes) else sum(segment.length for segment in content)
        length = str(size).encode()
        try:
            string_id = parse_task_id(await peer.request(commands.NEW_STR, length))
        except ClusterError as failure:
            if failure.code == NO_ANSWER and not isinstance(failure, NotSent):  # else it may end another of this length
                with suppress(ClusterError):  # too much waits for it already
                    peer.answer_late(commands.ERR_STR, length)
            raise ClusterError(3016, str(failure)) from failure
        try:
            if isinstance(content, bytes):
                await self._send_open_string(peer, string_id, content)
            elif peer.info.kind == "local":
                # Nothing is sealed there.
                for offset in range(0, size, LOCAL_CHUNK):
                    part = read_segments(slice_segments(content, offset, LOCAL_CHUNK))
                    await peer.request(commands.STR_UPD, build_words(string_id, part))
            else:
                await self._send_sealed_string(peer, string_id, content, size)
        except (ClusterError, JobError, OSError) as failure:
            raise ClusterError(3016, str(failure)) from failure
        return string_id

    async def _send_open_string(self, peer: Peer, string_id: str, content: bytes) -> None:
        for offset in range(0, len(content), INLINE_CHUNK):
            await peer.request(commands.STR_UPD, build_words(string_id, content[offset : offset + INLINE_CHUNK]))

    async def _send_sealed_string(self, peer: Peer, string_id: str, content: Sequence[Segment], size: int) -> None:
        if size <= INLINE_CHUNK:
            if size:
                await peer.request(commands.STR_UPD, build_words(string_id, read_segments(content)))
            return
        offset = 0
        while offset < size:
            length = min(SMALL_CHUNK if peer.is_slow else chunk_bytes(string_id), size - offset)
            body = await self.bodies.once(build_words(string_id, b""), slice_segments(content, offset, length))
            begun_at = self._clock.monotonic()
            await peer.request(commands.STR_UPD, body=body)
            note_pace(peer, length, self._clock.monotonic() - begun_at)
            offset += length

    async def seal(self, payload: bytes, more: Sequence[Segment] = ()) -> Descriptor:
        """Seals a request's payload (followed by the bytes of `more`) in the pool, as a body for `Peer.request`. Raises
        JobError."""
        return await self.bodies.once(payload, more)

    @staticmethod
    def _log_limit(log: TagLog, line: str | None) -> None:
        if line is not None:
            log.debug(line)

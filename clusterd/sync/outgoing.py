"""Sending a package to a peer (wire.md 4.3, 4.6, 4.7): chunks sealed in the pool, one in flight, the next one ready."""

import asyncio
import os
import time
import uuid
from collections.abc import Sequence

import msgspec

from clusterd.errors import ClusterError
from clusterd.sync.journal import Journal
from clusterd.sync.peer import Peer
from clusterd.sync.pool_port import JobError, PoolPort
from clusterd.sync.slabs import SlabPool
from clusterd.wire.payloads import build_task_failure, build_words, parse_task_id
from clusterd.wire.transfer import chunk_bytes
from ipc.descriptor import Descriptor
from ipc.messages import INLINE_BYTES, Digested, DigestSegments, SealChunk, Sealed, Segment

INLINE_CHUNK = INLINE_BYTES // 2
"""Packages up to this size are read by sync and sealed by net: a job would cost more than it saves."""
LOCAL_CHUNK = INLINE_BYTES - 32
"""As much of a long string as fits into a message with its id."""


class Package(msgspec.Struct, frozen=True):
    """The concatenation of `segments`: `size` bytes with SHA-256 `sha256`."""

    segments: list[Segment]
    size: int
    sha256: bytes


class Progress(msgspec.Struct):
    """What `status` shows of a sync under way. Written by the task that does it."""

    peer: str
    kind: str
    step: str
    started_at: float
    done_bytes: int = 0
    total_bytes: int = 0


class Interrupted(Exception):
    """The peer cancelled the task after `sent_bytes`."""

    def __init__(self, sent_bytes: int) -> None:
        super().__init__(f"cancelled by the peer after {sent_bytes} bytes")
        self.sent_bytes = sent_bytes


def package_name(node: str) -> str:
    """`{NODE}-{time}-{32 hex digits}.zip` (wire.md 5.4)."""
    return f"{node}-{time.time()}-{uuid.uuid4().hex}.zip"


def slice_segments(segments: Sequence[Segment], offset: int, length: int) -> list[Segment]:
    """The part of a concatenation that lies at `offset`, `length` bytes."""
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


class Sender:
    """Sends packages over any link. Holds no state between two sendings but chunks sealed in vain."""

    def __init__(self, jobs: PoolPort, slabs: SlabPool) -> None:
        self._jobs = jobs
        self._slabs = slabs
        self._leftover: set[asyncio.Task[None]] = set()

    async def send(
        self, peer: Peer, node: str, command: str, package: Package, journal: Journal, progress: Progress
    ) -> None:
        """Ask for a task id with `command`, send the file, end with `{command}_e`; keep the peer's limit (wire.md 5.7).

        Logs the lines of 9.3/9.4. On failure tells the peer with `{command}_r` and raises ClusterError."""
        journal.debug("Sending zip file.")
        progress.step = "sending"
        progress.total_bytes = package.size
        task_id: str | None = None
        transfer_started: float | None = None
        try:
            task_id = parse_task_id(await peer.request(command))
            await peer.note_sending(command, task_id, is_open=True)
            transfer_started = time.monotonic()
            path = f"/queue/cluster/{node}/{package_name(node)}"
            cut_at = await self._transfer(peer, path, package, task_id, progress)
            sending_s = time.monotonic() - transfer_started
            transfer_started = None
            try:
                await peer.request(f"{command}_e", build_words(task_id, path[1:]))
            except ClusterError:
                # After an interruption the peer does not know the task any more: 3027 is what it has to say (5.7).
                if cut_at is None:
                    raise
        except (ClusterError, JobError, OSError) as failure:
            error = failure if isinstance(failure, ClusterError) else ClusterError(1000, str(failure))
            journal.error(f"Error sending zip file: {error}")
            self._log_limit(journal, peer.zip_limit.ended(0.0 if transfer_started is None else float("inf")))
            peer.spawn(self._tell(peer, command, task_id, error))
            raise error from failure
        finally:
            if task_id is not None:
                await asyncio.shield(peer.note_sending(command, task_id, is_open=False))
        if cut_at is not None:
            journal.debug(peer.zip_limit.interrupted(cut_at))
            raise ClusterError(3039)
        journal.debug("Zip file sent.")
        self._log_limit(journal, peer.zip_limit.ended(sending_s))

    async def _transfer(self, peer: Peer, path: str, package: Package, task_id: str, progress: Progress) -> int | None:
        """new_file to file_end. Returns how many bytes went out if the peer cancelled, else None."""
        await peer.request("new_file", path.encode())
        prefix = f"{path} ".encode()
        sha256 = package.sha256
        if package.size <= INLINE_CHUNK:
            if package.size:
                await peer.request("file_upd", prefix + read_segments(package.segments))
            progress.done_bytes = package.size
        else:
            sent = await self._send_chunks(peer, path, package, task_id, progress)
            if sent < package.size:
                cut = slice_segments(package.segments, 0, sent)
                sha256 = (await self._jobs.run(DigestSegments(cut), Digested, urgent=True)).sha256
                await peer.request("file_end", prefix + sha256)
                return sent
        await peer.request("file_end", prefix + sha256)
        return None

    async def _send_chunks(self, peer: Peer, path: str, package: Package, task_id: str, progress: Progress) -> int:
        chunk, prefix = chunk_bytes(path), build_words(path, b"")
        sealing: asyncio.Task[Descriptor] | None = self._seal(prefix, package, 0, chunk)
        sent = 0
        try:
            while sealing is not None:
                body = await asyncio.shield(sealing)
                sealing = None
                following = sent + chunk
                if following < package.size and task_id not in peer.interrupted:
                    sealing = self._seal(prefix, package, following, chunk)
                await peer.request("file_upd", body=body)
                sent = min(following, package.size)
                progress.done_bytes = sent
                if task_id in peer.interrupted:
                    break
        finally:
            if sealing is not None:
                self._drop(sealing)
        return sent

    async def send_file(self, peer: Peer, path: str, segments: list[Segment], size: int) -> None:
        """A single file, outside of any task (dapi.md 0.6). Raises ClusterError, JobError, OSError."""
        digested = await self._jobs.run(DigestSegments(segments), Digested, urgent=True)
        package = Package(segments, size, digested.sha256)
        progress = Progress(peer.name, "file", "sending", time.time(), total_bytes=size)
        await self._transfer(peer, path, package, "", progress)

    async def send_string(self, peer: Peer, content: bytes | Sequence[Segment]) -> str:
        """Give a peer a long string (wire.md 4.4); returns the id that it chose. Raises ClusterError 3016 when it could not be
        given: the peer is then told by `err_str` that none comes."""
        size = len(content) if isinstance(content, bytes) else sum(segment.length for segment in content)
        try:
            string_id = parse_task_id(await peer.request("new_str", str(size).encode()))
        except ClusterError as failure:
            raise ClusterError(3016, str(failure)) from failure
        try:
            if isinstance(content, bytes):
                await self._send_open_string(peer, string_id, content)
            elif peer.info.kind == "local":
                # Nothing is sealed there.
                for offset in range(0, size, LOCAL_CHUNK):
                    part = read_segments(slice_segments(content, offset, LOCAL_CHUNK))
                    await peer.request("str_upd", build_words(string_id, part))
            else:
                await self._send_sealed_string(peer, string_id, content, size)
        except (ClusterError, JobError, OSError) as failure:
            raise ClusterError(3016, str(failure)) from failure
        return string_id

    async def _send_open_string(self, peer: Peer, string_id: str, content: bytes) -> None:
        for offset in range(0, len(content), INLINE_CHUNK):
            await peer.request("str_upd", build_words(string_id, content[offset : offset + INLINE_CHUNK]))

    async def _send_sealed_string(self, peer: Peer, string_id: str, content: Sequence[Segment], size: int) -> None:
        if size <= INLINE_CHUNK:
            if size:
                await peer.request("str_upd", build_words(string_id, read_segments(content)))
            return
        chunk = chunk_bytes(string_id)
        for offset in range(0, size, chunk):
            body = await self._sealed(build_words(string_id, b""), slice_segments(content, offset, chunk))
            await peer.request("str_upd", body=body)

    async def seal(self, payload: bytes, more: Sequence[Segment] = ()) -> Descriptor:
        """A request's payload (with the bytes of `more` behind it) as a body for `Peer.request`, sealed in the pool.
        Raises JobError."""
        return await self._sealed(payload, list(more))

    async def _sealed(self, prefix: bytes, segments: list[Segment]) -> Descriptor:
        """Like `_seal_chunk`, for callers that may be cancelled: the slab is free when the job has ended, never before."""
        sealing = asyncio.create_task(self._seal_chunk(prefix, segments))
        try:
            return await asyncio.shield(sealing)
        except asyncio.CancelledError:
            self._drop(sealing)
            raise

    def _seal(self, prefix: bytes, package: Package, offset: int, length: int) -> "asyncio.Task[Descriptor]":
        return asyncio.create_task(self._seal_chunk(prefix, slice_segments(package.segments, offset, length)))

    async def _seal_chunk(self, prefix: bytes, segments: list[Segment]) -> Descriptor:
        slab = await self._slabs.take()
        try:
            return (await self._jobs.run(SealChunk(prefix, segments, slab), Sealed, urgent=True)).body
        except BaseException:
            await asyncio.shield(self._slabs.give_back([slab]))
            raise

    def _drop(self, sealing: "asyncio.Task[Descriptor]") -> None:
        """A chunk that will not be sent: its slab is free once the job has ended (never before: it writes there)."""

        async def give_back() -> None:
            try:
                body = await sealing
            except JobError:
                return
            await self._slabs.give_back([body.slab])

        task = asyncio.create_task(give_back())
        self._leftover.add(task)
        task.add_done_callback(self._leftover.discard)

    @staticmethod
    async def _tell(peer: Peer, command: str, task_id: str | None, error: ClusterError) -> None:
        """The error notice of wire.md 4.7."""
        try:
            await peer.request(f"{command}_r", build_task_failure(task_id, error))
        except ClusterError:
            return

    @staticmethod
    def _log_limit(journal: Journal, line: str | None) -> None:
        if line is not None:
            journal.debug(line)

"""Files that one link is sending into the spool (wire.md 4.3).

wire/transfer.py decides which names and sizes are allowed; here jobs store the bytes in the order of their chunks.
"""

import asyncio
import os
from collections.abc import Callable

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.bodies import ChunkTarget, DigestSegments
from clusterd.settings import Limits
from clusterd.sync.links.incoming_strings import IncomingStrings, size_of, store_chunk
from clusterd.sync.links.partials import Claim, Partial, Partials
from clusterd.sync.ports.pool_port import JobError, PoolPort, lane_for
from clusterd.sync.ports.spool import Spool
from clusterd.wire import commands
from clusterd.wire.payloads import (
    MAX_PATH_BYTES,
    parse_file_end,
    parse_package_claim,
    parse_task_path,
    split_word,
)
from clusterd.wire.transfer import Files, IncomingFile
from hashing.segment import Segment
from ipc.descriptor import Descriptor

FILES_PER_LINK = 4


class Awaited(msgspec.Struct, frozen=True):
    """A task of ours that waits for a file from the peer. The file's `place` is its spool path."""

    task_id: str
    file: "asyncio.Future[IncomingFile]"

    @property
    def arrived(self) -> IncomingFile | None:
        """The file, if it is there: also when its task was cancelled in the moment in which it came."""
        if not self.file.done() or self.file.cancelled() or self.file.exception() is not None:
            return None
        return self.file.result()


class Refusal(Exception):
    """A request that is answered with `err` and plain text, as stock does for checksums."""


class Incoming:
    """Files of one link, and its `strings`. `node`: the connection's worker name (the name of its directory on both
    ends)."""

    def __init__(
        self,
        node: str,
        spool: Spool,
        jobs: PoolPort,
        *,
        file_limit: int,
        limits: Limits,
        now: Callable[[], float],
        partials: Partials | None = None,
        sender: str = "",
    ) -> None:
        """`partials`: keeps files that are cut off (capability `resume`). `sender`: name of the other end; `node` if
        empty."""
        self._sender = sender or node
        self._spool = spool
        self._jobs = jobs
        self._files = Files(node, max_bytes=file_limit, max_count=FILES_PER_LINK)
        self._awaited: dict[str, Awaited] = {}
        self._order = asyncio.Lock()
        self.strings = IncomingStrings(self._sender, spool, jobs, self._order, limits, now)
        self._partials = partials
        self._claimed: tuple[Claim, Partial | None] | None = None
        self._claims: dict[str, Claim] = {}
        self._keeping: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def set_bounds(self, file_limit: int, limits: Limits) -> None:
        """What a reload has changed."""
        self._files.max_bytes = file_limit
        self.strings.set_bounds(limits)

    # ---- tasks that wait for a file --------------------------------------------------------------------------------

    def expect(self, task_id: str) -> Awaited:
        """From now on a file for this task may arrive. On a link that has ended the wait is over at once: the request
        that began it may have been read just before the end."""
        awaited = Awaited(task_id, asyncio.get_running_loop().create_future())
        if self._is_closed:
            awaited.file.cancel()
        else:
            self._awaited[task_id] = awaited
        return awaited

    def forget(self, task_id: str) -> None:
        """The task no longer waits; after the last one, files that nobody can take are removed, and a claim whose file
        was never begun is not that of the next one."""
        self._awaited.pop(task_id, None)
        if not self._awaited:
            self._drop_claimed()
            self._let_go(self._files.take_all())

    def awaited(self, task_id: str) -> Awaited | None:
        return self._awaited.get(task_id)

    @property
    def awaited_count(self) -> int:
        return len(self._awaited)

    # ---- files -----------------------------------------------------------------------------------------------------

    async def resume_file(self, payload: bytes) -> int:
        """Announces the next file as the package with this SHA-256 and size. Returns how much of it is stored already:
        its chunks begin after that. Waits for a chunk that came before the last link ended and is still being stored.
        Raises ClusterError 1000 when no file is awaited, or where nothing is kept."""
        claim = Claim(*parse_package_claim(payload))
        if self._partials is None:
            raise ClusterError(1000, "nothing is kept of packages that were cut off")
        await self._partials.settled()
        if not self._awaited:
            raise ClusterError(1000, "no task waits for a file")
        self._drop_claimed()
        partial = self._partials.take(claim)
        self._claimed = claim, partial
        return 0 if partial is None else partial.received

    def _drop_claimed(self) -> None:
        """The package claimed last did not arrive."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None and claimed[1] is not None and self._partials is not None:
            self._partials.keep(claimed[0], claimed[1])

    def new_file(self, payload: bytes) -> None:
        """Begins a file. Raises ClusterError 1000 when none is awaited or the name is not one of ours (W1);
        SpoolRefused."""
        try:
            path = payload.decode()
        except UnicodeDecodeError as problem:
            raise ClusterError(1000, str(problem)) from None
        claim, partial = self._claimed or (None, None)
        self._spool.admit(self._sender, 0, 0)
        spool_path = self._spool.create("package") if partial is None else partial.path
        try:
            file, earlier = self._files.begin(path, spool_path, awaited=bool(self._awaited))
        except ClusterError:
            if partial is None:
                self._spool.remove(spool_path)
            raise
        self._claimed = None
        if earlier is not None:
            self._let_go([earlier])
        if partial is not None:
            file.received = partial.received
        self._spool.ledger.charge(spool_path, self._sender, file.received)
        if claim is not None:
            self._claims[file.place] = claim

    async def file_chunk(self, payload: bytes, body: list[Descriptor] | None) -> None:
        """Stores `{path} {data}`, open or sealed. A file that cannot be stored is dropped."""
        async with self._order:
            if body is None:
                growing = [self._files.find(split_word(payload, MAX_PATH_BYTES)[0])]
            else:
                growing = [file for file in self._files if not file.complete]
            targets = [ChunkTarget(file.path, file.place, file.received, self._files.max_bytes) for file in growing]
            try:
                size = size_of(payload, body)
                self._spool.admit(self._sender, size, size + max((file.received for file in growing), default=0))
                stored = await store_chunk(self._jobs, targets, payload, body)
            except ClusterError:
                if len(growing) == 1:
                    self._drop_file(growing[0])
                raise
            # Not by its name: meanwhile the link may have ended, or another file of this name may have begun.
            (file,) = (one for one in growing if one.path == stored.name)
            if stored.problem:
                self._drop_file(file)
                raise self._spool.refused(stored.problem)
            self._files.accept(file, stored.size)
            self._spool.ledger.charge(file.place, self._sender, file.received)
            if not self._files.has(file):
                raise ClusterError(1000, f"nobody waits for {file.path!r} any more")

    async def end_file(self, payload: bytes) -> None:
        """Completes `{path} {SHA-256}`. Raises Refusal when the digest differs; the file is then removed."""
        async with self._order:
            end = parse_file_end(payload)
            file = self._files.find(end.path)
            job = DigestSegments([Segment(file.place, 0, file.received)])
            try:
                found = await self._jobs.run(job, lane=lane_for(size=file.received))
            except JobError as failure:
                self._drop_file(file)
                raise ClusterError(1000, str(failure)) from failure
            if found.sha256 != end.digest:
                self._drop_file(file)
                raise Refusal(commands.CHECKSUM_MISMATCH.decode())
            file.complete = True
            file.digest = found.sha256

    async def end_task(self, payload: bytes) -> None:
        """`{task id} {path}` (`*_e`): gives the file to the task. Raises ClusterError 3027 for an unknown task or file
        (W2).

        Only a complete file received on this link is taken; nothing else is touched. A stock sender goes on to this
        command although its chunks were refused (C4): no file will come then, and the task waits no longer."""
        end = parse_task_path(payload)
        async with self._order:  # a sender does not wait for long until the digest of a large file is known
            file = self._files.claim(end.path.removeprefix("/"))
        awaited = self._awaited.get(end.task_id)
        if file is not None:
            self._claims.pop(file.place, None)
        if awaited is None or awaited.file.done():
            if file is not None:
                self._spool.remove(file.place)
            raise ClusterError(3027, end.task_id)
        if file is None:
            awaited.file.set_exception(ClusterError(3040, "it was refused, or what came is not what was sent"))
            raise ClusterError(3027, end.task_id)
        awaited.file.set_result(file)

    def keep(self, file: IncomingFile) -> None:
        """Keeps a complete file that its task gave up, for the next link: under another name, so that jobs still
        reading it fail."""
        path = self._spool.new_path("package")
        try:
            os.rename(file.place, path)
        except OSError:
            self._spool.remove(file.place)
            return
        self._spool.ledger.release(file.place)
        if self._partials is None:
            self._spool.remove(path)
            return
        self._spool.ledger.charge(path, self._sender, file.received)
        self._partials.keep(Claim(file.digest, file.received), Partial(path, file.received))

    def _drop_file(self, file: IncomingFile) -> None:
        """What came of it is of no use. One that was let go of meanwhile goes with its claim."""
        self._files.drop(file)
        self._claims.pop(file.place, None)
        self._spool.remove(file.place)

    def _let_go(self, files: list[IncomingFile]) -> None:
        """Nobody waits for these files any more. A chunk that a job is storing counts: it is waited for."""
        if not files or not self._order.locked():
            self._keep_or_remove(files)
            return
        keeping = asyncio.create_task(self._let_go_later(files))
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)
        if self._partials is not None:
            self._partials.expect(keeping)

    async def _let_go_later(self, files: list[IncomingFile]) -> None:
        async with self._order:
            self._keep_or_remove(files)

    def _keep_or_remove(self, files: list[IncomingFile]) -> None:
        """Resumable files are kept, the others removed."""
        for file in files:
            claim = self._claims.pop(file.place, None)
            if claim is None or self._partials is None:
                self._spool.remove(file.place)
            else:
                self._partials.keep(claim, Partial(file.place, file.received))

    # ---- end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The link has ended: only resumable files stay in the spool."""
        self._is_closed = True
        self._drop_claimed()
        self._let_go(self._files.take_all())
        self.strings.close()
        for awaited in self._awaited.values():
            awaited.file.cancel()
        self._awaited.clear()

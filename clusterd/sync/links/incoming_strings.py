"""Long strings that one link is sending into the spool (wire.md 4.4)."""

import asyncio
import errno
import os
import random
from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.messages.bodies import ChunkStored, ChunkTarget, StoreChunk
from clusterd.settings import Limits
from clusterd.sync.ports.pool_port import JobError, PoolPort
from clusterd.sync.ports.spool import Spool
from clusterd.wire.payloads import parse_length, split_word
from clusterd.wire.transfer import IncomingString, Strings
from hashing.segment import Segment
from ipc.descriptor import Descriptor


class SealViolation(ClusterError):
    """A large body was not sealed with our key: the link must be closed, as net does for small bodies (wire.md 1.2)."""

    def __init__(self) -> None:
        super().__init__(3025)


class IncomingStrings:
    """Strings of one link. `sender`: name of the other end; `order`: held while a chunk is stored; `received`: bytes of
    all strings so far, which shows whether something is still arriving."""

    def __init__(
        self,
        sender: str,
        spool: Spool,
        jobs: PoolPort,
        order: asyncio.Lock,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        self._sender = sender
        self._spool = spool
        self._jobs = jobs
        self._order = order
        self._now = now
        self._is_closed = False
        self._strings: Strings[str] = Strings(
            max_bytes=limits.string_bytes,
            max_count=limits.strings_per_link,
            idle_s=limits.string_idle_s,
            pick_id=lambda: random.getrandbits(32),
        )
        self.received = 0

    def set_bounds(self, limits: Limits) -> None:
        """What a reload has changed."""
        self._strings.set_bounds(
            max_bytes=limits.string_bytes, max_count=limits.strings_per_link, idle_s=limits.string_idle_s
        )

    def begin(self, payload: bytes) -> str:
        """`{length}`: begins a string and returns its id. Raises ClusterError 1000, SpoolRefused: there must be room
        for it now, but it takes no more than has come of it. Else a few nodes could keep all of the spool by saying
        so."""
        if self._is_closed:
            raise ClusterError(1000, "the link has ended")
        total = parse_length(payload)
        self.tidy()
        self._strings.admit(total)  # first: what no string may have says nothing about the room in the spool
        self._spool.admit(self._sender, total, total)
        path = self._spool.create("string")
        return self._strings.begin(total, path, self._now()).id

    async def chunk(self, payload: bytes, body: list[Descriptor] | None) -> None:
        """`{id} {data}`: stores a chunk. Bytes beyond the announced length are dropped silently, as in stock. A small
        chunk is written here: a job would cost more than it saves."""
        async with self._order:
            if body is None:
                name, data = split_word(payload)
                string = self._strings.find(name)
                self._admit([string], len(data))
                try:
                    _write_at(string.place, string.received, data[: string.total - string.received])
                except OSError as failure:
                    self.drop(name)
                    raise self._spool.refused(failure.strerror or str(failure)) from failure
                self._accept(string, len(data))
                return
            growing = list(self._strings)
            self._admit(growing, size_of(b"", body))
            targets = [
                ChunkTarget(string.id, string.place, string.received, string.total, truncate=True) for string in growing
            ]
            stored = await store_chunk(self._jobs, targets, b"", body)
            string = self._strings.find(stored.name)  # or it was dropped meanwhile, and its file with it
            if stored.problem:
                self.drop(stored.name)
                raise self._spool.refused(stored.problem)
            self._accept(string, stored.size)

    def _admit(self, strings: list[IncomingString[str]], size: int) -> None:
        """Raises SpoolRefused if so many more bytes are refused; they are of one of these strings. If there is only
        one it is dropped: its sender gives up (wire.md 4.4), and what has come would take the room of the next one."""
        try:
            self._spool.admit(self._sender, size, max([size, *(string.total for string in strings)]))
        except ClusterError:
            if len(strings) == 1:
                self.drop(strings[0].id)
            raise

    def _accept(self, string: IncomingString[str], size: int) -> None:
        string.accept(size, self._now())
        self.received += size
        self._spool.ledger.charge(string.place, self._sender, string.received)

    async def cancel(self, payload: bytes) -> str:
        """`err_str`: removes the first string of this length that has received nothing; returns its id, or `None`. Of
        one whose first chunk is being stored that is not so."""
        async with self._order:
            string = self._strings.abandon(parse_length(payload))
        if string is None:
            return "None"
        self._spool.remove(string.place)
        return string.id

    async def take(self, string_id: str) -> Segment:
        """The string that a command uses, as bytes of a spool file that the caller must remove; missing bytes are NUL,
        as in stock. Raises ClusterError 3035, SpoolRefused."""
        async with self._order:
            string = self._strings.take(string_id)
        if string.received < string.total:
            # What is missing has no blocks. Without a charge all of it would count as this node's own.
            self._spool.ledger.charge(string.place, self._sender, string.received)
            try:
                os.truncate(string.place, string.total)
            except OSError as failure:
                self._spool.remove(string.place)
                raise self._spool.refused(failure.strerror or str(failure)) from failure
        return Segment(string.place, 0, string.total)

    def drop(self, string_id: str) -> None:
        """Removes a string that a command has used, or that nobody will use."""
        try:
            self._spool.remove(self._strings.take(string_id).place)
        except ClusterError:
            # Stock peers also name strings that were never sent ("None", "Error ...").
            return

    def tidy(self) -> None:
        """Removes strings unused for long (R4): what they announced is kept free for them. Called now and then."""
        self._spool.remove(*(string.place for string in self._strings.expire(self._now())))

    def close(self) -> None:
        """The link has ended."""
        self._is_closed = True
        self._spool.remove(*(string.place for string in self._strings.take_all()))


def size_of(payload: bytes, body: list[Descriptor] | None) -> int:
    """Approximate size of a chunk's data: a sealed body is a third longer."""
    return len(payload) if body is None else sum(part.length for part in body) * 3 // 4


async def store_chunk(
    jobs: PoolPort, targets: list[ChunkTarget], payload: bytes, body: list[Descriptor] | None
) -> ChunkStored:
    """Stores a chunk of a file or string into the target that it names. Raises SealViolation, ClusterError 1000."""
    try:
        return await jobs.run(StoreChunk(targets, payload, body), urgent=True)
    except JobError as failure:
        if failure.kind == "bad-seal":
            raise SealViolation from failure
        raise ClusterError(1000, str(failure)) from failure


def _write_at(path: str, offset: int, data: bytes) -> None:
    """Raises OSError; a disk that takes only a part of it is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.pwrite(fd, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(fd)

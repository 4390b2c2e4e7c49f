"""Sends all agent groups to a worker that asks because its checksum differs (wire.md 6.4)."""

import asyncio
from collections.abc import Callable

from clusterd.errors import ClusterError
from clusterd.sync.agents.broadcasts import Broadcast
from clusterd.sync.agents.groups_reading import GroupsReader
from clusterd.sync.agents.info import log_result
from clusterd.sync.agents.worker_queue import groups_event, say_refused
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.wdb.client import DatabaseError
from clusterd.wire import commands
from clusterd.wire.payloads import parse_batch_result
from hashing.segment import Segment

SEND_ALL = "Agent-groups send full"


class _Everything:
    """All groups in one string, read once for `users` workers."""

    def __init__(self, task: "asyncio.Task[Broadcast | None]") -> None:
        self.task = task
        self.users = 0


class AllGroupsSender:
    """Does one sending at a time for each worker; workers that ask at the same time get the same string."""

    def __init__(self, context: Context, reader: GroupsReader, record_of: Callable[[Peer], WorkerRecord]) -> None:
        self._context = context
        self._reader = reader
        self._record_of = record_of
        self._all: _Everything | None = None
        self._asked: set[int] = set()
        self._started: dict[int, float | None] = {}
        """By link of a worker: when the last sending began; monotonic."""

    def joined(self, peer: Peer) -> None:
        self._started[peer.link] = None

    def left(self, peer: Peer) -> None:
        self._asked.discard(peer.link)
        self._started.pop(peer.link, None)

    def ask(self, peer: Peer) -> None:
        """`syn_w_g_c`."""
        if peer.link in self._started and peer.link not in self._asked:
            self._asked.add(peer.link)
            peer.spawn(self._send(peer))

    async def _send(self, peer: Peer) -> None:
        context = self._context
        log = context.tag_log(peer.tag, SEND_ALL)
        record = self._record_of(peer)
        log.info("Starting.")
        log.debug("Recalculating agent-group hash.")
        started, started_at = context.clock.monotonic(), context.clock.wall()
        self._started[peer.link] = started
        if self._all is None or self._all.task.done():
            self._all = _Everything(asyncio.create_task(self._reader.everything(log)))
        shared = self._all
        shared.users += 1
        size, problem = 0, ""
        try:
            everything = await asyncio.shield(shared.task)
            chunks = everything.chunks if everything else 0
            log.debug(f"Obtained {chunks} chunks of data in {context.clock.monotonic() - started:.3f}s.")
            if everything is None:
                spent = context.clock.monotonic() - started
                log.info(f"Finished in {spent:.3f}s. Updated 0 chunks.")
            else:
                string_id = await context.sender.send_string(peer, [Segment(everything.path, 0, everything.size)])
                size = everything.size
                log.debug("Sending chunks.")
                await peer.request(commands.SYN_G_M_W_C, string_id.encode())
            record.all_groups_started_at, record.all_groups_ended_at = started_at, context.clock.wall()
            record.all_groups_chunks = chunks
        except DatabaseError as failure:
            problem = str(failure)
            log.error(f"Could not obtain data from wazuh-db: {failure}")
        except (ClusterError, OSError) as failure:
            problem = str(failure)
            log.error(f"Error sending agent-groups information to {peer.name}: {failure}")
        finally:
            if size or problem:
                context.events.tell(groups_event(peer, 0, size, context.clock.monotonic() - started, problem))
            self._asked.discard(peer.link)
            shared.users -= 1
            self._drop_unused(shared)

    def _drop_unused(self, shared: _Everything) -> None:
        if shared.users:
            return
        if self._all is shared:
            # It may go on for a while after it is cancelled.
            self._all = None
        if not shared.task.done():
            shared.task.cancel()
            return
        read = None if shared.task.cancelled() or shared.task.exception() else shared.task.result()
        if read is not None:
            self._context.spool.remove(read.path)

    def finished(self, peer: Peer, payload: bytes) -> None:
        """`syn_wgc_e`; it may arrive before anything was recorded (C15)."""
        log = self._context.tag_log(peer.tag, SEND_ALL)
        log_result(log, self._context.clock, self._started.get(peer.link), parse_batch_result(payload))

    def refused(self, peer: Peer, payload: bytes) -> None:
        """`syn_wgc_err`."""
        say_refused(self._context, peer, SEND_ALL, payload)

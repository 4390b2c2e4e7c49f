"""Agent-groups, the master's side: changes to every worker once, everything to a worker that asks (wire.md 6.3, 6.4,
6.7)."""

import asyncio

from clusterd.sync.agents.all_groups import AllGroupsSender
from clusterd.sync.agents.broadcasts import GUARD, Broadcast, Broadcasts
from clusterd.sync.agents.groups_reading import GroupsReader
from clusterd.sync.agents.worker_queue import WorkerQueue
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.links.tags import MASTER
from clusterd.sync.ports.tag_log import Outage, TagLog
from clusterd.sync.ports.troubles import round_survives
from clusterd.wdb.client import DatabaseError

LOCAL = "Local agent-groups"


class AgentGroupsMaster:
    """Owns each worker's queue. `all_groups`: serves workers that ask for everything."""

    def __init__(self, context: Context, records: dict[str, WorkerRecord]) -> None:
        self._context = context
        self._records = records
        self._queues: dict[int, WorkerQueue] = {}
        self._outage = Outage(context.clock)
        self._guard = context.tag_log(MASTER, GUARD)
        self._broadcasts = Broadcasts(context)
        self._reader = GroupsReader(context, self._broadcasts)
        self.all_groups = AllGroupsSender(context, self._reader, self._record)

    # ---- workers come and go -----------------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        queue = WorkerQueue(self._context, self._broadcasts, peer, self._record)
        self._queues[peer.link] = queue
        self.all_groups.joined(peer)
        peer.spawn(queue.serve())

    def left(self, peer: Peer) -> None:
        queue = self._queues.pop(peer.link, None)
        if queue is not None:
            queue.left()
        self.all_groups.left(peer)

    def queue_of(self, peer: Peer) -> WorkerQueue:
        """Returns this worker's queue; an empty one if its link has just ended."""
        known = self._queues.get(peer.link)
        return known or WorkerQueue(self._context, self._broadcasts, peer, self._record)

    def _record(self, peer: Peer) -> WorkerRecord:
        return self._records.setdefault(peer.name, WorkerRecord())

    # ---- rounds ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs the task "Local agent-groups" for ever."""
        log = self._context.tag_log(MASTER, LOCAL)
        delay_s = self._context.settings.master.agent_group_start_delay_s
        log.info(f"Sleeping {delay_s:g}s before starting the agent-groups task, waiting for the workers connection.")
        await asyncio.sleep(delay_s)
        while True:
            with round_survives(self._guard, self._context.troubles, "broadcast of agent groups"):
                await self._round(log)
            await asyncio.sleep(self._context.settings.master.sync_agent_groups_s)

    async def _round(self, log: TagLog) -> None:
        log.info("Starting.")
        if not self._queues:
            log.info("No clients connected. Skipping.")
            return
        clock = self._context.clock
        started = clock.monotonic()
        made: list[Broadcast] = []
        try:
            await self._reader.changes(made)
        except DatabaseError as failure:
            self._drop(made)
            if self._outage.should_tell():
                log.error(f"Could not obtain data from wazuh-db: {failure}")
            return
        except BaseException:
            self._drop(made)
            raise
        if self._outage.is_over():
            self._guard.info("The agent database answers again.")
        chunks = sum(broadcast.chunks for broadcast in made)
        log.debug(f"Obtained {chunks} chunks of data in {clock.monotonic() - started:.3f}s.")
        for broadcast in made:
            self._hand_over(log, broadcast)
        log.info(f"Finished in {clock.monotonic() - started:.3f}s.")

    def _drop(self, made: list[Broadcast]) -> None:
        self._context.spool.remove(*(broadcast.path for broadcast in made))

    def _hand_over(self, log: TagLog, broadcast: Broadcast) -> None:
        """Adds the broadcast to the queue of every worker. Where all have left while it was read nobody gets it: its
        rows stay marked."""
        broadcast.is_lost = not self._queues
        self._broadcasts.add(broadcast)
        for queue in self._queues.values():
            if queue.put(broadcast):
                name = queue.peer.name
                log.debug2(f'Added broadcast request to execute "send_agent_groups_information" in {name}.')
        self._broadcasts.settle(broadcast)

"""Agent-groups, the master's side: changes to every worker once, everything to a worker that asks (wire.md 6.3, 6.4, 6.7).

With our own store a change counts as handed out only when every worker that was connected has acknowledged it; with a
wazuh-db it has been marked by being read, and the workers' comparison of checksums repairs what got lost.
"""

import asyncio
import contextlib
from collections import deque

import msgspec

from clusterd.errors import ClusterError, in_passing
from clusterd.messages.base import Segment
from clusterd.sync.agents.info import log_result
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.links.tags import MASTER
from clusterd.sync.ports.journal import Journal, Outage
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.ports.troubles import round_survives
from clusterd.wdb.batches import GROUPS_HEAD, GROUPS_TAIL, HANDED_OUT, BadString, Row, parse_chunk, rows_of
from clusterd.wdb.client import Conversation, DatabaseError
from clusterd.wire import commands
from clusterd.wire.payloads import BatchResult, parse_batch_result
from clusterd.wire.results import shorten

LOCAL = "Local agent-groups"
SEND = "Agent-groups send"
SEND_ALL = "Agent-groups send full"
GUARD = "Agent-groups guard"
CHUNKS_PER_STRING = 200
"""About 13 MB; more go in further strings."""
NO_ANSWER = 3020
ATTEMPTS = 5
"""How often a worker is given rows that it cannot write."""
TEXT_BYTES = 4096
MOST_WAITING = 32
"""Broadcasts that one worker may still have before it; one that is slower is left to the comparison of checksums."""
FUTURE_TOO = ', "clusterd_future": true'
"""Of our store: an agent registered before the master's clock was set back has groups, too (clusterd/store/groups.py)."""
EMPTY_CHUNKS = (b"[]", b'[{"data":[]}]')


class Broadcast:
    """A string of chunks on its way to the workers that were connected when it was made. `rows`: what it says of which agent
    (a hash of the groups), only where our store is to be told that they have arrived; `waiting`: links without a result."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.chunks = 0
        self.rows: dict[int, int] = {}
        self.confirmations: list[bytes] = []
        self.waiting: set[int] = set()
        self.is_lost = False


class _Everything:
    """All groups in one string, being read for `users` workers."""

    def __init__(self, task: "asyncio.Task[Broadcast | None]") -> None:
        self.task = task
        self.users = 0


class _Line:
    """The queue of one worker. `answer`: where the result of the broadcast under way goes. `is_behind`: it could not write
    what it was given, or is too slow; told once. `is_silent`: it did not answer the last message."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.queue: deque[Broadcast] = deque()
        self.is_behind = False
        self.is_silent = False
        self.wake = asyncio.Event()
        self.answer: asyncio.Future[BatchResult] | None = None
        self.started: float | None = None
        self.started_all: float | None = None
        self.asked_for_all = False


class AgentGroupsMaster:
    """Owner of the broadcasts under way and of each worker's line."""

    def __init__(self, context: Context, records: dict[str, WorkerRecord]) -> None:
        self._context = context
        self._records = records
        self._lines: dict[int, _Line] = {}
        self._open: list[Broadcast] = []
        self._all: _Everything | None = None
        self._outage = Outage(context.clock)
        self._guard = context.journal(MASTER, GUARD)
        self._tasks = Tasks(self._guard.error)

    # ---- workers come and go ---------------------------------------------------------------------------------------------

    def joined(self, peer: Peer) -> None:
        line = self._lines[peer.link] = _Line(peer)
        peer.spawn(self._serve(line))

    def left(self, peer: Peer) -> None:
        """What it has not acknowledged stays marked, and goes to everybody again."""
        self._lines.pop(peer.link, None)
        for subject in (_subject(peer), f"broadcasts to {peer.name}"):
            self._context.troubles.end(subject)
        for broadcast in list(self._open):
            if peer.link in broadcast.waiting:
                broadcast.waiting.discard(peer.link)
                broadcast.is_lost = True
                self._settle(broadcast)

    # ---- rounds ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The task "Local agent-groups", for ever."""
        journal = self._context.journal(MASTER, LOCAL)
        delay_s = self._context.settings.master.agent_group_start_delay_s
        journal.info(
            f"Sleeping {delay_s:g}s before starting the agent-groups task, waiting for the workers connection."
        )
        await asyncio.sleep(delay_s)
        while True:
            with round_survives(self._guard, self._context.troubles, "broadcast of agent groups"):
                await self._round(journal)
            await asyncio.sleep(self._context.settings.master.sync_agent_groups_s)

    async def _round(self, journal: Journal) -> None:
        journal.info("Starting.")
        if not self._lines:
            journal.info("No clients connected. Skipping.")
            return
        started = self._context.clock.monotonic()
        made: list[Broadcast] = []
        try:
            await self._gather(made)
        except DatabaseError as failure:
            self._drop(made)
            if self._outage.should_tell():
                journal.error(f"Could not obtain data from wazuh-db: {failure}")
            return
        except BaseException:
            self._drop(made)
            raise
        if self._outage.is_over():
            self._guard.info("The agent database answers again.")
        chunks = sum(broadcast.chunks for broadcast in made)
        journal.debug(f"Obtained {chunks} chunks of data in {self._context.clock.monotonic() - started:.3f}s.")
        for broadcast in made:
            self._hand_over(journal, broadcast)
        journal.info(f"Finished in {self._context.clock.monotonic() - started:.3f}s.")

    def _drop(self, made: list[Broadcast]) -> None:
        self._context.spool.remove(*(broadcast.path for broadcast in made))

    async def _gather(self, made: list[Broadcast]) -> None:
        """Read what changed into as many broadcasts as it takes. Raises DatabaseError, OSError."""
        database = self._context.database
        ours = await database.is_ours()
        async with database.conversation() as conversation:
            last_id = 0
            while True:
                broadcast = Broadcast(self._context.spool.new_path("groups"))
                made.append(broadcast)
                is_over, last_id = await self._fill(conversation, broadcast, last_id, ours)
                if is_over:
                    return

    async def _fill(
        self, conversation: Conversation, broadcast: Broadcast, last_id: int, ours: bool
    ) -> tuple[bool, int]:
        """Chunks into one broadcast. Returns whether that was all, and the last id read."""
        synced = "false" if ours else "true"
        with open(broadcast.path, "wb") as file:
            file.write(GROUPS_HEAD)
            status = "due"
            while status == "due" and broadcast.chunks < CHUNKS_PER_STRING:
                members = f'{FUTURE_TOO}, "last_id": {last_id}' if ours else ""
                request = (
                    f'global sync-agent-groups-get {{"condition": "sync_status", "set_synced": {synced}, '
                    f'"get_global_hash": true{members}}}'
                )
                status, chunk = await conversation.ask(request)
                if ours:
                    chunk, last_id = self._note_rows(broadcast, chunk, last_id)
                if chunk not in EMPTY_CHUNKS:
                    file.write((b", " if broadcast.chunks else b"") + msgspec.json.encode(chunk.decode()))
                    broadcast.chunks += 1
            file.write(GROUPS_TAIL)
            broadcast.size = file.tell()
        return status == "ok", last_id

    def _note_rows(self, broadcast: Broadcast, chunk: bytes, last_id: int) -> tuple[bytes, int]:
        """Remember what the chunk says of whom, without what is on its way already. Raises DatabaseError."""
        try:
            parsed = parse_chunk(chunk)
            rows = rows_of(parsed)
        except BadString as problem:
            raise DatabaseError(2007, f"groups that cannot be read: {problem}") from None
        if not rows:
            return chunk, last_id
        fresh = [n for n, row in enumerate(rows) if not self._is_under_way(row)]
        if len(fresh) < len(rows):
            data = b",".join(bytes(parsed.data[n]) for n in fresh)
            ending = (
                b"" if isinstance(parsed.hash, msgspec.UnsetType) else b',"hash":' + msgspec.json.encode(parsed.hash)
            )
            chunk = b'[{"data":[' + data + b"]" + ending + b"}]"
        if fresh:
            for n in fresh:
                broadcast.rows[rows[n].id] = _content(rows[n])
            items = b",".join(bytes(parsed.data[n]) for n in fresh)
            broadcast.confirmations.append(HANDED_OUT + b'{"data":[' + items + b"]}")
        return chunk, rows[-1].id

    def _is_under_way(self, row: Row) -> bool:
        """Whether the latest broadcast that is not settled and speaks of this agent says the same."""
        for broadcast in reversed(self._open):
            found = broadcast.rows.get(row.id)
            if found is not None:
                return found == _content(row) and not broadcast.is_lost
        return False

    def _hand_over(self, journal: Journal, broadcast: Broadcast) -> None:
        """Into the line of every worker. One that still has a message before it needs no other that only says the hash."""
        self._open.append(broadcast)
        for link, line in self._lines.items():
            if line.queue and not broadcast.rows and broadcast.chunks == 1:
                continue
            if len(line.queue) >= MOST_WAITING:
                self._note_behind(line, f"{MOST_WAITING} messages wait for it already")
                continue
            broadcast.waiting.add(link)
            line.queue.append(broadcast)
            line.wake.set()
            text = f'Added broadcast request to execute "send_agent_groups_information" in {line.peer.name}.'
            journal.debug2(text)
        self._settle(broadcast)

    # ---- one worker ------------------------------------------------------------------------------------------------------

    async def _serve(self, line: _Line) -> None:
        """Its queue, one broadcast after the other, while the link lasts."""
        journal = self._context.journal(line.peer.tag, GUARD)
        while True:
            while not line.queue:
                line.wake.clear()
                await line.wake.wait()
            with round_survives(journal, self._context.troubles, f"broadcasts to {line.peer.name}"):
                await self._serve_one(line, line.queue[0], journal)

    async def _serve_one(self, line: _Line, broadcast: Broadcast, journal: Journal) -> None:
        try:
            problem = await self._send_patiently(line, broadcast)
        except BaseException:
            broadcast.is_lost = True  # the rows stay marked
            raise
        finally:
            line.queue.popleft()
            broadcast.waiting.discard(line.peer.link)
            self._settle(broadcast)
        self._record(line.peer).groups_problem = problem
        if problem:
            self._note_behind(line, problem)
        elif broadcast.rows and line.is_behind:
            line.is_behind = False
            journal.info(f"{line.peer.name} takes groups again.")

    async def _send_patiently(self, line: _Line, broadcast: Broadcast) -> str:
        """Rows that a worker cannot write yet (a group's directory may be on its way) are given to it again, in their turn. The
        last reason why it did not take them, else empty."""
        attempts = ATTEMPTS if broadcast.rows and not line.is_behind else 1
        problem = ""
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(self._context.settings.master.sync_agent_groups_s)
            problem = await self._send(line, broadcast)
            if not problem or line.is_silent:
                break  # nobody else's groups wait for one that says nothing
        return problem

    def _note_behind(self, line: _Line, problem: str) -> None:
        if line.is_behind:
            return
        line.is_behind = True
        self._context.journal(line.peer.tag, GUARD).error(
            f"{line.peer.name} does not take the groups it is sent and is left to the comparison of checksums: {problem}"
        )

    async def _send(self, line: _Line, broadcast: Broadcast) -> str:
        """One message and its result; why the worker did not take it, else empty."""
        context, peer = self._context, line.peer
        journal = context.journal(peer.tag, SEND)
        record = self._record(peer)
        journal.info("Starting.")
        line.started, record.groups_started_at, record.groups_ended_at = (
            self._context.clock.monotonic(),
            context.clock.wall(),
            None,
        )
        line.answer = asyncio.get_running_loop().create_future()
        line.is_silent = False
        try:
            string_id = await context.sender.send_string(peer, [Segment(broadcast.path, 0, broadcast.size)])
            journal.debug("Sending chunks.")
            await peer.request(commands.SYN_G_M_W, string_id.encode())
            async with asyncio.timeout(context.settings.worker.timeout_agent_groups_s + peer.timeout_s):
                result = await line.answer
        except TimeoutError:
            line.is_silent = True
            return self._not_sent(peer, journal, "no result came in time")
        except (ClusterError, OSError) as failure:
            cause = failure.__cause__ or failure
            line.is_silent = isinstance(cause, ClusterError) and cause.code == NO_ANSWER
            return self._not_sent(peer, journal, str(failure))
        finally:
            line.answer = None
        context.troubles.end(_subject(peer))
        return shorten("; ".join(result.error_messages), TEXT_BYTES)

    def _not_sent(self, peer: Peer, journal: Journal, why: str) -> str:
        """Said once until a message arrives: a worker whose disk is full is tried again every few seconds."""
        text = f"Error sending agent-groups information to {peer.name}: {why}"
        if not self._context.troubles.begin(_subject(peer), text, journal, "ERROR"):
            journal.debug2(text)
        return why

    def finished(self, peer: Peer, payload: bytes) -> None:
        """`syn_w_g_e`. Raises ClusterError 1000 for what is no result."""
        result = parse_batch_result(payload)
        line = self._lines.get(peer.link)
        log_result(self._context.journal(peer.tag, SEND), self._context.clock, line.started if line else None, result)
        record = self._record(peer)
        record.groups_ended_at, record.groups_chunks = self._context.clock.wall(), result.updated_chunks
        if line is not None and line.answer is not None and not line.answer.done():
            line.answer.set_result(result)

    def refused(self, peer: Peer, payload: bytes, subtag: str = SEND) -> None:
        """`syn_w_g_err`, `syn_wgc_err`."""
        text = shorten(payload.decode(errors="replace"), TEXT_BYTES)
        self._context.journal(peer.tag, subtag).error(
            f"There was an error while processing agent-groups on the peer: {text}"
        )
        line = self._lines.get(peer.link)
        if subtag == SEND and line is not None and line.answer is not None and not line.answer.done():
            line.answer.set_result(BatchResult(0, [text or "refused without a reason"], 0.0))

    def _settle(self, broadcast: Broadcast) -> None:
        """Once nobody waits for it any more: tell our store, unless a worker was lost before it had it."""
        if broadcast.waiting or broadcast not in self._open:
            return
        self._open.remove(broadcast)
        self._context.spool.remove(broadcast.path)
        if broadcast.confirmations and not broadcast.is_lost:
            self._tasks.spawn(self._confirm(broadcast))

    async def _confirm(self, broadcast: Broadcast) -> None:
        try:
            async with self._context.database.conversation() as conversation:
                for request in broadcast.confirmations:
                    await conversation.ask(request)
        except DatabaseError as failure:
            # The rows stay marked and are sent again, which does no harm.
            self._guard.warning(f"The workers have groups that stay marked for now: {in_passing(failure)}")

    def _record(self, peer: Peer) -> WorkerRecord:
        return self._records.setdefault(peer.name, WorkerRecord())

    # ---- everything, to a worker that asks -------------------------------------------------------------------------------

    def ask_for_all(self, peer: Peer) -> None:
        """`syn_w_g_c`. One at a time for each worker; workers that ask together get the same string."""
        line = self._lines.get(peer.link)
        if line is not None and not line.asked_for_all:
            line.asked_for_all = True
            peer.spawn(self._send_all(line))

    async def _send_all(self, line: _Line) -> None:
        context, peer = self._context, line.peer
        journal = context.journal(peer.tag, SEND_ALL)
        record = self._record(peer)
        journal.info("Starting.")
        journal.debug("Recalculating agent-group hash.")
        line.started_all, started_at = self._context.clock.monotonic(), context.clock.wall()
        if self._all is None or self._all.task.done():
            self._all = _Everything(asyncio.create_task(self._read_all(journal)))
        shared = self._all
        shared.users += 1
        try:
            everything = await asyncio.shield(shared.task)
            chunks = everything.chunks if everything else 0
            journal.debug(
                f"Obtained {chunks} chunks of data in {self._context.clock.monotonic() - line.started_all:.3f}s."
            )
            if everything is None:
                spent = self._context.clock.monotonic() - line.started_all
                journal.info(f"Finished in {spent:.3f}s. Updated 0 chunks.")
            else:
                string_id = await context.sender.send_string(peer, [Segment(everything.path, 0, everything.size)])
                journal.debug("Sending chunks.")
                await peer.request(commands.SYN_G_M_W_C, string_id.encode())
            record.all_groups_started_at, record.all_groups_ended_at = started_at, context.clock.wall()
            record.all_groups_chunks = chunks
        except DatabaseError as failure:
            journal.error(f"Could not obtain data from wazuh-db: {failure}")
        except (ClusterError, OSError) as failure:
            journal.error(f"Error sending agent-groups information to {peer.name}: {failure}")
        finally:
            line.asked_for_all = False
            shared.users -= 1
            self._drop_unused(shared)

    def _drop_unused(self, shared: _Everything) -> None:
        if shared.users:
            return
        if not shared.task.done():
            shared.task.cancel()
            return
        read = None if shared.task.cancelled() or shared.task.exception() else shared.task.result()
        if read is not None:
            self._context.spool.remove(read.path)

    async def _read_all(self, journal: Journal) -> Broadcast | None:
        database = self._context.database
        everything = Broadcast(self._context.spool.new_path("all-groups"))
        try:
            async with database.conversation() as conversation:
                try:
                    await conversation.ask("global recalculate-agent-group-hashes")
                except DatabaseError as failure:
                    if failure.is_away:
                        raise
                    journal.warning(
                        f"Error {failure.code} executing recalculate agent-group hash command: {failure.extra}"
                    )
                await self._write_all(conversation, everything)
        except BaseException:
            self._context.spool.remove(everything.path)
            raise
        if not everything.chunks:
            self._context.spool.remove(everything.path)
            return None
        return everything

    async def _write_all(self, conversation: Conversation, everything: Broadcast) -> None:
        members = ""
        with contextlib.suppress(DatabaseError):
            # A wazuh-db whose HTTP socket is away can be asked as well.
            members = FUTURE_TOO if await self._context.database.is_ours() else ""
        last_id, status = 0, "due"
        with open(everything.path, "wb") as file:
            file.write(GROUPS_HEAD)
            while status == "due":
                status, chunk = await conversation.ask(
                    'global sync-agent-groups-get {"condition": "all", "set_synced": false, "get_global_hash": false, '
                    f'"last_id": {last_id}{members}}}'
                )
                if chunk in EMPTY_CHUNKS:
                    continue
                file.write((b", " if everything.chunks else b"") + msgspec.json.encode(chunk.decode()))
                everything.chunks += 1
                try:
                    last_id = rows_of(parse_chunk(chunk))[-1].id
                except (BadString, IndexError) as problem:
                    raise DatabaseError(2007, f"groups that cannot be read: {problem}") from None
            file.write(GROUPS_TAIL)
            everything.size = file.tell()

    def finished_all(self, peer: Peer, payload: bytes) -> None:
        """`syn_wgc_e`, also before anything was recorded (C15)."""
        line = self._lines.get(peer.link)
        journal = self._context.journal(peer.tag, SEND_ALL)
        log_result(journal, self._context.clock, line.started_all if line else None, parse_batch_result(payload))


def _subject(peer: Peer) -> str:
    return f"groups for {peer.name}"


def _content(row: Row) -> int:
    return hash(tuple(row.groups))

"""Agent-info: workers report to the master what they know of their agents (wire.md 4.9, 6.1, 6.2, 6.6)."""

import asyncio

import msgspec

from clusterd.beat import awake_timeout
from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.agents import OpenReport, ReportOpened
from clusterd.role import read_role
from clusterd.sync.agents.master_clock import MasterClock
from clusterd.sync.agents.report_events import ReportEvents
from clusterd.sync.agents.rows import Unusable, open_rows
from clusterd.sync.links.caps import AGENTS, TERM
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.permitted import is_permitted
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.ports.tag_log import Outage, TagLog
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.ports.troubles import round_survives
from clusterd.wdb.batches import OFFSET, REPORT_HEAD, REPORT_MIDDLE, REPORT_TAIL
from clusterd.wdb.client import DatabaseError, Taken
from clusterd.wire import commands
from clusterd.wire.payloads import BatchResult, build_batch_result, parse_batch_result, parse_id
from clusterd.wire.results import dump_json, shorten
from hashing.segment import Segment

SUBTAG = "Agent-info sync"
GUARD = "Agent-info guard"
BATCH_AGENTS = 2_000
"""So few that the reports of 50 workers are written well within the time that each of them waits, on a busy machine,
too."""
MERGES_PER_WORKER = 2
MERGES_AT_ONCE = 2
"""Reports of all workers that are being written: the others wait. All at once, none of them would end in time."""
TEXT_BYTES = 4096
QUOTED = 200
REPORT = "report of agents"


def failed_chunks(result: BatchResult) -> str:
    """What stock adds to its line when chunks had errors."""
    if not result.error_messages:
        return ""
    listed = shorten(str(result.error_messages), TEXT_BYTES)
    return f" There were {len(result.error_messages)} chunks with errors: {listed}"


def log_result(log: TagLog, clock: Clock, started: float | None, result: BatchResult) -> None:
    """Logs the end of a round on the side that sent the rows. `started`: monotonic; None where no round had begun."""
    spent = 0.0 if started is None else clock.monotonic() - started
    text = f"Finished in {spent:.3f}s. Updated {result.updated_chunks} chunks."
    if result.error_messages:
        log.error(text + failed_chunks(result))
    else:
        log.info(text)


class LastReport(msgspec.Struct):
    """The part of `status` about this worker's reports. Times are wall-clock seconds; `agents`: in the last report that
    was not empty."""

    at: float | None = None
    result: str = ""
    detail: str = ""
    reported_at: float | None = None
    agents: int = 0


class AgentInfoWorker:
    """Sends reports to the master, round by round. With our own store agents count as reported only when the master has
    them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started: float | None = None
        self._answer: asyncio.Future[BatchResult] | None = None
        self._late = 0
        """The batch whose result has not come in time. The master permits no other report before it has sent it."""
        self._tasks = Tasks(self._guard.error)
        self._outage = Outage(context.clock)
        self._told = ""
        """The term, and its master, of which the database knows."""
        self.last = LastReport()

    async def run(self, peer: Peer) -> None:
        """Does rounds for ever, each `sync_agent_info` after the end of the one before."""
        master_clock = MasterClock()
        self._late = 0
        while True:
            await asyncio.sleep(self._context.settings.worker.sync_agent_info_s)
            with round_survives(self._guard, self._context.troubles, "reports of agents"):
                try:
                    await self._follow_term(peer)
                    while await self._round(peer, master_clock):
                        pass
                except Exception:
                    self._note("failed", "an unexpected failure, see the log")
                    raise

    @property
    def _log(self) -> TagLog:
        return self._context.tag_log(self._context.tag, SUBTAG)

    @property
    def _guard(self) -> TagLog:
        return self._context.tag_log(self._context.tag, GUARD)

    async def _follow_term(self, peer: Peer) -> None:
        """The master of a new term has confirmed no agent: all are reported again. Without terms nothing is looked
        at."""
        context = self._context
        if TERM not in peer.capabilities or not context.database.is_there():
            return
        given = await asyncio.to_thread(read_role, context.settings.root)
        key = "" if given is None else f"{given.term} {given.master_name}"
        if key == self._told:
            return
        try:
            count = await context.database.report_again(key)
        except DatabaseError as failure:
            self._away(failure)
            return
        self._told = key
        if count:
            self._guard.info(f"The master of term {key} has not heard of {count} agents: they are reported again.")

    async def _round(self, peer: Peer, master_clock: MasterClock) -> bool:
        """Sends one batch. Returns whether more agents wait and the next batch should follow at once."""
        context, log = self._context, self._log
        if not context.database.is_there():
            self._away(DatabaseError(2011, "nobody listens on queue/sockets/wdb-http.sock"))
            return False
        if not await is_permitted(peer, commands.SYN_A_W_M_P, log):
            return False
        log.info("Starting.")
        self._started = self._context.clock.monotonic()
        rows = context.spool.new_path("report")
        try:
            return await self._report(peer, rows, master_clock)
        except DatabaseError as failure:
            self._away(failure)
        except (ClusterError, OSError) as failure:
            context.troubles.begin(REPORT, f"Error synchronizing agent info: {failure}", log, "ERROR")
            self._note("failed", str(failure))
        finally:
            context.spool.remove(rows)
        return False

    async def _report(self, peer: Peer, rows: str, master_clock: MasterClock) -> bool:
        log, database = self._log, self._context.database
        began = self._context.clock.monotonic()
        moments = AGENTS in peer.capabilities
        taken = await database.take(rows, BATCH_AGENTS, moments=moments)
        log.debug(f"Obtained agents synchronization information in {self._context.clock.monotonic() - began:.3f}s.")
        if self._outage.is_over():
            self._guard.info("The agent database answers again.")
        if taken.is_empty:
            log.info("No synchronization required, skipping.")
            self._context.troubles.end(REPORT)  # what could not be sent has been, or is no more
            self._note("equal")
            return False
        payload = dump_json({OFFSET: await master_clock.offset_us(peer)}) if moments else b"{}"
        result = await self._send(peer, rows, taken, payload)
        if result is None or not result.updated_chunks:
            self._note("failed", "; ".join(result.error_messages)[:QUOTED] if result else "the master did not answer")
            return False
        self._context.troubles.end(REPORT)
        if taken.batch:
            await database.confirm(taken.batch)
        self.last.reported_at, self.last.agents = self._context.clock.wall(), taken.agents
        self._note("partly" if result.error_messages else "synced", "; ".join(result.error_messages)[:QUOTED])
        return taken.more

    async def _send(self, peer: Peer, rows: str, taken: Taken, payload: bytes) -> BatchResult | None:
        """Sends the rows to the master; returns its result, None if there is none in time."""
        context = self._context
        frame = context.spool.new_path("report-frame")
        head = REPORT_HEAD + payload + REPORT_MIDDLE
        try:
            with open(frame, "wb") as file:
                file.write(head + REPORT_TAIL)
            segments = [Segment(frame, 0, len(head)), Segment(rows, 0, taken.size), Segment(frame, len(head), 1)]
            string_id = await context.sender.send_string(peer, segments)
        finally:
            context.spool.remove(frame)
        self._log.debug("Sending chunks.")
        self._answer, self._late = asyncio.get_running_loop().create_future(), 0
        timeout_s = context.settings.master.timeout_agent_info_s + peer.timeout_s
        try:
            await peer.request(commands.SYN_A_W_M, string_id.encode())
            async with awake_timeout(timeout_s):
                return await self._answer
        except TimeoutError:
            self._late = taken.batch
            self._log.error(
                f"Error synchronizing agent info: the master did not say within {timeout_s:g} s what became of it"
            )
            return None
        finally:
            self._answer = None

    # ---- what the master says ----------------------------------------------------------------------------------------

    def finished(self, payload: bytes) -> None:
        """`syn_m_a_e`. Raises ClusterError 1000 for an invalid result."""
        result = parse_batch_result(payload)
        log_result(self._log, self._context.clock, self._started, result)
        self._resolve(result)

    def refused(self, payload: bytes) -> None:
        """`syn_m_a_err`."""
        text = shorten(payload.decode(errors="replace"), TEXT_BYTES)
        self._log.error(f"There was an error while processing agent-info on the peer: {text}")
        self._resolve(BatchResult(0, [text], 0.0))

    def _resolve(self, result: BatchResult) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(result)
        elif self._late and result.updated_chunks:
            batch, self._late = self._late, 0
            self._tasks.spawn(self._confirm_late(batch))

    async def _confirm_late(self, batch: int) -> None:
        """Without it a master that is slow would be sent the same agents for ever."""
        try:
            await self._context.database.confirm(batch)
        except DatabaseError as failure:
            self._away(failure)

    def _away(self, failure: DatabaseError) -> None:
        if self._outage.should_tell():
            self._log.error(f"Could not obtain data from wazuh-db: {failure}")
            self._log.error(f"Error synchronizing agent info: {ClusterError(2017)}")
        self._note("failed", str(failure))

    def _note(self, result: str, detail: str = "") -> None:
        self.last.at, self.last.result, self.last.detail = self._context.clock.wall(), result, detail


class AgentInfoMaster:
    """Merges the workers' reports. Owns the flags "agent-info free"."""

    def __init__(self, context: Context, records: dict[str, WorkerRecord]) -> None:
        self._context = context
        self._records = records
        self._merges: dict[str, Tasks] = {}
        self._turn = asyncio.Semaphore(MERGES_AT_ONCE)
        self._outage = Outage(context.clock)
        self._reports = ReportEvents(context.clock, context.events.tell)

    def is_free(self, name: str) -> bool:
        """Returns whether no report of this worker is being written; writing goes on when its link ends."""
        return not self._merges.get(name)

    def permission(self, peer: Peer) -> bytes:
        """`syn_a_w_m_p`. While no database answers, no worker may send: a stock worker would clear its marks for
        nothing."""
        if not self._context.database.is_there():
            if self._outage.should_tell():
                self._guard(peer).error(
                    "Workers may not report their agents: nobody listens on queue/sockets/wdb-http.sock"
                )
            return commands.PERMISSION_REFUSED
        if self._outage.is_over():
            self._guard(peer).info("The agent database answers again.")
        return commands.PERMISSION_GRANTED if self.is_free(peer.name) else commands.PERMISSION_REFUSED

    def begin(self, peer: Peer, payload: bytes) -> None:
        """`syn_a_w_m` names a string of rows. Raises ClusterError 1000 if too many are being written already."""
        string_id = parse_id(payload)
        merges = self._merges.setdefault(peer.name, Tasks(self._guard(peer).error))
        if len(merges) >= MERGES_PER_WORKER:
            peer.incoming.strings.drop(string_id)
            raise ClusterError(1000, f"{len(merges)} reports of this worker are being written already")
        merges.spawn(self._merge(peer, string_id))

    def forget(self, peer: Peer) -> None:
        """Forgets a worker whose link has ended."""
        if self.is_free(peer.name):
            self._merges.pop(peer.name, None)

    def _log(self, peer: Peer) -> TagLog:
        return self._context.tag_log(peer.tag, SUBTAG)

    def _guard(self, peer: Peer) -> TagLog:
        return self._context.tag_log(peer.tag, GUARD)

    async def _merge(self, peer: Peer, string_id: str) -> None:
        context, log = self._context, self._log(peer)
        log.info("Starting.")
        started, started_at = self._context.clock.monotonic(), context.clock.wall()
        rows = context.spool.new_path("merge")
        try:
            opened = await open_rows(
                context,
                peer,
                string_id,
                lambda string: OpenReport(string.path, string.length, rows),
                "agent-info",
            )
            result = await self._write(peer, rows, opened)
            log.debug(f"{result.updated_chunks}/{opened.lists} chunks updated in wazuh-db in {result.time_spent:.3f}s.")
            await peer.request(commands.SYN_M_A_E, build_batch_result(result))
            record = self._records.setdefault(peer.name, WorkerRecord())
            record.info_started_at, record.info_ended_at = started_at, context.clock.wall()
            record.info_chunks = result.updated_chunks
            why = "; ".join(result.error_messages)
            self._reports.add(peer.name, opened.size, self._context.clock.monotonic() - started, why)
            log.info(
                f"Finished in {self._context.clock.monotonic() - started:.3f}s. Updated {result.updated_chunks} chunks."
            )
        except Unusable as string:
            peer.answer_late(commands.SYN_M_A_ERR, string.text.encode())
            await context.net.main_line("ERROR", log.tag, str(string.error))
        except (ClusterError, OSError) as failure:
            await context.net.main_line("ERROR", log.tag, str(failure))
            self._reports.add(peer.name, 0, self._context.clock.monotonic() - started, str(failure))
            if isinstance(failure, OSError):  # else it was told the result, or is gone: it may wait for the next one
                text = f"error processing agent-info chunks in process pool: {failure}"
                peer.answer_late(commands.SYN_M_A_ERR, text.encode())
        finally:
            context.spool.remove(rows)

    async def _write(self, peer: Peer, rows: str, opened: ReportOpened) -> BatchResult:
        """Writes the rows to the database. A failure is reported to the worker, too (C13)."""
        database, timeout_s = self._context.database, self._context.settings.master.timeout_agent_info_s
        began = self._context.clock.monotonic()
        errors: list[str] = []
        updated = opened.lists
        try:
            async with self._turn:
                if await database.is_ours():
                    merged = await database.merge_ours(
                        rows, opened.size, timeout_s, node=peer.name, offset_us=opened.offset_us
                    )
                    errors = merged.errors
                else:
                    await database.merge(rows, opened.size, timeout_s)
        except DatabaseError as failure:
            text = "Timeout while processing agent-info chunks."
            if failure.code != 2014:
                text = f"Error while processing agent-info chunks: {failure}"
            self._log(peer).error(text)
            updated, errors = 0, [text]
        for error in errors if updated else ():
            self._guard(peer).error(f"Refused by the database: {error}")
        return BatchResult(updated, errors, self._context.clock.monotonic() - began)

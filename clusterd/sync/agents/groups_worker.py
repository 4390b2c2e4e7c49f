"""Agent-groups, the worker's side: writes what the master sends, compares checksums, asks for everything when they stay
different (wire.md 4.10, 4.11, 6.5 to 6.7)."""

import asyncio

import msgspec

from clusterd.beat import awake_timeout
from clusterd.errors import ClusterError
from clusterd.messages.agents import GroupsOpened, OpenGroups
from clusterd.sync.agents.info import TEXT_BYTES
from clusterd.sync.agents.rows import Unusable, open_rows
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.tag_log import Outage, TagLog
from clusterd.sync.ports.tasks import Tasks
from clusterd.wdb.batches import BadString, parse_chunk
from clusterd.wdb.client import DatabaseError
from clusterd.wire import commands
from clusterd.wire.payloads import BatchResult, build_batch_result, parse_id
from clusterd.wire.results import shorten

RECV = "Agent-groups recv"
RECV_ALL = "Agent-groups recv full"
GUARD = "Agent-groups guard"
FOREIGN_KEY = "Cannot execute Global database query; FOREIGN KEY constraint failed"
UNKNOWN_HASH = "UNABLE TO COLLECT FROM DB"
OWN_HASH = 'global sync-agent-groups-get {"get_global_hash": true}'
WAITING = 8
"""Most messages of the master that are being written or wait for it."""
LONGEST_PATIENCE = 32
"""When asking for everything has not helped, it is repeated after ever more mismatches: at most this many times the
limit."""


class LastGroups(msgspec.Struct):
    """The part of `status` about groups. `matches`: the last comparison with the master's checksum, None before the
    first. Times are wall-clock seconds."""

    at: float | None = None
    chunks: int = 0
    errors: list[str] = msgspec.field(default_factory=list)
    matches: bool | None = None
    mismatches: int = 0
    asked_for_all_at: float | None = None


class AgentGroupsWorker:
    """Writes one message at a time, in the order of arrival. Counts mismatches across links."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turn = asyncio.Lock()
        self._guard = context.tag_log(context.tag, GUARD)
        self._tasks = Tasks(self._guard.error)
        self._in_vain = 0
        self._told = False
        self._outage = Outage(context.clock)
        self.last = LastGroups()

    def begin(self, peer: Peer, payload: bytes, *, everything: bool) -> None:
        """`syn_g_m_w`, `syn_g_m_w_c` name a string. Raises ClusterError 1000 if too many wait already."""
        string_id = parse_id(payload)
        if len(self._tasks) >= WAITING:
            peer.incoming.strings.drop(string_id)
            raise ClusterError(1000, f"{len(self._tasks)} messages with agent groups wait to be written already")
        self._tasks.spawn(self._receive(peer, string_id, everything))

    async def _receive(self, peer: Peer, string_id: str, everything: bool) -> None:
        """Writes to the end even if the link ends meanwhile."""
        async with self._turn:
            await self._take_in(peer, string_id, everything)

    async def _take_in(self, peer: Peer, string_id: str, everything: bool) -> None:
        context = self._context
        log = context.tag_log(context.tag, RECV_ALL if everything else RECV)
        log.info("Starting.")
        started = self._context.clock.monotonic()
        requests = context.spool.new_path("group-requests")
        try:
            opened = await open_rows(
                context,
                peer,
                string_id,
                lambda string: OpenGroups(string.path, string.length, requests),
                "agent-groups",
            )
            result = await self._write(log, requests, opened)
            log.debug(
                f"{result.updated_chunks}/{opened.chunks} chunks updated in wazuh-db in {result.time_spent:.3f}s."
            )
            self.last.at, self.last.chunks = context.clock.wall(), result.updated_chunks
            self.last.errors = result.error_messages
            await peer.request(commands.SYN_WGC_E if everything else commands.SYN_W_G_E, build_batch_result(result))
            if everything:
                log.debug("Recalculating agent-group hash.")
                await self._recalculate(log)
            elif opened.has_hash:
                await self._compare(peer, log, opened.hash)
            log.info(
                f"Finished in {self._context.clock.monotonic() - started:.3f}s. Updated {result.updated_chunks} chunks."
            )
        except Unusable as string:
            peer.answer_late(commands.SYN_WGC_ERR if everything else commands.SYN_W_G_ERR, string.text.encode())
            await context.net.main_line("ERROR", log.tag, str(string.error))
        except (ClusterError, OSError) as failure:
            await context.net.main_line("ERROR", log.tag, str(failure))
        finally:
            context.spool.remove(requests)

    # ---- writing -----------------------------------------------------------------------------------------------------

    async def _write(self, log: TagLog, requests: str, opened: GroupsOpened) -> BatchResult:
        """Writes each chunk to the database, all within `timeout_agent_groups`. A chunk that fails does not stop the
        others."""
        began = self._context.clock.monotonic()
        errors = list(opened.bad)
        written: set[int] = set()
        refused: set[int] = set()
        try:
            async with awake_timeout(self._context.settings.worker.timeout_agent_groups_s):
                async with self._context.database.conversation() as conversation:
                    with open(requests, "rb") as file:
                        for wanted in opened.requests:
                            request, number = file.read(wanted.size), wanted.chunk
                            try:
                                await conversation.ask(request)
                                written.add(number)
                            except DatabaseError as failure:
                                if failure.is_away:
                                    raise
                                refused.add(number)
                                if FOREIGN_KEY not in (failure.extra or ""):
                                    errors.append(shorten(str(failure), TEXT_BYTES))
                                    log.error(
                                        f'Wazuh-db response for chunk {number}/{opened.chunks} was not "ok": {failure}'
                                    )
        except TimeoutError:
            errors.append("Timeout while processing agent-groups chunks.")
            log.error(errors[-1])
        except DatabaseError as failure:
            errors.append(f"Error while processing agent-groups chunks: {failure}")
            if self._outage.should_tell():
                log.error(errors[-1])
        except OSError as failure:
            errors.append(f"Error while processing agent-groups chunks: {failure}")
            log.error(errors[-1])
        else:
            if self._outage.is_over():
                self._guard.info("The agent database answers again.")
        return BatchResult(len(written - refused), errors, self._context.clock.monotonic() - began)

    async def _recalculate(self, log: TagLog) -> None:
        try:
            await self._context.database.ask("global recalculate-agent-group-hashes")
        except DatabaseError as failure:
            log.warning(f"Error {failure.code} executing recalculate agent-group hash command: {failure.extra}")

    # ---- comparing ---------------------------------------------------------------------------------------------------

    async def _compare(self, peer: Peer, log: TagLog, theirs: str | None) -> None:
        """Compares the master's checksum with our own, and asks for everything after enough mismatches in a row
        (wire.md 6.5)."""
        ours = await self._own_hash(log)
        last = self.last
        last.matches = ours == theirs
        if last.matches:
            reset = "Counter reset." if last.mismatches else ""
            log.debug(f"The checksum of both databases match. {reset}")
            last.mismatches = 0
            self._healed()
            return
        log.debug(f"The checksum of master ({theirs}) and worker ({ours}) are different.")
        last.mismatches += 1
        limit = self._context.settings.worker.agent_groups_mismatch_limit
        log.debug(f"Checksum comparison failed ({last.mismatches}/{limit}).")
        if self._in_vain and last.mismatches >= limit:
            self._tell_once()
        if last.mismatches >= limit * min(2**self._in_vain, LONGEST_PATIENCE):
            await self._ask_for_all(peer, log)

    async def _own_hash(self, log: TagLog) -> str | None:
        """Returns our checksum; UNKNOWN_HASH, which equals none, if the database does not give it."""
        began = self._context.clock.monotonic()
        try:
            _, answer = await self._context.database.ask(OWN_HASH)
            log.debug(f"Obtained 1 chunks of data in {self._context.clock.monotonic() - began:.3f}s.")
            found = parse_chunk(answer).hash
        except (DatabaseError, BadString):
            return UNKNOWN_HASH
        return UNKNOWN_HASH if isinstance(found, msgspec.UnsetType) else found

    async def _ask_for_all(self, peer: Peer, log: TagLog) -> None:
        last = self.last
        last.mismatches = 0
        self._in_vain += 1
        last.asked_for_all_at = self._context.clock.wall()
        await peer.request(commands.SYN_W_G_C)
        log.info("Sent request to obtain all agent-groups information from the master node.")

    def _tell_once(self) -> None:
        if not self._told:
            self._told = True
            self._guard.error(
                "The groups of this node still differ from the master's after everything was sent again. An agent that "
                "only this node knows can be the cause: compare both databases (docs/operations/troubleshooting.md). "
                "It is tried again at longer and longer intervals."
            )

    def _healed(self) -> None:
        if self._told:
            self._guard.info("The groups of this node equal the master's again.")
        self._told = False
        self._in_vain = 0

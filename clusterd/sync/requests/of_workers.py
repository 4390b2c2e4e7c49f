"""Commands that a master answers its workers (wire.md 4.1, W>M)."""

from clusterd.clock import boot_us, clock_name
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.agents.info import AgentInfoMaster
from clusterd.sync.integrity.digest_master import DigestMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.caps import answer_caps
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import parse_task_failure


class MasterRequests:
    """The table of commands of a master's TCP links."""

    def __init__(
        self,
        context: Context,
        integrity: IntegrityMaster,
        digest: DigestMaster,
        info: AgentInfoMaster,
        groups: AgentGroupsMaster,
    ) -> None:
        self._context = context
        self._info = info
        self._groups = groups
        self._integrity = integrity
        self._digest = digest
        self.table: dict[str, Handler] = {
            commands.CAPS: self.caps,
            commands.CLOCK: self.clock,
            commands.SYN_DIGEST: self.check_digest,
            commands.SYN_I_W_M_P: self.integrity_permission,
            commands.SYN_I_W_M: self.begin_check,
            commands.SYN_I_W_M_E: self.end_check_file,
            commands.SYN_I_W_M_R: self.check_failed,
            commands.SYN_A_W_M_P: self.agent_info_permission,
            commands.SYN_A_W_M: self.agent_info,
            commands.SYN_W_G_E: self.groups_written,
            commands.SYN_W_G_ERR: self.groups_refused,
            commands.SYN_WGC_E: self.all_groups_written,
            commands.SYN_WGC_ERR: self.all_groups_refused,
            commands.SYN_W_G_C: self.all_agent_groups,
        }

    async def caps(self, peer: Peer, payload: bytes) -> bytes:
        return await answer_caps(peer, payload, self._context.settings, self._context.net)

    async def clock(self, peer: Peer, payload: bytes) -> bytes:
        return commands.SAME_CLOCK if payload == clock_name().encode() else str(boot_us()).encode()

    async def check_digest(self, peer: Peer, payload: bytes) -> bytes:
        return self._digest.check(peer, payload)

    async def integrity_permission(self, peer: Peer, payload: bytes) -> bytes:
        return await self._integrity.ask_permission(peer)

    async def begin_check(self, peer: Peer, payload: bytes) -> bytes:
        return self._integrity.begin_check(peer, payload).encode()

    async def end_check_file(self, peer: Peer, payload: bytes) -> bytes:
        await peer.incoming.end_task(payload)
        return commands.PACKAGE_RECEIVED

    async def check_failed(self, peer: Peer, payload: bytes) -> bytes:
        task_id, error = parse_task_failure(payload)
        self._integrity.worker_failed(peer, task_id, error)
        return commands.ERROR_RECEIVED

    async def agent_info_permission(self, peer: Peer, payload: bytes) -> bytes:
        return self._info.permission(peer)

    async def agent_info(self, peer: Peer, payload: bytes) -> bytes:
        self._info.begin(peer, payload)
        return payload

    async def groups_written(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.queue_of(peer).finished(payload)
        return commands.THANKS

    async def groups_refused(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.queue_of(peer).refused(payload)
        return commands.THANKS

    async def all_groups_written(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.all_groups.finished(peer, payload)
        return commands.THANKS

    async def all_groups_refused(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.all_groups.refused(peer, payload)
        return commands.THANKS

    async def all_agent_groups(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.all_groups.ask(peer)
        return commands.AGENT_GROUPS_FULL_ASKED

"""Commands that a worker answers its master (wire.md 4.1, M>W)."""

from clusterd.sync.agents.groups_worker import AgentGroupsWorker
from clusterd.sync.agents.info import AgentInfoWorker
from clusterd.sync.integrity.worker import IntegrityWorker
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands
from clusterd.wire.payloads import parse_task_failure


class WorkerRequests:
    """The table of commands of a worker's link to its master."""

    def __init__(
        self,
        integrity: IntegrityWorker,
        info: AgentInfoWorker,
        groups: AgentGroupsWorker,
    ) -> None:
        self._integrity = integrity
        self._info = info
        self._groups = groups
        self.table: dict[str, Handler] = {
            commands.SYN_M_C_OK: self.checked_equal,
            commands.SYN_M_C: self.begin_sync,
            commands.RESUME_FILE: self.resume_file,
            commands.SYN_M_C_E: self.end_sync_file,
            commands.SYN_M_C_R: self.sync_failed,
            commands.SYN_M_A_E: self.agents_reported,
            commands.SYN_M_A_ERR: self.agents_refused,
            commands.SYN_G_M_W: self.agent_groups,
            commands.SYN_G_M_W_C: self.all_agent_groups,
        }

    async def checked_equal(self, peer: Peer, payload: bytes) -> bytes:
        self._integrity.told_equal()
        return commands.THANKS

    async def begin_sync(self, peer: Peer, payload: bytes) -> bytes:
        return self._integrity.begin_sync(peer).encode()

    async def resume_file(self, peer: Peer, payload: bytes) -> bytes:
        return str(await peer.incoming.resume_file(payload)).encode()

    async def end_sync_file(self, peer: Peer, payload: bytes) -> bytes:
        await peer.incoming.end_task(payload)
        return commands.PACKAGE_RECEIVED

    async def sync_failed(self, peer: Peer, payload: bytes) -> bytes:
        task_id, error = parse_task_failure(payload)
        await self._integrity.master_failed(peer, task_id, error)
        return commands.ERROR_RECEIVED

    async def agents_reported(self, peer: Peer, payload: bytes) -> bytes:
        self._info.finished(payload)
        return commands.THANKS

    async def agents_refused(self, peer: Peer, payload: bytes) -> bytes:
        self._info.refused(payload)
        return commands.THANKS

    async def agent_groups(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.begin(peer, payload, everything=False)
        return payload

    async def all_agent_groups(self, peer: Peer, payload: bytes) -> bytes:
        self._groups.begin(peer, payload, everything=True)
        return payload

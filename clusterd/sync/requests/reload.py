"""A worker's ruleset reload (dapi.md 1.10, wire.md 9.4, wdb.md 10.1): requested over the local socket, sent to
analysisd when the next integrity round has ended."""

import msgspec

from clusterd.errors import ClusterError
from clusterd.sync.links.context import Context
from clusterd.sync.links.handlers import Handler
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.tag_log import GUARD
from clusterd.sync.ports.tasks import Tasks
from clusterd.wdb.stream import ask_once
from clusterd.wire import commands
from clusterd.wire.results import dump_json, shorten

SOCKET = "queue/sockets/analysis"
REQUEST = dump_json({"version": 1, "origin": {"module": "cluster"}, "command": "reload-ruleset"})
ANSWER_S = 60.0


class _DaemonAnswer(msgspec.Struct, frozen=True):
    error: int
    data: list[str] = []


class RulesetReload:
    """`local` is its command on the local socket. `is_asked`: a reload is due after the next round."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tag = context.tag
        self._tasks = Tasks(context.tag_log(self._tag, GUARD).error)
        self.is_asked = False
        self.local: dict[str, Handler] = {commands.SENDRRELOAD: self.ask}

    async def ask(self, peer: Peer, payload: bytes) -> bytes:
        """Raises ClusterError 3023."""
        self._context.roster.need_master()
        self.is_asked = True
        return commands.RELOAD_NOTED

    def round_ended(self) -> None:
        """Called after the last exchange of an integrity round: nothing differs, or a package was applied."""
        if self.is_asked:
            self.is_asked = False
            self._tasks.spawn(self._reload())

    async def _reload(self) -> None:
        level, text = await self._outcome()
        await self._context.net.main_line(level, self._tag, text)

    async def _outcome(self) -> tuple[str, str]:
        failed = "Ruleset reload failed after cluster integrity check: "
        try:
            payload = await ask_once(f"{self._context.settings.root}/{SOCKET}", REQUEST, ANSWER_S)
            answer = msgspec.json.decode(payload, type=_DaemonAnswer)
        except (ClusterError, msgspec.DecodeError, RecursionError) as failure:
            return "ERROR", f"{failed}{failure}"
        shown = shorten(", ".join(answer.data))
        if answer.error:
            return "ERROR", f"{failed}{shown}"
        if answer.data:
            return "WARNING", f"Ruleset reloaded with warnings after cluster integrity check: {shown}"
        return "INFO", "Ruleset reload triggered by cluster integrity check: reload message sent successfully."

"""The parts of a node that agent groups use, for tests of both roles."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from clusterd.clock import Clock
from clusterd.settings import MasterIntervals, Settings, WorkerIntervals
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles
from tests.fakes.events import Events
from tests.sync.scripted_node import Lines

LIMIT = 3
Ask = Callable[[bytes | str], Awaitable[tuple[str, bytes]]]


class Site:
    """The parts of a node that agent groups use. `asked`: requests of the database, answered by `answer`; `removed`:
    files of the spool; `sent`: strings sent to workers."""

    def __init__(self, *, ours: bool = True) -> None:
        self.log = Lines()
        self.asked: list[Any] = []
        self.answer: Callable[[Any], tuple[str, bytes]] = lambda request: ("ok", b"")
        self.removed: list[str] = []
        self.sent: list[str] = []
        self.fails: list[Exception] = []
        self.root = Path("/nowhere")
        self.files = 0
        self._ours = ours
        self.context = cast(
            Context,
            SimpleNamespace(
                tag="Worker w",
                tag_log=lambda tag, subtag: TagLog(cast(Any, self.log), tag, subtag),
                clock=Clock(),
                troubles=Troubles(),
                events=Events(),
                spool=SimpleNamespace(remove=self._remove, new_path=self._new_path),
                sender=SimpleNamespace(send_string=self._send_string),
                database=SimpleNamespace(is_ours=self._is_ours, conversation=self._conversation, ask=self._ask),
                settings=Settings(
                    "/nowhere",
                    master=MasterIntervals(sync_agent_groups_s=0.001),
                    worker=WorkerIntervals(agent_groups_mismatch_limit=LIMIT),
                ),
            ),
        )

    async def _is_ours(self) -> bool:
        return self._ours

    async def _ask(self, request: Any) -> tuple[str, bytes]:
        self.asked.append(request)
        return self.answer(request)

    @contextlib.asynccontextmanager
    async def _conversation(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(ask=self._ask)

    def _remove(self, *paths: str) -> None:
        self.removed += paths

    def _new_path(self, kind: str) -> str:
        self.files += 1
        return f"{self.root}/{kind}-{self.files}"

    async def _send_string(self, peer: Peer, segments: Any) -> str:
        self.sent.append(peer.name)
        if self.fails:
            raise self.fails.pop(0)
        return "7"

    def texts(self, level: str) -> list[str]:
        return [text for found, _, _, text in self.log.written if found == level]


def peer(link: int = 1, asked: list[str] | None = None) -> Peer:
    async def request(command: str, payload: bytes = b"") -> bytes:
        if asked is not None:
            asked.append(command)
        return b""

    return cast(
        Peer, SimpleNamespace(name=f"w{link}", tag=f"Worker w{link}", link=link, timeout_s=60.0, request=request)
    )

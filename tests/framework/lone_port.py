"""The port of sync with real helpers and the real part of the supervisor, in the test's own process, without a node."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from clusterd.clock import Clock
from clusterd.messages.base import Text
from clusterd.settings import ClusterBlock, Clusterd, FrameworkSettings, Secret, Settings
from clusterd.supervisor.helpers import Helpers
from clusterd.sync.ports.framework_crew import Crew
from clusterd.sync.ports.framework_port import FrameworkPort
from clusterd.sync.ports.framework_supply import Supply
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles
from ipc.board import Board
from tests.fakes.framework import FakeFramework
from tests.framework.requests import named, request

KEY = b"c98b62a9b6169ac5f67dae55ae4a9088"
BAD_LUCK = (
    "block_the_loop",
    "compute_for_ever",
    "die",
    "echo",
    "fork_and_stay",
    "large",
    "leak",
    "long_text",
    "odd",
    "page",
    "say",
    "sleep",
    "sleep_first",
)
NAMES = {
    ("wazuh.agent", "get_agents"): False,
    ("wazuh.agent", "add_agent"): False,
    ("wazuh.agent", "assign_agents_to_group"): True,
    ("wazuh.manager", "read_ossec_conf"): False,
    ("wazuh.security", "get_users"): False,
    ("wazuh.security", "get_user_me"): False,
    ("wazuh.nothing", "here"): False,
    ("api.authentication", "check_user_master"): False,
    **{("wazuh.bad_luck", name): name == "block_the_loop" for name in BAD_LUCK},
}


class Lines:
    """A log that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        self.lines.append(f"{level}: [{tag}] [{subtag}] {text}")

    def __contains__(self, part: str) -> bool:
        return any(part in line for line in self.lines)


class LonePort:
    """`port` and what belongs to it. `sync`: the incarnation in sync's row."""

    def __init__(self, framework: FakeFramework, tmp_path: Path, **own: Any) -> None:
        self.framework = framework
        settings = Settings(
            str(framework.root),
            cluster=ClusterBlock(key=Secret(KEY)),
            clusterd=Clusterd(framework=FrameworkSettings(**own)),
            framework_python=str(framework.python),
        )
        self._board = Board.create(str(tmp_path / f"board-{id(self)}"))
        self.row = self._board.add_row("sync")
        self.row.begin(1, 1)
        self.helpers = Helpers(
            settings.framework_python, settings.root, settings.clusterd.framework.processes, self.row
        )
        self.log = Lines()
        self.troubles = Troubles()
        self.spool = Spool(str(framework.root), 1)
        Path(self.spool.directory).mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.make_port(1)

    def make_port(self, incarnation: int) -> None:
        """Makes the port of another life of sync."""
        fd = self.helpers.sync_end
        assert fd is not None
        clock = Clock()
        self.crew = Crew(
            self.settings,
            NAMES,
            lambda take, tell: Supply(fd, incarnation, take, tell),
            spool=self.spool,
            log=TagLog(self.log, "Master", "Framework"),  # type: ignore[arg-type]
            troubles=self.troubles,
            clock=clock,
        )
        self.port = FrameworkPort(self.crew, NAMES, self.settings.clusterd.framework.processes, self.spool, clock)

    async def run(
        self,
        module: str,
        name: str,
        *,
        timeout_s: float | None = 60.0,
        is_read_only: bool = True,
        asker: str = "",
        **arguments: Any,
    ) -> Any:
        """Returns the answer's `__object__`."""
        answer = await self.answer(
            module, name, timeout_s=timeout_s, is_read_only=is_read_only, asker=asker, **arguments
        )
        try:
            (found,) = msgspec.json.decode(self.read(answer)).values()
            return found["__object__"]
        finally:
            if answer.path:
                Path(answer.path).unlink()

    async def answer(
        self, module: str, name: str, *, timeout_s: float | None, is_read_only: bool, asker: str, **arguments: Any
    ) -> Text:
        """Returns the answer unchanged; if it is a file, the caller has to remove it."""
        text = Text(request(module, name, **arguments))
        return await self.port.run(
            text, timeout_s=timeout_s, is_read_only=is_read_only, name=named(module, name), asker=asker
        )

    def read(self, answer: Text) -> bytes:
        return Path(answer.path).read_bytes()[answer.offset :] if answer.path else answer.payload

    async def until(self, condition: Any, what: str, timeout_s: float = 60.0) -> Any:
        async with asyncio.timeout(timeout_s):
            while not (found := condition()):
                await asyncio.sleep(0.01)
        return found

    @property
    def shown(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.port.shown()["helpers"]
        return found

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator["LonePort"]:
        """Runs the supervisor's part and sync's; afterwards no process and no file of them may be left."""
        turning = asyncio.create_task(self._turn())
        forever = asyncio.create_task(self.crew.forever())
        try:
            yield self
        finally:
            forever.cancel()
            await asyncio.gather(forever, return_exceptions=True)
            await self.crew.close()
            turning.cancel()
            self.helpers.kill()
            await self.until(lambda: not self.helpers.living(), "all helpers are gone")
            self.helpers.close()
            self._board.close()
        assert not list(Path(self.spool.directory).iterdir())

    async def _turn(self) -> None:
        while True:
            self.helpers.look(asyncio.get_running_loop().time())
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def no_sigio() -> Iterator[None]:
    """A signal announces messages to the supervisor's part; it ends a process that does not expect it."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGIO, before)

"""A master's store without its sockets, whose lease holds or not as a test says."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from clusterd.settings import ForceRules
from clusterd.store import schema, table
from clusterd.store.authd import Authd
from clusterd.store.engine import Engine
from clusterd.store.gate import WriteGate
from clusterd.store.keys import KeyFile
from clusterd.store.private import PrivateDatabases

ADD = b'{"function": "add", "arguments": {"name": "%s", "ip": "any"}}'


class Bench:
    """A master's store without its sockets. `leads`: whether the lease holds. `confirms`: set when a candidate has what
    was written; `may_answer`: the answer to whether it may be answered then; `cannot`: why no change could be."""

    def __init__(self, root: Path) -> None:
        self.root, self.leads, self.may_answer, self.cannot = str(root), True, True, ""
        (root / "etc/shared").mkdir(parents=True)
        (root / "queue").mkdir(exist_ok=True)
        (root / "etc/client.keys").touch()
        schema.prepare(self.root, "m", "4.14.1", log=True)
        self.gate = WriteGate(lambda: self.leads)
        self.engine = Engine(self.root, readers=1, gate=self.gate)
        self.private = PrivateDatabases(self.root, "4.14.1")
        self.confirms = asyncio.Event()
        self.confirms.set()
        self.file = KeyFile(self.root)
        self.said: list[str] = []
        self.agents = table.StoreTable(self.engine, self.private, self._replicated, self._ready)
        self.authd = Authd(
            self.root,
            self.agents,
            self.file,
            ForceRules,
            say=lambda level, text: self.said.append(text),
            host_name="host",
            gate=self.gate,
        )

    def begin_next_life(self, replicated: Callable[[int], Awaitable[bool]]) -> None:
        """What the store knew of its changes is forgotten."""
        self.agents.__init__(self.engine, self.private, replicated)  # type: ignore[misc]

    async def _replicated(self, position: int) -> bool:
        await self.confirms.wait()
        return self.may_answer

    async def _ready(self) -> str:
        return self.cannot

    async def get(self, agent_id: str) -> bytes:
        return await self.authd.answer(b'{"function": "get", "arguments": {"id": "%s"}}' % agent_id.encode())

    async def add(self, name: str) -> bytes:
        return await self.authd.answer(ADD % name.encode())

    @property
    def keys(self) -> str:
        return Path(self.root, "etc/client.keys").read_text()


def run(root: Path, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(root)
        serving = asyncio.create_task(bench.authd.run())
        try:
            async with asyncio.timeout(60):
                await story(bench)
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            bench.engine.close()

    asyncio.run(main())

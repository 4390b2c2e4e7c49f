"""A running authd inside a test, over a database in a dictionary."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from clusterd.agent_keys import Key, parse_keys
from clusterd.settings import ForceRules
from clusterd.store.authd import Authd
from clusterd.store.keys import KeyFile
from tests.fakes.agent_table import FakeAgentTable
from tests.fakes.events import Events
from tests.fakes.file_ops import FaultyOps


class Node:
    """A running authd. `ops`, `table`: its file operations and its database; `log`: its lines."""

    def __init__(self, root: Path, table: FakeAgentTable, ops: FaultyOps) -> None:
        self.root = root
        self.table = table
        self.ops = ops
        self.log: list[tuple[str, str]] = []
        self.events = Events()
        file = KeyFile(str(root), ops)
        self.authd = Authd(
            str(root),
            table,
            file,
            ForceRules,
            say=lambda *line: self.log.append(line),
            host_name="manager",
            tell=self.events.tell,
        )

    async def ask(self, function: str, **arguments: Any) -> Any:
        return json.loads(await self.authd.answer(json.dumps({"function": function, "arguments": arguments}).encode()))

    async def add(self, name: str, ip: str = "any", **arguments: Any) -> Any:
        return await self.ask("add", name=name, ip=ip, **arguments)

    @property
    def path(self) -> Path:
        return self.root / "etc/client.keys"

    @property
    def keys(self) -> dict[str, Key]:
        return {key.name: key for key in parse_keys(self.path.read_text())[0] if not key.is_removed}

    def assert_even(self) -> None:
        """Returns whether file and database have the same agents."""
        assert {key.number: (key.name, key.key) for key in self.keys.values()} == {
            number: (agent.name, agent.internal_key) for number, agent in self.table.agents.items()
        }


def live_authd(root: Path, work: Callable[[Node], Awaitable[None]], table: FakeAgentTable | None = None) -> Node:
    """Runs `work` beside an authd whose files are below `root`. Raises the exceptions of both."""
    for directory in ("etc/shared/default", "queue"):
        (root / directory).mkdir(parents=True, exist_ok=True)

    async def main() -> Node:
        node = Node(root, table or FakeAgentTable(), FaultyOps())
        running = asyncio.create_task(node.authd.run())
        working = asyncio.create_task(_to_the_end(work(node)))
        try:
            await asyncio.wait({running, working}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()  # it has failed, or `work` has told it to finish
            await working
        finally:
            for task in (running, working):
                task.cancel()
            await asyncio.gather(running, working, return_exceptions=True)
        return node

    return asyncio.run(main())


async def _to_the_end(work: Awaitable[None]) -> None:
    await work

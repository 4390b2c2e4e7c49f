"""A follower of etc/shared and etc/client.keys with its database, for tests."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from clusterd.messages.journal import AnyEvent
from clusterd.store.engine import Engine
from clusterd.store.follow import Follower
from clusterd.store.keys import keys_in_use
from clusterd.store.private import PrivateDatabases


class Node:
    """A follower with its engine; it looks when the test tells it to."""

    def __init__(self, engine: Engine, root: Path, *, on_worker: bool, is_first_life: bool) -> None:
        self.engine = engine
        self.shared = root / "etc/shared"
        self.keys = root / "etc/client.keys"
        self.said: list[str] = []
        self.told: list[AnyEvent] = []
        self.follower = Follower(
            engine,
            PrivateDatabases(str(root), "4.14.1"),
            str(root),
            on_worker=on_worker,
            is_first_life=is_first_life,
            read_keys=lambda: keys_in_use(str(root)),
            say=lambda level, text: self.said.append(f"{level} {text}"),
            tell=self.told.append,
        )

    async def look(self) -> None:
        await self.follower.look()

    async def groups(self) -> list[str]:
        return await self.column('select name from "group" order by name')

    async def agents(self) -> list[int]:
        return await self.column("select id from agent where id > 0 order by id")

    async def column(self, query: str) -> list[Any]:
        return await self.engine.read(lambda db: [row[0] for row in db.execute(query)])


Work = Callable[[Node], Awaitable[None]]

"""A node's tree with the keeper of its manifest: a real tree, real file events, real jobs."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from clusterd.clock import Clock
from clusterd.settings import DEFAULT_RULES, Settings
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.manifest.scan import Scan
from hashing.digest_cache import file_rows
from hashing.live_manifest import load_live
from hashing.manifest import build_manifest
from hashing.walk import scan_shard
from tests.fakes.pool import InlinePool
from tools.rig.patience import Patience

SOON_S = 60.0


class Node:
    """A tree and its keeper. `told`: the warnings; `published`: every new scan."""

    def __init__(self, root: Path, *, watch: bool = True, share: float = 0.5, **options: Any) -> None:
        self.root = root
        self.state = root / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        for item in DEFAULT_RULES.items:
            (root / item.key).mkdir(parents=True, exist_ok=True)
        self.pool = InlinePool(Settings(str(root)))
        self.told: list[str] = []
        self.published: list[Scan] = []
        options.setdefault("clock", Clock())
        options.setdefault("full_walk_s", 300.0)
        self.keeper = ManifestKeeper(
            str(root),
            str(self.state),
            2,
            cast(Any, self.pool),
            rules=DEFAULT_RULES if watch else None,
            max_delete_share=share,
            log=cast(Any, SimpleNamespace(warning=self.told.append, error=self.told.append, info=self.told.append)),
            **options,
        )
        self.keeper.changed.append(self.published.append)

    def write(self, path: str, content: str = "x") -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        return target

    def fill(self, count: int, directory: str = "etc/rules") -> None:
        for number in range(count):
            self.write(f"{directory}/{number}.xml", str(number))

    def walked(self) -> str:
        """Returns the digest of the files on the disk."""
        found = scan_shard(str(self.root), DEFAULT_RULES, 0, 1).rows
        return build_manifest(file_rows(found), found.unread).root_digest

    def rows(self) -> set[str]:
        assert self.keeper.current is not None
        return {row.path for row in load_live(str(self.state), self.keeper.current.root_digest).rows}

    def kinds(self) -> list[type]:
        return [type(job) for job in self.pool.done]


Story = Callable[[Node], Awaitable[None]]


def play(node: Node, story: Story, *, follow: bool = True) -> None:
    """Runs the story beside the keeper's own task; afterwards no thread may be left."""

    async def run() -> None:
        task = asyncio.create_task(node.keeper.run()) if follow else None
        try:
            await story(node)
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await node.keeper.close()

    asyncio.run(run())
    assert "watch" not in {thread.name for thread in threading.enumerate()}


async def until(claim: Callable[[], bool], what: str = "") -> None:
    patience = Patience(SOON_S)
    while not claim():
        assert not patience.is_over(), what or "it did not happen"
        await asyncio.sleep(0.01)


async def until_equal(node: Node) -> None:
    """Waits until the published manifest equals the files on the disk."""

    def is_equal() -> bool:
        assert node.keeper.current is not None
        return node.keeper.current.root_digest == node.walked()

    await until(is_equal, "the manifest does not follow")

"""Links that end between two steps of a worker's sync."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from clusterd.settings import Limits
from clusterd.sync.incoming import Incoming
from clusterd.sync.integrity_worker import MAX_SYNCS, IntegrityWorker
from clusterd.sync.spool import Spool


class Silent:
    """A journal, a clock and whatever else is only told something."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0.0


def test_link_that_ends_as_a_sync_begins_does_not_keep_the_next_from_beginning(tmp_path: Path) -> None:
    settings = SimpleNamespace(communication=SimpleNamespace(timeout_receiving_file_s=60.0), root=str(tmp_path))
    context = SimpleNamespace(
        journal=lambda tag, subtag: Silent(),
        node_name="w1",
        clock=Silent(),
        settings=settings,
        progress=[],
        manifests=SimpleNamespace(current=None),
    )

    async def story() -> None:
        worker = IntegrityWorker(cast(Any, context), lambda: None)
        for _ in range(MAX_SYNCS + 1):
            spool = Spool(str(tmp_path), 1)
            incoming = Incoming("w1", spool, cast(Any, None), file_limit=1, limits=Limits(), now=lambda: 0.0)
            worker.begin_sync(cast(Any, SimpleNamespace(name="m", incoming=incoming)))
            incoming.close()
            for _ in range(5):
                await asyncio.sleep(0)
        assert context.progress == []

    asyncio.run(story())


def test_packages_are_applied_one_after_the_other_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """The master may send the next one ahead while this node still applies one: older files must not come last."""
    context = SimpleNamespace(
        journal=lambda tag, subtag: Silent(), node_name="w1", spool=SimpleNamespace(remove=lambda *paths: None)
    )
    seen: list[str] = []

    class Watched(IntegrityWorker):
        async def _apply(self, package: str, journal: Any, progress: Any) -> int:
            seen.append(f"{package} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(f"{package} ends")
            return 0

    async def story() -> None:
        worker = Watched(cast(Any, context), lambda: None)
        peer, progress = cast(Any, SimpleNamespace(name="m")), cast(Any, SimpleNamespace(step=""))
        await asyncio.gather(*(worker._apply_package(peer, name, progress) for name in ("first", "second")))

    asyncio.run(story())
    assert seen == ["first begins", "first ends", "second begins", "second ends"]

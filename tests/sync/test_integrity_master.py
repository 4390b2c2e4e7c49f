"""What a master answers to a stock worker that wants to check."""

import asyncio
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.settings import Settings
from clusterd.sync.integrity.master import IntegrityMaster


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Awaiting:
    """Returns the files for which a link is waiting."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    @property
    def awaited_count(self) -> int:
        return len(self.ids)

    def awaited(self, task_id: str) -> str | None:
        return task_id if task_id in self.ids else None

    def expect(self, task_id: str) -> str:
        self.ids.append(task_id)
        return task_id


def master(tmp_path: Path, *, scanned: bool) -> IntegrityMaster:
    context = SimpleNamespace(
        settings=Settings(str(tmp_path)),
        clock=SimpleNamespace(monotonic=lambda: 100.0, awake=lambda: 100.0, wall=lambda: 0.0),
        tag_log=lambda tag, subtag: Silent(),
        manifests=SimpleNamespace(current=SimpleNamespace() if scanned else None),
        jobs=None,
        spool=None,
    )
    return IntegrityMaster(cast(Any, context))


def worker(name: str = "w1") -> Any:
    return SimpleNamespace(
        name=name, tag=f"Worker {name}", program="", incoming=Awaiting(), spawn=lambda work: work.close()
    )


def test_no_worker_may_check_before_the_first_scan(tmp_path: Path) -> None:
    """docs/protocol/quirks.md C7: compared with an empty map, a worker would be told to delete everything."""
    early, ready = master(tmp_path, scanned=False), master(tmp_path, scanned=True)
    assert asyncio.run(early.ask_permission(worker())) == b"False"
    assert asyncio.run(ready.ask_permission(worker())) == b"True"
    assert asyncio.run(ready.ask_permission(worker())) == b"False", "one for each scan"


def test_refusal_before_the_first_scan_uses_up_no_leave(tmp_path: Path) -> None:
    integrity = master(tmp_path, scanned=False)
    assert asyncio.run(integrity.ask_permission(worker())) == b"False"
    cast(Any, integrity)._context.manifests.current = SimpleNamespace()
    assert asyncio.run(integrity.ask_permission(worker())) == b"True"


def test_two_checks_of_a_worker_may_wait_for_their_files_and_no_third(tmp_path: Path) -> None:
    integrity, peer = master(tmp_path, scanned=True), worker()
    asked = [str(uuid.uuid4()) for _ in range(3)]
    assert [integrity.begin_check(peer, task_id.encode()) for task_id in asked[:2]] == asked[:2]
    with pytest.raises(ClusterError, match="two integrity checks of this worker wait"):
        integrity.begin_check(peer, asked[2].encode())
    assert peer.incoming.ids == asked[:2]
    other = worker("w2")
    assert integrity.begin_check(other, asked[2].encode()) == asked[2]


def test_missing_or_used_task_id_is_replaced(tmp_path: Path) -> None:
    integrity, peer = master(tmp_path, scanned=True), worker()
    first = integrity.begin_check(peer, b"not an id")
    assert str(uuid.UUID(first)) == first
    second = integrity.begin_check(peer, first.encode())
    assert second != first

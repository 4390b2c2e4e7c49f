"""A candidate knows, also after a power failure of all nodes, that it has all files of its master."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusterd.sync.integrity import complete_files
from clusterd.sync.integrity.complete_files import NAME, CompleteFiles, forget
from hashing.atomic import FileOps
from tests.sync.kept_tree import until


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)

    error = warning


def context_of(root: Path, *, cluster: str = "wazuh", replica: bool = True) -> Any:
    for directory in ("etc/rules", "queue/cluster/.clusterd"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    rules = SimpleNamespace(items=[SimpleNamespace(key="etc/rules"), SimpleNamespace(key="etc/lists")])
    own = SimpleNamespace(root=str(root), cluster=SimpleNamespace(name=cluster), rules=rules, has_replica=replica)
    return SimpleNamespace(settings=own)


async def noted(root: Path, results: Sequence[str], log: Log | None = None, **more: Any) -> CompleteFiles:
    files = CompleteFiles(context_of(root, **more), log or Log())  # type: ignore[arg-type]
    for result in results:
        files.note(result)
        await until(lambda: not files._is_writing)
    return files


@pytest.mark.parametrize(
    ("results", "known"),
    [
        ((), False),
        (("failed",), False),
        (("equal",), True),
        (("synced", "failed"), True),
        (("equal", "partly"), False),
        (("partly", "failed", "synced"), True),
    ],
)
def test_next_life_knows_what_the_one_before_knew(tmp_path: Path, results: tuple[str, ...], known: bool) -> None:
    async def story() -> None:
        assert (await noted(tmp_path, results)).are_known == known
        assert (await noted(tmp_path, ())).are_known == known

    asyncio.run(story())


def test_files_of_another_cluster_or_of_a_time_without_replica_are_not_known_to_be_complete(tmp_path: Path) -> None:
    async def story() -> None:
        await noted(tmp_path, ("equal",))
        assert not (await noted(tmp_path, (), cluster="other")).are_known
        assert (await noted(tmp_path, (), replica=False)).are_known is False
        assert (await noted(tmp_path, ("equal",), replica=False)).are_known
        assert not (await noted(tmp_path, ())).are_known

    asyncio.run(story())


def test_master_forgets_it_because_its_files_are_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        await noted(tmp_path, ("equal",))
        forget(context_of(tmp_path), Log())  # type: ignore[arg-type]
        assert not (await noted(tmp_path, ())).are_known

    asyncio.run(story())


def test_files_are_on_the_disk_before_the_mark_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []

    class Ops(FileOps):
        def syncfs(self, fd: int) -> None:
            did.append("files")

        def fsync(self, fd: int) -> None:
            did.append("mark")

    monkeypatch.setattr(complete_files, "FileOps", Ops)
    asyncio.run(noted(tmp_path, ("equal",)))
    assert did[0] == "files"
    assert "mark" in did


def test_mark_that_cannot_be_written_is_tried_again_with_the_next_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        log = Log()

        class Full(FileOps):
            def syncfs(self, fd: int) -> None:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(complete_files, "FileOps", Full)
        files = await noted(tmp_path, ("equal",), log)
        assert files.are_known
        assert log.lines == [f"{NAME} cannot be written: [Errno 28] No space left on device"]
        assert not (tmp_path / NAME).exists()
        monkeypatch.setattr(complete_files, "FileOps", FileOps)
        files.note("equal")
        await until((tmp_path / NAME).exists)

    asyncio.run(story())


def test_mark_that_is_removed_is_gone_from_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure it would say that all files are here."""
    synced: list[Path] = []

    def sync(path: Path) -> None:
        assert not (tmp_path / NAME).exists()
        synced.append(path)
        if len(synced) > 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(complete_files, "sync_path", sync)
    log = Log()
    asyncio.run(noted(tmp_path, ("equal", "partly", "equal", "partly"), log))
    asyncio.run(noted(tmp_path, ("equal",)))
    forget(context_of(tmp_path), log)  # type: ignore[arg-type]
    assert synced == [(tmp_path / NAME).parent] * 3
    assert log.lines == [f"{NAME} cannot be removed: [Errno 5] Input/output error"] * 2


def test_last_of_two_quick_results_stays(tmp_path: Path) -> None:
    async def story() -> None:
        files = await noted(tmp_path, ())
        files.note("equal")
        files.note("partly")
        await until(lambda: not files._is_writing)
        assert not (await noted(tmp_path, ())).are_known

    asyncio.run(story())

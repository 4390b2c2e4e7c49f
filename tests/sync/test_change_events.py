"""The journal gets the files in which a new manifest differs, whatever made the manifest."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.clock import Clock
from clusterd.messages.journal import LARGEST, MOST_FILES, ChangeEvent, FileChange
from clusterd.messages.manifest import BuildManifest, PatchManifest
from clusterd.pool.changes import MOST_LISTED, ChangeNote
from clusterd.settings import DEFAULT_RULES, Settings
from clusterd.sync.manifest.change_events import ChangeEvents
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from hashing.live_manifest import LiveManifest
from hashing.manifest import FileMeta, build_manifest
from hashing.protection import Guard, apply_changes
from tests.fakes.pool import InlinePool


class Node:
    """A keeper over real files and jobs. `told`: what the journal gets."""

    def __init__(self, root: Path, *, share: float) -> None:
        self.root = root
        for directory in ("etc/rules", "state", "spool"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        self.told: list[Any] = []
        self.count = 0
        self.keeper = ManifestKeeper(
            str(root),
            str(root / "state"),
            2,
            cast(Any, InlinePool(Settings(str(root), rules=DEFAULT_RULES))),
            Clock(),
            300.0,
            max_delete_share=share,
            events=ChangeEvents(self.told.append, self._new_path, self._remove),
        )

    def _new_path(self) -> str:
        self.count += 1
        return str(self.root / f"spool/{self.count}-changes")

    def _remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        (self.root / "etc/rules" / name).write_text(text)

    def changes(self) -> list[ChangeEvent]:
        """As the monitor gets them."""
        data = [msgspec.msgpack.encode(event) for event in self.told]
        assert all(len(one) < LARGEST - 1000 for one in data)
        self.told.clear()
        assert os.listdir(self.root / "spool") == []
        return [msgspec.msgpack.decode(one, type=ChangeEvent) for one in data]


def play(root: Path, story: Callable[[Node], Awaitable[None]], share: float = 0.5) -> None:
    async def main() -> None:
        node = Node(root, share=share)
        try:
            await story(node)
        finally:
            await node.keeper.close()

    asyncio.run(main())


def whats(change: ChangeEvent) -> dict[str, str]:
    return {file.path: file.what for file in change.files}


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["master", "worker"])
def test_each_change_is_an_event_with_its_files_and_a_first_scan_is_none(tmp_path: Path, share: float) -> None:
    async def story(node: Node) -> None:
        node.write("a.xml", "one")
        node.write("b.xml", "two")
        await node.keeper.scan()
        assert node.changes() == []
        node.write("a.xml", "another")
        node.write("c.xml", "three")
        os.unlink(tmp_path / "etc/rules/b.xml")
        scan = await node.keeper.walk()
        (change,) = node.changes()
        assert (change.manifest, change.source) == (scan.content_digest[:12], "scan")
        assert (change.added, change.changed, change.deleted, change.part, change.parts) == (1, 1, 1, 1, 1)
        assert whats(change) == {
            "etc/rules/a.xml": "changed",
            "etc/rules/b.xml": "deleted",
            "etc/rules/c.xml": "added",
        }
        changed = change.files[0]
        assert (changed.size_before, changed.size) == (3, 7)
        assert changed.digest_before != changed.digest
        assert len(changed.digest or b"") == 16
        assert (change.files[1].size, change.files[2].digest_before) == (None, None)

    play(tmp_path, story, share)


def test_a_file_that_was_only_touched_is_no_change(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        node.write("a.xml", "one")
        await node.keeper.scan()
        os.utime(tmp_path / "etc/rules/a.xml", (1, 1))
        await node.keeper.walk()
        assert node.changes() == []

    play(tmp_path, story)


def test_changes_while_a_master_was_down_are_an_event(tmp_path: Path) -> None:
    async def first(node: Node) -> None:
        node.write("a.xml", "one")
        await node.keeper.scan()

    async def second(node: Node) -> None:
        node.write("a.xml", "two")
        await node.keeper.scan()
        (change,) = node.changes()
        assert whats(change) == {"etc/rules/a.xml": "changed"}

    play(tmp_path, first)
    play(tmp_path, second)


def rows(count: int, digest: bytes = b"d" * 64) -> list[FileMeta]:
    return [FileMeta(f"etc/rules/{number:06}-{'x' * 100}.xml", "etc/rules/", digest, 1, 1) for number in range(count)]


def noted(path: Path, before: list[FileMeta], now: list[FileMeta], guard: Guard = Guard()) -> Any:  # noqa: B008  # frozen
    live = LiveManifest(build_manifest(before))
    after = {row.path: row for row in now}
    changes = {path: after.get(path) for path in {*after, *(row.path for row in before)}}
    note = ChangeNote(live, changes)
    apply_changes(live, changes, frozenset(), guard)
    return note.listed(str(path))


def test_a_change_of_many_files_is_divided_into_events_that_fit_and_add_up(tmp_path: Path) -> None:
    told: list[Any] = []
    events = ChangeEvents(told.append, lambda: str(tmp_path / "changes"), os.unlink)
    listed = noted(tmp_path / "changes", rows(2500), rows(2000, b"e" * 64))
    events.note(cast(Any, type("Built", (), {"listed": listed})()))
    events.published("c" * 32, "events", 0.5)
    data = [msgspec.msgpack.encode(event) for event in told]
    assert max(map(len, data)) < LARGEST - 1000
    parts = [msgspec.msgpack.decode(one, type=ChangeEvent) for one in data]
    assert [part.part for part in parts] == list(range(1, parts[0].parts + 1))
    assert all(len(part.files) == part.changed + part.deleted <= MOST_FILES for part in parts)
    assert (sum(part.changed for part in parts), sum(part.deleted for part in parts)) == (2000, 500)
    paths = [file.path for part in parts for file in part.files]
    assert paths == [row.path for row in rows(2500)]
    assert os.listdir(tmp_path) == []


def test_files_beyond_the_list_are_counted(tmp_path: Path) -> None:
    listed = noted(tmp_path / "changes", [], rows(MOST_LISTED + 3))
    assert (listed.added, listed.unlisted) == (MOST_LISTED + 3, 3)


def test_files_that_a_master_withholds_are_events_of_their_own(tmp_path: Path) -> None:
    listed = noted(tmp_path / "changes", rows(100), rows(10), Guard(0.5, judge=True))
    files = msgspec.msgpack.decode(listed.files, type=list[FileChange])
    assert (listed.deleted, listed.withheld) == (0, 90)
    assert {file.what for file in files} == {"withheld"}


def test_file_of_a_job_that_is_gone_hinders_no_manifest(tmp_path: Path) -> None:
    told: list[Any] = []
    events = ChangeEvents(told.append, lambda: "", lambda path: None)
    listed = noted(tmp_path / "changes", rows(2500), [])
    os.unlink(tmp_path / "changes")
    events.note(cast(Any, type("Built", (), {"listed": listed})()))
    events.published("c" * 32, "scan", 0.5)
    (change,) = [msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=ChangeEvent) for event in told]
    assert (change.deleted, change.files) == (2500, ())


def test_list_that_cannot_be_written_hinders_no_manifest(tmp_path: Path) -> None:
    """A full disk: the files are counted, and what was written of the list is removed."""
    told: list[Any] = []
    events = ChangeEvents(told.append, lambda: "", lambda path: None)
    listed = noted(tmp_path / "no directory" / "changes", rows(2500), [])
    events.note(cast(Any, type("Built", (), {"listed": listed})()))
    events.published("c" * 32, "scan", 0.5)
    (change,) = [msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=ChangeEvent) for event in told]
    assert (change.deleted, change.unlisted, change.files) == (2500, 2500, ())


def test_job_that_fails_leaves_no_list(tmp_path: Path) -> None:
    class DyingPool(InlinePool):
        dies = False

        async def run(self, job: Any, **how: Any) -> Any:
            done = await super().run(job, **how)
            if self.dies and isinstance(job, PatchManifest | BuildManifest):
                Path(job.changes).write_bytes(b"a part of it")
                raise JobError("bug", "the process that ran it died, twice")
            return done

    async def story(node: Node) -> None:
        pool = DyingPool(Settings(str(tmp_path), rules=DEFAULT_RULES))
        node.keeper._builder.jobs = cast(Any, pool)
        await node.keeper.scan()
        pool.dies = True
        for text in ("one", "two"):
            node.write("a.xml", text)
            with pytest.raises(ScanFailed):
                await node.keeper.walk()
        assert os.listdir(tmp_path / "spool") == []

    play(tmp_path, story)

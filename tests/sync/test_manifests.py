"""The keeper of the manifest with a real tree, real file events and real jobs: what it publishes, and when."""

import asyncio
import shutil
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest

from clusterd.messages.base import Job, Result
from clusterd.messages.manifest import BuildManifest, PatchManifest, ScanShard
from clusterd.settings import DEFAULT_RULES, Clusterd, Settings
from clusterd.sync.manifest import builder, keeper
from clusterd.sync.manifest.confirming import RETRY_S
from clusterd.sync.manifest.files import ManifestFiles
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.troubles import Troubles
from hashing.atomic import FileOps
from hashing.live_manifest import load_live
from hashing.manifest import Manifest, save_manifest
from hashing.rules import ItemRule
from tests.fakes.clock import FakeClock
from tests.fakes.pool import InlinePool
from tests.sync.kept_tree import Node, play, until, until_equal

R = TypeVar("R", bound=Result)


def scans(node: Node) -> list[ScanShard]:
    return [job for job in node.pool.done if isinstance(job, ScanShard)]


def test_change_is_published_at_once_and_by_a_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second scan does not wait for the pause between two."""
    node = Node(tmp_path)
    node.fill(100)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        await asyncio.sleep(2 * keeper.PUBLISH_EVERY_S)  # the pause after that is over
        monkeypatch.setattr(keeper, "PUBLISH_EVERY_S", 1000.0)
        node.pool.done.clear()
        count = len(node.published)
        node.write("etc/rules/1.xml", "edit")
        await until(lambda: len(node.published) > count)
        assert set(node.kinds()) == {PatchManifest}

    play(node, story)


def test_scan_costs_nothing_while_nothing_changes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.fill(10)

    async def story(node: Node) -> None:
        first = await node.keeper.scan()
        node.pool.done.clear()
        later = await node.keeper.scan()
        assert node.pool.done == []
        assert later.ended_at > first.ended_at
        assert (later.root_digest, later.files, later.hashed) == (first.root_digest, 10, 0)
        assert len(node.published) == 1

    play(node, story)


def test_fresh_scan_waits_for_the_events_of_a_moment_ago(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        node.write("etc/rules/a.xml")
        await node.keeper.scan(fresh=True)
        assert node.rows() == {"etc/rules/a.xml"}

    play(node, story, follow=False)


def test_target_of_a_link_is_looked_at_at_each_tick(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.write("etc/rules/a.xml", "a")
    (node.root / "etc/rules/sub").mkdir()
    (node.root / "etc/rules/sub/link").symlink_to("../a.xml")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        node.write("etc/rules/a.xml", "b")
        await node.keeper.scan(fresh=True)
        assert node.keeper.current is not None
        assert node.keeper.current.root_digest == node.walked()
        assert ScanShard not in node.kinds()[3:]

    play(node, story, follow=False)


def test_own_temporary_files_and_those_of_no_item_ask_for_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        node.pool.done.clear()
        node.write("etc/rules/.clusterd-0011223344556677.tmp")
        node.write("etc/ossec.conf")
        node.write("etc/rules/a.xml.swp")
        await node.keeper.scan(fresh=True)
        assert node.pool.done == []

    play(node, story, follow=False)


def test_very_many_changes_are_walked(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        node.pool.done.clear()
        node.keeper.touch(f"etc/rules/{number}" for number in range(1001))
        await node.keeper.scan()
        assert node.kinds()[:2] == [ScanShard, ScanShard]

    play(node, story, follow=False)


@pytest.mark.parametrize(("files", "is_watched"), [(20, True), (5000, False)])
def test_what_a_node_changes_itself_is_followed_when_it_has_ended(tmp_path: Path, files: int, is_watched: bool) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        published, jobs = len(node.published), len(node.pool.done)
        async with node.keeper.own_changes(files):
            assert node.keeper.watching is is_watched
            node.fill(20)
            node.keeper.touch(f"etc/rules/{number}.xml" for number in range(20))
            for _ in range(50):
                await asyncio.sleep(0.01)  # as long as events take to come, and more
            assert (len(node.published), len(node.pool.done)) == (published, jobs)
        await until_equal(node)
        assert node.keeper.watching
        assert (ScanShard in node.kinds()[jobs:]) is not is_watched
        node.write("etc/rules/later.xml")
        await until_equal(node)

    play(node, story)


def test_every_file_is_read_when_a_full_walk_is_due(tmp_path: Path) -> None:
    clock = FakeClock()
    node = Node(tmp_path, clock=clock, full_walk_s=60.0)
    node.write("etc/rules/a.xml")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        clock.move(59)
        node.keeper.touch([])
        await node.keeper.scan()
        node.pool.done.clear()
        clock.move(1)
        node.keeper.touch([])
        await until(lambda: len(scans(node)) == 2, "every file is read")
        assert [job.ignore_cache for job in scans(node)] == [True, True]
        assert {job.gives_way for job in scans(node)} == {0}, "nobody waits for it"

    play(node, story)


def test_unwatched_tree_is_read_as_a_whole_when_it_is_due(tmp_path: Path) -> None:
    clock = FakeClock()
    node = Node(tmp_path, watch=False, clock=clock, full_walk_s=60.0)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        node.pool.done.clear()
        clock.move(60)
        await node.keeper.scan()
        assert [(job.ignore_cache, job.gives_way) for job in scans(node)] == [(True, -1), (True, -1)]

    play(node, story)


class SlowWalks(InlinePool):
    """Walks in the background go on until another task is in a hurry. `lanes`: the lane of each walk that was begun."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.in_a_hurry = asyncio.Event()
        self.lanes: list[str] = []

    def hurry(self) -> None:
        super().hurry()
        self.in_a_hurry.set()

    async def run(self, job: Job[R], *, urgent: bool = False, lane: str = "bulk", begin_by: float | None = None) -> R:
        if isinstance(job, ScanShard):
            self.lanes.append(lane)
        if lane == "background":
            self.in_a_hurry.clear()
            await self.in_a_hurry.wait()
            raise JobError("gave-way", "somebody waits")
        return await super().run(job, urgent=urgent, lane=lane)


@pytest.mark.parametrize("who", ["a change", "a scan"])
def test_walk_in_the_background_stops_for_others_and_is_done_afterwards(tmp_path: Path, who: str) -> None:
    clock = FakeClock()
    node = Node(tmp_path, clock=clock, full_walk_s=60.0)
    node.write("etc/rules/a.xml")

    async def story(node: Node) -> None:
        node.pool = pool = SlowWalks(Settings(str(tmp_path)))
        node.keeper._builder.jobs = cast(Any, pool)
        await node.keeper.scan()
        assert pool.lanes == ["bulk", "bulk"], "everybody waits for the first one"
        clock.move(60)
        node.keeper.touch([])
        await until(lambda: "background" in pool.lanes, "the walk begins")
        node.write("etc/rules/b.xml")
        if who == "a change":
            await until(lambda: "etc/rules/b.xml" in node.rows(), "the change is published")
        else:
            await node.keeper.scan(fresh=True)
            assert "etc/rules/b.xml" in node.rows()
        clock.move(RETRY_S)
        node.keeper.touch([])
        await until(
            lambda: pool.lanes[-2:] == ["bulk", "bulk"] and len(pool.lanes) > 4, "it is done with the rank of others"
        )
        assert node.keeper.failure == ""

    play(node, story)


def test_touched_path_is_looked_at_without_a_watch(tmp_path: Path) -> None:
    node = Node(tmp_path, watch=False)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.unwatched == "switched off"
        node.write("etc/rules/a.xml")
        node.keeper.touch(["etc/rules/a.xml"])
        await until_equal(node)

    play(node, story)


@pytest.mark.slow
def test_only_a_short_patch_goes_before_other_jobs(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        run, lanes = node.pool.run, list[str]()

        async def record(job: Any, *, lane: str = "bulk") -> Any:
            if isinstance(job, PatchManifest):
                lanes.append(lane)
            return await run(job, lane=lane)

        await node.keeper.scan()
        node.pool.run = record  # type: ignore[method-assign]
        for names in (["one"], [f"many-{number}" for number in range(builder.MOST_AT_ONCE + 1)]):
            for name in names:
                node.write(f"etc/rules/{name}")
            node.keeper.touch([f"etc/rules/{name}" for name in names])
            await until_equal(node)
        assert (lanes[0], lanes[-1]) == ("chunk", "long")
        node.write("etc/rules/moved-here/with-much-below")
        lanes.clear()
        node.keeper.touch(["etc/rules/moved-here"])
        await until_equal(node)
        assert lanes[0] == "long"

    play(node, story)


def test_scan_of_an_earlier_sync_process_that_ends_late_hides_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool process goes on with its job when sync dies, and writes the same file as that of the new one's scan."""
    node = Node(tmp_path, watch=False)
    node.write("etc/rules/a.xml", "1")
    run = node.pool.run

    async def story(node: Node) -> None:
        await node.keeper.scan()
        shards = {path: path.read_bytes() for path in node.state.glob("shard-*")}
        assert len(shards) == 2
        node.write("etc/rules/a.xml", "another")

        async def late(job: Job[R], **how: Any) -> R:
            if isinstance(job, BuildManifest):
                for path, earlier in shards.items():
                    path.write_bytes(earlier)
            return await run(job, **how)

        monkeypatch.setattr(node.pool, "run", late)
        with pytest.raises(ScanFailed, match="another scan"):
            await node.keeper.scan()
        monkeypatch.undo()
        assert (await node.keeper.scan()).root_digest == node.walked()

    play(node, story, follow=False)


def test_event_during_a_walk_is_looked_at_after_it(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        run = node.pool.run

        async def change_behind_it(job: Any, **how: Any) -> Any:
            outcome = await run(job, **how)
            if isinstance(job, BuildManifest):
                node.write("etc/rules/late")
                node.keeper.touch(["etc/rules/late"])
            return outcome

        node.pool.run = change_behind_it  # type: ignore[method-assign]
        await node.keeper.scan()
        assert node.rows() == set()
        await until_equal(node)

    play(node, story)


@pytest.mark.slow
def test_manifests_of_the_last_half_minute_can_still_be_read(tmp_path: Path) -> None:
    clock = FakeClock()
    node = Node(tmp_path, watch=False, clock=clock)
    node.fill(100)

    async def story(node: Node) -> None:
        digests = [(await node.keeper.scan()).root_digest]
        for number in range(20):
            clock.move(2)
            node.write("etc/rules/1.xml", f"edit {number}")
            node.keeper.touch(["etc/rules/1.xml"])
            count = len(node.published)
            await until(lambda count=count: len(node.published) > count)  # type: ignore[misc]
            digests.append(node.published[-1].root_digest)
        for digest in digests[-15:]:
            assert load_live(str(node.state), digest).root_digest == digest
        assert sum(1 for _ in node.state.glob("manifest-*")) <= 18

    play(node, story)


def test_what_cannot_be_noted_is_published_all_the_same_and_said_once(tmp_path: Path) -> None:
    """The note is for the next process. A directory in its place cannot be replaced by a file."""
    troubles = Troubles()
    node = Node(tmp_path, watch=False, troubles=troubles)
    (node.state / "published" / "x").mkdir(parents=True)

    async def story(node: Node) -> None:
        for number in range(3):
            node.write("etc/rules/1.xml", str(number))
            assert (await node.keeper.scan()).root_digest == node.walked()
        assert len(node.published) == 3
        assert [text.partition(":")[0] for text in node.told] == [
            f"What this node publishes cannot be noted in {node.state}/published"
        ]
        assert [*troubles.shown()] == ["note of what is published"]
        shutil.rmtree(node.state / "published")
        current = await node.keeper.scan()
        assert not troubles.shown()
        assert ManifestFiles(str(node.state)).published_digest == current.root_digest

    play(node, story, follow=False)


def test_reload_that_gives_files_to_another_item_is_published(tmp_path: Path) -> None:
    """Their content is as before, and so are the digests that nodes compare."""
    node = Node(tmp_path)
    node.write("etc/rules/sub/a.xml")
    split = msgspec.structs.replace(
        DEFAULT_RULES, items=(*DEFAULT_RULES.items, ItemRule("etc/rules/sub/", ("all",), True, 0o640))
    )

    async def story(node: Node) -> None:
        before = await node.keeper.scan()
        node.pool = InlinePool(Settings(str(node.root), rules=split))
        node.keeper._builder.jobs = cast(Any, node.pool)
        node.keeper.adopt(Clusterd(), split, is_master=True)
        after = await node.keeper.scan()
        (row,) = load_live(str(node.state), after.root_digest).rows
        assert (row.path, row.item) == ("etc/rules/sub/a.xml", "etc/rules/sub/")
        assert after.root_digest != before.root_digest
        assert after.content_digest == before.content_digest
        assert node.published == [before, after]

    play(node, story, follow=False)


def test_manifest_of_another_version_gets_the_digest_of_this_one(tmp_path: Path) -> None:
    """Or a delta that leads back to it, when a file was made and removed, would not fit: no job could read it."""
    digest = "0" * 32

    async def earlier(node: Node) -> None:
        node.fill(3)
        rows = load_live(str(node.state), (await node.keeper.scan()).root_digest).rows
        save_manifest(FileOps(), str(node.state), Manifest(digest, rows))
        files = ManifestFiles(str(node.state))
        files.publish(digest, "", 0)
        files.note()

    async def story(node: Node) -> None:
        assert ManifestFiles(str(node.state)).published_digest == digest
        assert (await node.keeper.scan()).root_digest == node.walked()

    play(Node(tmp_path, watch=False), earlier, follow=False)
    play(Node(tmp_path, watch=False), story, follow=False)

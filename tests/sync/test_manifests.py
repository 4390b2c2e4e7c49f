"""The keeper of the manifest with a real tree, real file events and real jobs: what it publishes, when, and what it
withholds."""

import asyncio
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from clusterd.clock import Clock
from clusterd.messages.base import Job, Result
from clusterd.messages.manifest import BuildManifest, PatchManifest, ScanShard
from clusterd.settings import DEFAULT_RULES, Clusterd, Settings
from clusterd.sync.manifest import keeper
from clusterd.sync.manifest.confirming import RETRY_S
from clusterd.sync.manifest.files import ManifestFiles
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.manifest.scan import Scan, ScanFailed
from clusterd.sync.manifest.watcher import Notify, watch_recursively
from clusterd.sync.ports.pool_port import JobError
from hashing.compare import compare
from hashing.digest_cache import file_rows
from hashing.live_manifest import load_live
from hashing.manifest import WireMeta, build_manifest
from hashing.walk import scan_shard
from tests.fakes.clock import FakeClock
from tests.fakes.pool import InlinePool
from tools.rig.patience import Patience

SOON_S = 60.0
R = TypeVar("R", bound=Result)


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
        """Digest of what is on the disk."""
        found = scan_shard(str(self.root), DEFAULT_RULES, 0, 1).rows
        return build_manifest(file_rows(found), found.unread).root_digest

    def rows(self) -> set[str]:
        assert self.keeper.current is not None
        return {row.path for row in load_live(str(self.state), self.keeper.current.root_digest).rows}

    def kinds(self) -> list[type]:
        return [type(job) for job in self.pool.done]


Story = Callable[[Node], Awaitable[None]]


def play(node: Node, story: Story, *, follow: bool = True) -> None:
    """Run the story beside the keeper's own task; afterwards no thread may be left."""

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


def scans(node: Node) -> list[ScanShard]:
    return [job for job in node.pool.done if isinstance(job, ScanShard)]


async def until(claim: Callable[[], bool], what: str = "") -> None:
    patience = Patience(SOON_S)
    while not claim():
        assert not patience.is_over(), what or "it did not happen"
        await asyncio.sleep(0.01)


async def until_equal(node: Node) -> None:
    """Until what is published is what is on the disk."""

    def is_equal() -> bool:
        assert node.keeper.current is not None
        return node.keeper.current.root_digest == node.walked()

    await until(is_equal, "the manifest does not follow")


# ---- following events ------------------------------------------------------------------------------------------------


def editor_saves_by_rename(node: Node) -> None:
    node.write("etc/rules/.a.xml.swp1", "new")
    os.rename(node.root / "etc/rules/.a.xml.swp1", node.root / "etc/rules/a.xml")


def vim_keeps_a_backup(node: Node) -> None:
    (node.root / "etc/rules/4913").touch()
    (node.root / "etc/rules/4913").unlink()
    os.rename(node.root / "etc/rules/a.xml", node.root / "etc/rules/a.xml~")
    node.write("etc/rules/a.xml", "new")
    (node.root / "etc/rules/a.xml~").unlink()


def nested_directories_are_made(node: Node) -> None:
    for number in range(20):
        node.write(f"etc/shared/g{number}/deep/er/{number}", "x")


def tree_is_moved_in(node: Node) -> None:
    node.write("outside/sub/x")
    node.write("outside/y")
    os.rename(node.root / "outside", node.root / "etc/lists/moved")


def tree_is_deleted(node: Node) -> None:
    shutil.rmtree(node.root / "etc/rules/dir")


def tree_is_moved_out(node: Node) -> None:
    os.rename(node.root / "etc/rules/dir", node.root / "outside")


def tree_becomes_a_file(node: Node) -> None:
    shutil.rmtree(node.root / "etc/rules/dir")
    node.write("etc/rules/dir")


def edit_keeps_its_time(node: Node) -> None:
    path = node.root / "etc/rules/a.xml"
    status = path.stat()
    path.write_text("A")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def links_are_made(node: Node) -> None:
    (node.root / "etc/rules/link").symlink_to("a.xml")
    (node.root / "etc/rules/out").symlink_to("/etc/hostname")
    (node.root / "etc/rules/nowhere").symlink_to("nothing")


def item_is_replaced(node: Node) -> None:
    os.rename(node.root / "etc/rules", node.root / "etc/rules.old")
    node.write("etc/rules/other", "y")


def item_without_watched_parent_is_replaced(node: Node) -> None:
    os.rename(node.root / "var/multigroups", node.root / "var/old")
    node.write("var/multigroups/g/merged.mg", "y")


def name_is_not_text(node: Node) -> None:
    with open(os.fsencode(node.root) + b"/etc/rules/\xff", "w"):
        pass
    node.write("etc/rules/b.xml")


@pytest.mark.parametrize(
    "change",
    [
        editor_saves_by_rename,
        vim_keeps_a_backup,
        nested_directories_are_made,
        tree_is_moved_in,
        tree_is_deleted,
        tree_is_moved_out,
        tree_becomes_a_file,
        edit_keeps_its_time,
        links_are_made,
        item_is_replaced,
        name_is_not_text,
    ],
)
def test_manifest_follows(tmp_path: Path, change: Callable[[Node], None]) -> None:
    node = Node(tmp_path)
    node.write("etc/rules/a.xml", "a")
    node.write("etc/rules/dir/sub/b.xml")
    node.write("etc/client.keys")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.watching
        change(node)
        await until_equal(node)
        node.write("etc/rules/after", "still watched")
        await until_equal(node)
        assert node.told == []

    play(node, story)


def test_replaced_item_is_noticed_at_the_next_tick(tmp_path: Path) -> None:
    """No event tells of a directory whose parent is not watched."""
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        item_without_watched_parent_is_replaced(node)
        await node.keeper.scan()
        assert "var/multigroups/g/merged.mg" in node.rows()
        node.write("var/multigroups/h/merged.mg")
        await until_equal(node)
        shutil.rmtree(node.root / "var/multigroups")
        await node.keeper.scan()
        await until_equal(node)
        node.write("var/multigroups/g/merged.mg")
        await node.keeper.scan()
        assert "var/multigroups/g/merged.mg" in node.rows()

    play(node, story)


def test_change_is_published_at_once_and_by_a_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the pause that is kept between two."""
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
    """Walks in the background go on until somebody is in a hurry. `lanes`: of each walk that was begun."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.in_a_hurry = asyncio.Event()
        self.lanes: list[str] = []

    def hurry(self) -> None:
        super().hurry()
        self.in_a_hurry.set()

    async def run(self, job: Job[R], *, urgent: bool = False, lane: str = "bulk") -> R:
        if isinstance(job, ScanShard):
            self.lanes.append(lane)
        if lane == "background":
            self.in_a_hurry.clear()
            await self.in_a_hurry.wait()
            raise JobError("gave-way", "somebody waits")
        return await super().run(job, urgent=urgent, lane=lane)


@pytest.mark.parametrize("who", ["a change", "a scan"])
def test_walk_in_the_background_gives_way_and_is_done_afterwards(tmp_path: Path, who: str) -> None:
    clock = FakeClock()
    node = Node(tmp_path, clock=clock, full_walk_s=60.0)
    node.write("etc/rules/a.xml")

    async def story(node: Node) -> None:
        node.pool = pool = SlowWalks(Settings(str(tmp_path)))
        node.keeper._jobs = cast(Any, pool)
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


def test_event_during_a_walk_is_looked_at_after_it(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        run = node.pool.run

        async def change_behind_it(job: Any, *, urgent: bool = False, lane: str = "bulk") -> Any:
            outcome = await run(job, urgent=urgent)
            if isinstance(job, BuildManifest):
                node.write("etc/rules/late")
                node.keeper.touch(["etc/rules/late"])
            return outcome

        node.pool.run = change_behind_it  # type: ignore[method-assign]
        await node.keeper.scan()
        assert node.rows() == set()
        await until_equal(node)

    play(node, story)


# ---- when it cannot be watched ---------------------------------------------------------------------------------------


class Exhausted:
    """Stands for watchfiles where the system has no watches left: when one begins, or while one goes on."""

    def __init__(self, at_start: int) -> None:
        self.left = at_start

    def make(self, paths: list[str]) -> Notify:
        if self.left:
            self.left -= 1
            raise RuntimeError("Error creating recommended watcher: OS file watch limit reached.")
        return watch_recursively(paths)


def test_watches_exhausted_is_said_once_and_tried_again_at_the_full_walk(tmp_path: Path) -> None:
    clock = FakeClock()
    node = Node(tmp_path, clock=clock, full_walk_s=60.0, make_notify=Exhausted(2).make)

    async def story(node: Node) -> None:
        for _ in range(2):
            await node.keeper.scan()
            node.write("etc/rules/a.xml", str(clock.monotonic()))
            await node.keeper.scan()
            assert node.keeper.current is not None
            assert node.keeper.current.root_digest == node.walked()
            assert not node.keeper.watching
            assert "fs.inotify.max_user_watches" in node.keeper.unwatched
            (line,) = node.told
            assert "fs.inotify.max_user_watches" in line
            assert "error" not in line.lower()
            clock.move(60)
        await node.keeper.scan()
        assert (node.keeper.watching, node.keeper.unwatched, len(node.told)) == (True, "", 1)

    play(node, story, follow=False)


def test_watch_that_fails_while_it_goes_on_leads_back_to_walks(tmp_path: Path) -> None:
    failing = threading.Event()

    class Failing:
        def __init__(self, inner: Notify) -> None:
            self.inner = inner

        def watch(self, debounce_ms: int, step_ms: int, timeout_ms: int, stop_event: threading.Event) -> Any:
            while not failing.is_set():
                found = self.inner.watch(debounce_ms, step_ms, step_ms, stop_event)
                if found != "timeout":
                    return found
            raise RuntimeError("Error in underlying watcher: OS file watch limit reached.")

        def close(self) -> None:
            self.inner.close()

    node = Node(tmp_path, make_notify=lambda paths: Failing(watch_recursively(paths)))

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.watching
        failing.set()
        await until(lambda: not node.keeper.watching)
        node.write("etc/rules/a.xml")
        await node.keeper.scan()
        assert node.rows() == {"etc/rules/a.xml"}
        assert len(node.told) == 1

    play(node, story)


def test_link_to_a_foreign_directory_is_not_followed(tmp_path: Path) -> None:
    """The library would watch all of the machine through a link to `/`."""
    node = Node(tmp_path)
    (node.root / "etc/rules/all").symlink_to("/")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.watching
        node.write("etc/rules/a.xml")
        await until(lambda: node.rows() == {"etc/rules/a.xml"})
        (node.root / "etc/rules/all").unlink()
        node.keeper.adopt(Clusterd(watch=False), DEFAULT_RULES, is_master=True)
        await node.keeper.scan()
        assert node.keeper.unwatched == "switched off"
        node.keeper.adopt(Clusterd(), DEFAULT_RULES, is_master=True)
        await node.keeper.scan()
        assert node.keeper.watching

    play(node, story)


def test_failed_patch_leads_to_a_walk(tmp_path: Path) -> None:
    node = Node(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        for path in node.state.glob("manifest-*"):
            path.unlink()
        node.pool = InlinePool(Settings(str(node.root)))
        node.keeper._jobs = cast(Any, node.pool)
        node.write("etc/rules/a.xml")
        node.keeper.touch(["etc/rules/a.xml"])
        with pytest.raises(ScanFailed):
            await node.keeper.scan()
        await node.keeper.scan()
        assert node.rows() == {"etc/rules/a.xml"}

    play(node, story, follow=False)


# ---- protection ------------------------------------------------------------------------------------------------------


def what_workers_do(node: Node, *paths: str) -> tuple[list[str], list[str]]:
    """What a worker with these files, all of other content, is told to make or replace, and to delete."""
    assert node.keeper.current is not None
    live = load_live(str(node.state), node.keeper.current.root_digest)
    found = compare(live, {path: WireMeta("etc/rules/", "0" * 128) for path in paths}, DEFAULT_RULES)
    return [row.path for row in (*found.missing, *found.shared)], [path for path, _ in found.extra]


ALL = [f"etc/rules/{number}.xml" for number in range(100)]


@pytest.mark.parametrize("watch", [True, False])
def test_files_that_vanish_at_once_are_withheld_until_a_person_allows_it(tmp_path: Path, watch: bool) -> None:
    node = Node(tmp_path, watch=watch)
    node.fill(100)

    async def story(node: Node) -> None:
        before = await node.keeper.scan()
        shutil.rmtree(node.root / "etc/rules")
        await node.keeper.scan(fresh=True)
        assert what_workers_do(node, *ALL) == ([], [])
        await until(lambda: node.keeper.current is not None and node.keeper.current.withheld == 100)
        held = node.keeper.current
        assert held is not None
        assert (held.files, held.settling, held.content_digest) == (100, 0, before.content_digest)
        assert what_workers_do(node, *ALL) == ([], [])
        assert what_workers_do(node) == ([], [])
        assert len(node.told) == 1
        assert "clusterd sync --allow-delete" in node.told[0]
        # Some come back, some are new: they are files like any others.
        node.write("etc/rules/7.xml", "back")
        node.write("etc/rules/new.xml")
        await node.keeper.scan(fresh=True)
        assert node.keeper.current is not None
        assert (node.keeper.current.withheld, node.keeper.current.files) == (99, 101)
        assert what_workers_do(node, *ALL) == (["etc/rules/new.xml", "etc/rules/7.xml"], [])
        allowed = await node.keeper.allow_delete()
        assert (allowed.withheld, allowed.files) == (0, 2)
        assert node.rows() == {"etc/rules/7.xml", "etc/rules/new.xml"}
        assert len(what_workers_do(node, *ALL)[1]) == 99

    play(node, story)


def test_slow_deletion_is_judged_as_a_whole(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.fill(400)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        for number in range(300):
            (node.root / f"etc/rules/{number}.xml").unlink()
            await asyncio.sleep(0.008)
        await until(lambda: node.keeper.current is not None and node.keeper.current.withheld > 200)
        assert node.keeper.current is not None
        # The first few have gone through before it was clear that many follow.
        assert node.keeper.current.withheld >= 290

    play(node, story)


@pytest.mark.parametrize("count", [1, 10, 49, 60])
def test_deletion_of_less_than_the_share_goes_through(tmp_path: Path, count: int) -> None:
    node = Node(tmp_path)
    node.fill(200)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        for number in range(count):
            (node.root / f"etc/rules/{number}.xml").unlink()
        await until_equal(node)
        assert node.told == []

    play(node, story)


@pytest.mark.parametrize(("share", "files"), [(1.0, 100), (0.5, 49)])
def test_nothing_is_withheld(tmp_path: Path, share: float, files: int) -> None:
    """With share 1, and with fewer than 50 files."""
    node = Node(tmp_path, share=share)
    node.fill(files)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        shutil.rmtree(node.root / "etc/rules")
        await node.keeper.scan(fresh=True)
        await until(lambda: node.rows() == set())

    play(node, story)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: (state / "published").unlink(),
        lambda state: _flip(state / "published"),
        lambda state: _flip(state / f"manifest-{ManifestFiles(str(state)).published_digest}"),
        lambda state: (state / f"manifest-{ManifestFiles(str(state)).published_digest}").unlink(),
    ],
)
def test_protection_survives_the_loss_of_what_was_published_last(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """Else the first manifest of the next life would have all workers delete what vanished while nothing ran."""

    async def scans(node: Node) -> None:
        await node.keeper.scan()
        node.write("etc/lists/one")
        await node.keeper.scan(fresh=True)

    node = Node(tmp_path, watch=False)
    node.fill(100)
    play(node, scans, follow=False)
    shutil.rmtree(tmp_path / "etc/rules")
    damage(node.state)

    async def is_withheld(node: Node) -> None:
        await node.keeper.scan()
        assert what_workers_do(node, *ALL)[1] == []
        await until(lambda: node.keeper.current is not None and node.keeper.current.withheld == 100)

    play(Node(tmp_path), is_withheld)


def test_the_loss_of_every_record_of_what_was_published_is_said(tmp_path: Path) -> None:
    async def scan(node: Node) -> None:
        await node.keeper.scan()

    node = Node(tmp_path)
    node.fill(10)
    play(node, scan)
    assert node.told == []
    for path in node.state.glob("manifest-*"):
        path.unlink()
    again = Node(tmp_path)
    play(again, scan)
    (line,) = again.told
    assert line.startswith("No record can be read of the files")


def test_protection_survives_a_restart(tmp_path: Path) -> None:
    """Also when the files vanished while nothing ran; and what is withheld stays so."""

    def first_scan() -> Callable[[Node], Coroutine[Any, Any, None]]:
        async def story(node: Node) -> None:
            await node.keeper.scan()

        return story

    node = Node(tmp_path)
    node.fill(100)
    play(node, first_scan())
    shutil.rmtree(tmp_path / "etc/rules")

    async def is_withheld(node: Node) -> None:
        await node.keeper.scan()
        assert what_workers_do(node, *ALL) == ([], [])
        await until(lambda: node.keeper.current is not None and node.keeper.current.withheld == 100)
        assert what_workers_do(node, *ALL) == ([], [])

    play(Node(tmp_path), is_withheld)

    async def still_is(node: Node) -> None:
        for number in range(200):  # so many new ones that the share would not count any more
            node.write(f"etc/lists/{number}")
        scan = await node.keeper.scan()
        assert (scan.withheld, scan.settling, scan.files) == (100, 0, 300)
        assert len(node.told) == 1
        assert what_workers_do(node, *ALL)[1] == []
        await node.keeper.allow_delete()
        assert len(node.rows()) == 200

    play(Node(tmp_path), still_is)


def test_files_a_killed_daemon_left_settling_are_judged_by_the_next(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.fill(200)

    async def killed(node: Node) -> None:
        await node.keeper.scan()
        for number in range(60):
            (node.root / f"etc/rules/{number}.xml").unlink()
        scan = await node.keeper.scan(fresh=True)
        assert (scan.settling, scan.withheld, scan.files) == (60, 0, 200)

    play(node, killed, follow=False)

    async def next_life(node: Node) -> None:
        await node.keeper.scan()
        await until_equal(node)
        assert len(node.rows()) == 140

    play(Node(tmp_path), next_life)


# ---- files -----------------------------------------------------------------------------------------------------------


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

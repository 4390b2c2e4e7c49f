"""The keeper of the manifest where the tree cannot be watched, or no longer can: it walks."""

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.settings import DEFAULT_RULES, Clusterd, Settings
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.manifest.watcher import Notify, watch_recursively
from tests.fakes.clock import FakeClock
from tests.fakes.pool import InlinePool
from tests.sync.kept_tree import Node, play, until


class Exhausted:
    """Stands for watchfiles where the system has no watches left, at the start of a watch or during one."""

    def __init__(self, at_start: int) -> None:
        self.left = at_start

    def make(self, paths: list[str]) -> Notify:
        if self.left:
            self.left -= 1
            raise RuntimeError("Error creating recommended watcher: OS file watch limit reached.")
        return watch_recursively(paths)


def test_exhausted_watches_are_logged_once_and_tried_again_at_the_full_walk(tmp_path: Path) -> None:
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


def test_reload_tries_to_watch_again_at_once(tmp_path: Path) -> None:
    """Whoever has raised the limit changes no setting of the node."""
    node = Node(tmp_path, clock=FakeClock(), full_walk_s=60.0, make_notify=Exhausted(1).make)

    async def story(node: Node) -> None:
        node.keeper.adopt(Clusterd(full_walk_s=60.0), DEFAULT_RULES, is_master=True)
        await node.keeper.scan()
        assert not node.keeper.watching
        node.keeper.adopt(Clusterd(full_walk_s=60.0), DEFAULT_RULES, is_master=True)
        await node.keeper.scan()
        assert node.keeper.watching
        node.keeper.adopt(Clusterd(full_walk_s=60.0), DEFAULT_RULES, is_master=True)
        await node.keeper.scan()
        assert node.keeper.watching

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
    """Through a link to `/` the library would watch the whole machine."""
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
        node.keeper._builder.jobs = cast(Any, node.pool)
        node.write("etc/rules/a.xml")
        node.keeper.touch(["etc/rules/a.xml"])
        with pytest.raises(ScanFailed):
            await node.keeper.scan()
        await node.keeper.scan()
        assert node.rows() == {"etc/rules/a.xml"}

    play(node, story, follow=False)


def test_mount_over_a_directory_is_seen_at_once(tmp_path: Path) -> None:
    """No file event tells of it, and the directory above is the same as before."""
    node = Node(tmp_path)
    place = node.write("etc/rules/sub/a.xml").parent
    other = node.write("other/b.xml").parent

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.rows() == {"etc/rules/sub/a.xml"}
        if not mounts("mount", "--bind", other, place):
            pytest.skip("nothing can be mounted here")
        try:
            await until(lambda: node.rows() == {"etc/rules/sub/b.xml"})
            await until(lambda: node.keeper.watching)
            node.write("etc/rules/sub/c.xml")
            await until(lambda: node.rows() == {"etc/rules/sub/b.xml", "etc/rules/sub/c.xml"})
        finally:
            assert mounts("umount", place)
        await until(lambda: node.rows() == {"etc/rules/sub/a.xml"})
        assert node.told == []

    play(node, story)


def test_name_that_is_not_text_begins_the_watch_anew_once(tmp_path: Path) -> None:
    begun: list[list[str]] = []

    def make(paths: list[str]) -> Notify:
        begun.append(paths)
        return watch_recursively(paths)

    node = Node(tmp_path, make_notify=make)
    strange = os.fsencode(node.root) + b"/etc/rules/sub/\xff"
    node.write("etc/rules/sub/a.xml")

    def write_strange(number: int) -> None:
        with open(strange, "w") as file:
            file.write(str(number))

    async def story(node: Node) -> None:
        await node.keeper.scan()
        write_strange(0)
        await until(lambda: len(begun) == 2 and node.keeper.watching)
        for number in range(3):
            write_strange(number)
            paths = {f"etc/rules/sub/{number}.xml", f"etc/rules/{number}.xml"}
            for path in paths:
                node.write(path)
            await until(lambda paths=paths: node.rows() >= paths)  # type: ignore[misc]
        assert len(begun) == 2
        node.write("etc/rules/sub/new/x.xml")
        await until(lambda: "etc/rules/sub/new/x.xml" in node.rows())
        os.unlink(strange)
        (node.root / "etc/rules/sub/a.xml").unlink()
        await until(lambda: "etc/rules/sub/a.xml" not in node.rows())
        assert node.told == []

    play(node, story)


def test_directory_that_takes_the_place_of_another_beside_a_name_that_is_not_text_is_watched(tmp_path: Path) -> None:
    node = Node(tmp_path)
    place = node.write("etc/rules/sub/a.xml").parent
    (node.root / os.fsdecode(b"etc/rules/\xff")).touch()

    async def story(node: Node) -> None:
        await node.keeper.scan()
        for number in range(2):
            shutil.rmtree(place)
            node.write(f"etc/rules/sub/{number}.xml")
            await until(lambda number=number: node.rows() == {f"etc/rules/sub/{number}.xml"})  # type: ignore[misc]
            await until(lambda: not node.keeper._places.has_any())  # new directories are looked at twice
        node.write("etc/rules/sub/later.xml")
        await until(lambda: "etc/rules/sub/later.xml" in node.rows())
        assert node.told == []

    play(node, story)


@pytest.mark.parametrize("failing", [1, 2])
def test_thread_that_cannot_be_made_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    node, begun = Node(tmp_path), list[str]()
    (node.root / os.fsdecode(b"etc/rules/\xff")).touch()  # so that there are two threads
    start = threading.Thread.start

    def start_later(thread: threading.Thread) -> None:
        begun.append(thread.name)
        if thread.name == "watch" and begun.count("watch") == failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert not node.keeper.watching
        await until(lambda: node.keeper.watching)
        node.write("etc/rules/a.xml")
        await until(lambda: "etc/rules/a.xml" in node.rows())
        assert node.told == []

    play(node, story)


def mounts(*command: str | Path) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0

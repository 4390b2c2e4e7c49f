"""The manifest follows what editors and commands do with files, through real file events."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterd.messages.manifest import PatchManifest, ScanShard
from clusterd.sync.manifest import keeper
from clusterd.sync.manifest.builder import WEIGHT_BYTES, weigh_below
from clusterd.sync.manifest.places import LOOK_TWICE_S
from clusterd.sync.ports.pool_port import JobError
from tests.fakes.clock import FakeClock
from tests.sync.kept_tree import Node, play, until, until_equal


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


def test_large_tree_that_is_moved_in_is_divided_between_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looked at again, since files may have come before it was watched; later changes in it are not many."""
    monkeypatch.setattr(keeper, "FEW_NEW", 30)
    clock = FakeClock()
    node = Node(tmp_path, clock=clock)
    for number in range(40):
        node.write(f"outside/{number % 4}/{number}.xml")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        node.pool.done.clear()
        os.rename(node.root / "outside", node.root / "etc/lists/moved")
        await until_equal(node)
        assert [job.shard for job in node.pool.done if isinstance(job, ScanShard)] == [0, 1]
        assert PatchManifest not in node.kinds()
        clock.move(LOOK_TWICE_S)
        node.keeper.touch([])
        await until(lambda: PatchManifest in node.kinds(), "it is looked at again")
        assert "etc/lists/moved" in _patched(node)
        node.pool.done.clear()
        node.write("etc/lists/moved/1/5.xml", "changed")
        node.write("etc/lists/moved/2/new.xml")
        await until_equal(node)
        assert ScanShard not in node.kinds()
        assert _patched(node) <= {"etc/lists/moved/1/5.xml", "etc/lists/moved/2/new.xml"}

    play(node, story)


def test_large_tree_that_cannot_be_walked_now_is_walked_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FEW_NEW", 30)
    node = Node(tmp_path)
    for number in range(40):
        node.write(f"outside/{number}.xml")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        run = node.pool.run

        async def fail(job: Any, **how: Any) -> Any:
            node.pool.run = run  # type: ignore[method-assign]
            raise JobError("disk", "full")

        node.pool.run = fail  # type: ignore[method-assign]
        os.rename(node.root / "outside", node.root / "etc/lists/moved")
        await until(lambda: "full" in " ".join(node.told))
        await node.keeper.scan()
        assert "etc/lists/moved/1.xml" in node.rows()

    play(node, story)


def test_what_a_directory_weighs(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.write("etc/lists/moved/sub/small")
    node.write("etc/lists/moved/large").write_bytes(bytes(3 * WEIGHT_BYTES))
    node.write("etc/lists/file")
    places = ["etc/lists/moved", "etc/lists/file", "etc/lists/gone"]
    assert weigh_below(str(tmp_path), places, 1000) == 2 + 2 + 3
    assert weigh_below(str(tmp_path), places[1:], 1000) == 0


def _patched(node: Node) -> set[str]:
    return {path for job in node.pool.done if isinstance(job, PatchManifest) for path in job.paths}

"""The manifest follows what editors and commands do with files, through real file events."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sync.kept_tree import Node, play, until_equal


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

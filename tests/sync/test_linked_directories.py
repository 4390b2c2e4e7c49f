"""File events behind a configured directory that is a link."""

import os
from pathlib import Path

from tests.sync.kept_tree import Node, play, until, until_equal


def test_changes_behind_a_linked_directory_are_followed_and_a_new_target_is_noticed(tmp_path: Path) -> None:
    root = Path(os.path.realpath(tmp_path)) / "root"
    node = Node(root)
    for name in ("one", "two"):
        (root.parent / name).mkdir()
        (root.parent / name / "list").write_text(name)
    (root / "etc/lists").rmdir()
    (root / "etc/lists").symlink_to(root.parent / "one")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.watching
        assert node.rows() == {"etc/lists/list"}
        (root.parent / "one/new").write_text("x")
        await until(lambda: node.rows() == {"etc/lists/list", "etc/lists/new"}, "an event behind the link")
        (root / "etc/lists").unlink()
        (root / "etc/lists").symlink_to(root.parent / "two")
        await node.keeper.scan(fresh=True)
        await until_equal(node)
        assert node.rows() == {"etc/lists/list"}
        (root.parent / "two/newer").write_text("x")
        await until(lambda: node.rows() == {"etc/lists/list", "etc/lists/newer"}, "an event behind the new target")

    play(node, story)

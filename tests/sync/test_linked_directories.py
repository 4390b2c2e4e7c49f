"""File events behind a configured directory that is a link, and what is written behind the back of events."""

import os
from pathlib import Path

from clusterd.messages.manifest import PatchManifest
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


def test_what_is_written_through_another_name_of_a_file_is_found_by_the_next_scan(tmp_path: Path) -> None:
    """Not by the next walk, minutes later: a hard link from where an operator keeps his rules."""
    node = Node(tmp_path / "root")
    for number in range(3):
        node.fill(40, f"etc/rules/{number}")
        os.link(node.root / f"etc/rules/{number}/7.xml", tmp_path / f"outside-{number}")

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.watching
        node.pool.done.clear()
        for number in range(3):
            (tmp_path / f"outside-{number}").write_text("another")
            found = await node.keeper.scan(fresh=True)
            assert found.root_digest == node.walked()
        assert set(node.kinds()) == {PatchManifest}

    play(node, story, follow=False)


def test_directory_whose_name_is_not_utf_8_is_left_out_and_all_else_is_followed(tmp_path: Path) -> None:
    """Beside a link that leads out the watch was given its name, and no scan of the node ever ended."""
    node = Node(tmp_path / "root")
    odd = os.path.join(os.fsencode(node.root), b"etc/lists/l\xf6sung")
    os.mkdir(odd)
    (node.root / "etc/lists/out").symlink_to(tmp_path)

    async def story(node: Node) -> None:
        await node.keeper.scan()
        assert node.keeper.watching, node.keeper.unwatched
        assert node.keeper.current is not None
        assert any("is not UTF-8" in note.text for note in node.keeper.current.notes)
        with open(os.path.join(odd, b"list"), "wb") as file:
            file.write(b"x")
        for path in ("etc/lists/a", "etc/lists/sub/b", "etc/rules/c"):
            node.write(path)
            await until(lambda path=path: path in node.rows(), f"{path} is not followed")  # type: ignore[misc]
        assert node.keeper.watching, node.keeper.unwatched
        assert node.told == []

    play(node, story)

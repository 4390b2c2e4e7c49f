"""Files that vanish from a node: what the keeper of the manifest withholds from the workers, and until when."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from clusterd.settings import DEFAULT_RULES
from clusterd.sync.manifest.files import ManifestFiles
from hashing.compare import compare
from hashing.live_manifest import load_live
from hashing.metadata_json import WireMeta
from tests.sync.kept_tree import Node, play, until, until_equal


def what_workers_do(node: Node, *paths: str) -> tuple[list[str], list[str]]:
    """Returns what a worker with these files, all of other content, would create or replace, and delete."""
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
        # Some come back, and some are new: they are treated like any other files.
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


@pytest.mark.slow
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
        # The first few were deleted before it was clear that many would follow.
        assert node.keeper.current.withheld >= 290

    play(node, story)


@pytest.mark.slow
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
    """Otherwise the first manifest of the next life would have all workers delete what vanished while no node ran."""

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


def test_the_loss_of_every_record_of_what_was_published_is_logged(tmp_path: Path) -> None:
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
    """This holds also if the files vanished while nothing ran; and what is withheld stays withheld."""

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


@pytest.mark.slow
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

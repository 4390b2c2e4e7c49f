"""When a master's client.keys has lost many keys, the workers keep the earlier ones until an operator allows the
loss."""

import os
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest

from clusterd.agent_keys import KEY_FILE
from clusterd.key_guard import KeyContent, KeyRules, is_accepted, note_accepted, note_written
from clusterd.pool.keys import may_be_sent
from clusterd.rundir import STATE
from clusterd.settings import DEFAULT_RULES, Clusterd, Settings
from clusterd.sync.manifest.deletion_guard import KEYS
from clusterd.sync.ports.troubles import Troubles
from hashing.live_manifest import load_live
from tests.sync.kept_tree import Node, play, until, until_equal

SECRET = "a" * 64


def line(number: int, *, removed: bool = False) -> str:
    return f"{number:03} {'!' if removed else ''}agent{number} any {SECRET}\n"


def lines(*numbers: int) -> str:
    return "".join(map(line, numbers))


def digest(path: Path) -> bytes:
    return blake2b(path.read_bytes()).digest()


MANY = lines(*range(1, 63))


class KeyNode(Node):
    def __init__(self, root: Path, *, watch: bool = True, share: float = 0.5) -> None:
        self.troubles = Troubles()
        super().__init__(root, watch=watch, troubles=self.troubles, key_rules=KeyRules(share))
        self.path = root / KEY_FILE

    def carries(self) -> bytes | None:
        """Digest of the keys that workers get, or may keep."""
        assert self.keeper.current is not None
        row = load_live(str(self.state), self.keeper.current.root_digest).get(KEY_FILE)
        return None if row is None else row.digest

    async def begin(self, keys: str = MANY) -> bytes:
        self.path.write_text(keys)
        await self.keeper.scan()
        found = self.carries()
        assert found is not None
        return found

    async def until_withheld(self) -> None:
        await until(lambda: KEYS in self.troubles.shown(), "the loss is not withheld")


def emptied(path: Path) -> None:
    path.write_text("")


def removed(path: Path) -> None:
    path.unlink()


def renamed_over(path: Path) -> None:
    path.with_name("new").write_text(lines(1, 2))
    os.rename(path.with_name("new"), path)


def written_in_part(path: Path) -> None:
    """A full disk: the file has more than half of its keys, and the last line is cut."""
    path.write_text(MANY[: len(MANY) * 4 // 5 - 20])


def torn(path: Path) -> None:
    """A power cut: the file has its length, but its last blocks are zero."""
    path.write_bytes(MANY[:4000].encode() + bytes(len(MANY) - 4000))


def one_registered_after_it_was_emptied(path: Path) -> None:
    path.write_text(line(63))


LOSSES = [emptied, removed, renamed_over, written_in_part, torn, one_registered_after_it_was_emptied]


@pytest.mark.parametrize("watch", [True, False])
@pytest.mark.parametrize("lose", LOSSES)
def test_lost_keys_are_kept_on_the_workers_until_a_person_allows_it(
    tmp_path: Path, lose: Callable[[Path], None], watch: bool
) -> None:
    node = KeyNode(tmp_path, watch=watch)

    async def story(node: Node) -> None:
        assert isinstance(node, KeyNode)
        before = await node.begin()
        lose(node.path)
        await node.keeper.scan(fresh=True)
        assert node.carries() == before
        await node.until_withheld()
        assert node.carries() == before
        assert "clusterd sync --allow-delete" in node.troubles.shown()[KEYS]
        assert len(node.told) == 1
        # Other keys may be added and removed as always.
        node.write("etc/rules/a.xml")
        await node.keeper.scan(fresh=True)
        assert {KEY_FILE, "etc/rules/a.xml"} == node.rows()
        await node.keeper.walk()
        assert node.carries() == before
        await node.keeper.allow_delete()
        assert node.carries() == (digest(node.path) if node.path.exists() else None)
        assert node.troubles.shown() == {}

    play(node, story)


def one_of_many(path: Path) -> None:
    path.write_text(MANY.replace(line(7), ""))


def a_third(path: Path) -> None:
    path.write_text(lines(*range(1, 42)))


def all_marked_as_removed(path: Path) -> None:
    path.write_text("".join(line(number, removed=True) for number in range(1, 63)))


def an_editor_that_writes_in_place(path: Path) -> None:
    with open(path, "w") as file:
        for number in range(1, 60):
            file.write(line(number))
            file.flush()


def last_line_without_newline(path: Path) -> None:
    path.write_text(lines(*range(1, 50)).rstrip("\n"))


def by_authd(path: Path) -> None:
    """One batch of 60 requests that remove agents without a trace."""
    note_written(str(path.parents[1]), [blake2b(lines(1, 2).encode()).digest()])
    path.write_text(lines(1, 2))


WISHES = [
    one_of_many,
    a_third,
    all_marked_as_removed,
    an_editor_that_writes_in_place,
    last_line_without_newline,
    by_authd,
]


@pytest.mark.parametrize("change", WISHES)
def test_requested_deletion_is_accepted_at_once(tmp_path: Path, change: Callable[[Path], None]) -> None:
    node = KeyNode(tmp_path)
    node.state = tmp_path / "queue/cluster/.clusterd/state"
    node.state.mkdir(parents=True)
    node.keeper._builder._state_dir = str(node.state)
    node.keeper._files._state_dir = node.state

    async def story(node: Node) -> None:
        assert isinstance(node, KeyNode)
        await node.begin()
        change(node.path)
        await node.keeper.scan(fresh=True)
        await until_equal(node)
        assert (node.told, node.troubles.shown()) == ([], {})
        assert is_accepted(str(node.root), digest(node.path))

    play(node, story)


def test_file_that_is_whole_again_is_carried_again(tmp_path: Path) -> None:
    node = KeyNode(tmp_path)

    async def story(node: Node) -> None:
        assert isinstance(node, KeyNode)
        before = await node.begin()
        emptied(node.path)
        await node.until_withheld()
        node.path.write_text(MANY + line(63))
        await until_equal(node)
        assert node.carries() != before
        assert node.troubles.shown() == {}

    play(node, story)


def test_protection_survives_a_restart_also_of_keys_lost_while_nothing_ran(tmp_path: Path) -> None:
    carried: list[bytes | None] = []

    async def begins(node: Node) -> None:
        assert isinstance(node, KeyNode)
        carried.append(await node.begin())

    async def goes_on(node: Node) -> None:
        assert isinstance(node, KeyNode)
        await node.keeper.scan()
        await node.until_withheld()
        assert node.carries() == carried[0]

    play(KeyNode(tmp_path), begins)
    emptied(tmp_path / KEY_FILE)
    play(KeyNode(tmp_path), goes_on)
    one_registered_after_it_was_emptied(tmp_path / KEY_FILE)
    play(KeyNode(tmp_path), goes_on)


@pytest.mark.parametrize(("share", "known"), [(1.0, 62), (0.5, 2)])
def test_nothing_is_withheld_where_it_is_switched_off_and_of_very_few_keys(
    tmp_path: Path, share: float, known: int
) -> None:
    node = KeyNode(tmp_path, share=share)

    async def story(node: Node) -> None:
        assert isinstance(node, KeyNode)
        await node.begin(lines(*range(1, known + 1)))
        emptied(node.path)
        await until_equal(node)
        assert node.troubles.shown() == {}

    play(node, story)


def test_protection_that_is_switched_off_releases_what_it_withholds(tmp_path: Path) -> None:
    node = KeyNode(tmp_path)

    async def story(node: Node) -> None:
        assert isinstance(node, KeyNode)
        await node.begin()
        emptied(node.path)
        await node.until_withheld()
        node.keeper.adopt(Clusterd(max_key_loss_share=1.0), DEFAULT_RULES, is_master=True)
        await until_equal(node)
        assert node.troubles.shown() == {}

    play(node, story)


def test_package_in_the_making_takes_newer_keys_only_if_none_is_lost(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path, state, settings = tmp_path / KEY_FILE, tmp_path / STATE, Settings(str(tmp_path))
    state.mkdir(parents=True)
    note_accepted(str(state), KeyContent(MANY.encode()))
    path.write_text(MANY + line(63))
    assert may_be_sent(settings, digest(path))
    before = digest(path)
    emptied(path)
    assert not may_be_sent(settings, digest(path))
    assert not may_be_sent(settings, before)  # it is not there any more
    assert not may_be_sent(settings, b"")
    note_written(str(tmp_path), [digest(path), before])
    assert may_be_sent(settings, digest(path))


def test_what_was_accepted_is_on_the_disk_before_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may empty the keys and the record with which they are compared at the same time."""
    synced: list[str] = []
    true_fsync = os.fsync

    def fsync(fd: int) -> None:
        true_fsync(fd)
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", fsync)
    note_accepted(str(tmp_path), KeyContent(MANY.encode()))
    assert len(synced) == 2
    assert synced[0].endswith(".tmp")
    assert synced[1] == str(tmp_path)

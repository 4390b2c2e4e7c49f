"""A master gives a group without files a file, so that the group reaches the workers."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.settings import DEFAULT_RULES
from clusterd.store import empty_groups
from clusterd.store.empty_groups import EmptyGroups
from hashing.atomic import FileOps
from tools.rig.peer import wait_until


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(empty_groups, "SURE_S", 0.0)
    path = tmp_path / "etc/shared"
    (path / "web").mkdir(parents=True)
    return path


def look(shared: Path, owner: EmptyGroups | None = None) -> list[str]:
    root = shared.parents[1]
    return (owner or EmptyGroups(str(root))).look(os.listdir(shared), DEFAULT_RULES)


def nothing(group: Path) -> None:
    pass


def what_is_never_carried(group: Path) -> None:
    for name in ("ar.conf", "x.tmp", "y~"):
        (group / name).write_text("x")


def empty_directories(group: Path) -> None:
    (group / "a/b/c").mkdir(parents=True)


@pytest.mark.parametrize("prepare", [nothing, what_is_never_carried, empty_directories])
def test_group_without_files_gets_one(shared: Path, prepare: Callable[[Path], None]) -> None:
    prepare(shared / "web")
    before = set(os.listdir(shared / "web"))
    assert look(shared) == []
    assert set(os.listdir(shared / "web")) == before | {"merged.mg"}
    assert (shared / "web/merged.mg").read_text() == "#web\n"
    assert (shared / "web/merged.mg").stat().st_mode & 0o777 == 0o660
    inode = (shared / "web/merged.mg").stat().st_ino
    look(shared)
    assert (shared / "web/merged.mg").stat().st_ino == inode


def test_removed_file_does_not_return_at_once(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rm -r` of a group removes the file and then the directory."""
    monkeypatch.setattr(empty_groups, "SURE_S", 0.02)
    owner = EmptyGroups(str(shared.parents[1]))
    wait_until(lambda: look(shared, owner) == [] and os.listdir(shared / "web") == ["merged.mg"], 60, "the file")
    (shared / "web/merged.mg").unlink()
    look(shared, owner)
    assert os.listdir(shared / "web") == []


@pytest.mark.parametrize("path", ["agent.conf", "below/agent.conf"])
def test_file_is_removed_while_the_group_has_others_and_returns_afterwards(shared: Path, path: str) -> None:
    owner = EmptyGroups(str(shared.parents[1]))
    look(shared, owner)
    target = shared / "web" / path
    target.parent.mkdir(exist_ok=True)
    target.write_text("x")
    look(shared, owner)
    assert not (shared / "web/merged.mg").exists()
    look(shared, owner)
    target.unlink()
    look(shared, owner)
    assert (shared / "web/merged.mg").exists()


def test_file_of_remoted_is_left_alone(shared: Path) -> None:
    (shared / "web/merged.mg").write_text("#web\n!1 agent.conf\nx")
    look(shared)
    (shared / "web/agent.conf").write_text("x")
    look(shared)
    assert (shared / "web/merged.mg").read_text() == "#web\n!1 agent.conf\nx"


def test_directory_that_has_just_become_empty_is_not_touched(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator removes it, file by file."""
    monkeypatch.setattr(empty_groups, "SURE_S", 60.0)
    owner = EmptyGroups(str(shared.parents[1]))
    for _ in range(3):
        assert look(shared, owner) == []
    (shared / "web").rmdir()
    assert owner.look(["web"], DEFAULT_RULES) == []


def test_link_in_place_of_the_directory_is_never_written_through(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (shared / "web").rmdir()
    (shared / "web").symlink_to(tmp_path / "elsewhere")
    look(shared)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_file_that_comes_while_ours_is_made_is_left_alone_and_no_trouble(shared: Path) -> None:
    class OthersCome(FileOps):
        def chmod(self, fd: int, mode: int) -> None:
            (shared / "web/merged.mg").write_text("theirs")

    assert look(shared, EmptyGroups(str(shared.parents[1]), OthersCome())) == []
    assert (shared / "web/merged.mg").read_text() == "theirs"
    assert os.listdir(shared / "web") == ["merged.mg"]

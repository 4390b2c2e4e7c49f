import os
import subprocess
from pathlib import Path

import pytest

from hashing.atomic import (
    Data,
    FileOps,
    create_temporary,
    is_abandoned,
    is_temporary,
    new_owner,
    sync_path,
    temporary_name,
)
from hashing.rules import path_ok
from hashing.write import write_atomic


class Stopped(BaseException):
    """The process was killed: nothing that follows runs, not even the clean-up."""


class CountedOps(FileOps):
    """Real operations; number `stop_at` (from 1) and all later ones raise `failure` instead."""

    def __init__(self, stop_at: int = 0, failure: type[BaseException] = Stopped) -> None:
        self.names: list[str] = []
        self.stop_at = stop_at
        self.failure = failure

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name.startswith("_") or name not in FileOps.__dict__:
            return found

        def counted(*args: object, **keywords: object) -> object:
            self.names.append(name)
            if self.stop_at and len(self.names) >= self.stop_at:
                raise self.failure(name)
            return found(*args, **keywords)  # type: ignore[operator]

        return counted


def test_write_is_complete_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write_atomic(FileOps(), str(path), b"new", 0o664)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o664
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_disk_before_the_name_and_the_name_before_return(tmp_path: Path) -> None:
    ops = CountedOps()
    write_atomic(ops, str(tmp_path / "file"), b"new", 0o640)
    assert ops.names == ["create", "chmod", "write", "fsync", "rename", "fsync"]
    ops = CountedOps()
    write_atomic(ops, str(tmp_path / "file"), b"new", 0o640, durable=False)
    assert "fsync" not in ops.names


@pytest.mark.parametrize("failure", [Stopped, OSError])
def test_file_is_old_or_new_at_whatever_operation_it_ends(failure: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for stop_at in range(1, 7):
        with pytest.raises(failure):
            write_atomic(CountedOps(stop_at, failure), str(path), b"new content", 0o640)
        assert path.read_bytes() in (b"old", b"new content")
        assert all(is_temporary(name) or name == "file" for name in os.listdir(tmp_path))
        write_atomic(FileOps(), str(path), b"healed", 0o640)  # what was left is no obstacle
        assert path.read_bytes() == b"healed"
        left = set(os.listdir(tmp_path)) - {"file"}
        assert all(is_temporary(name) for name in left)
        path.write_bytes(b"old")


def test_failed_write_leaves_nothing_beside_the_target(tmp_path: Path) -> None:
    class FullDisk(FileOps):
        def write(self, fd: int, data: object) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(FullDisk(), str(tmp_path / "file"), b"new", 0o640)
    assert os.listdir(tmp_path) == []


def test_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / temporary_name("file", "plan1-0")).symlink_to(victim)
    dir_fd = os.open(directory, os.O_RDONLY)
    try:
        fd, temporary = create_temporary(FileOps(), "file", 0o600, dir_fd=dir_fd, owner="plan1-0")
        os.write(fd, b"new")
        os.close(fd)
        os.rename(temporary, "file", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    finally:
        os.close(dir_fd)
    assert victim.read_bytes() == b"precious"
    assert (directory / "file").read_bytes() == b"new"


def test_write_goes_on_after_a_short_write(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        with pytest.raises(BlockingIOError):
            FileOps().write(writer, b"x" * 10_000_000)
        assert len(os.read(reader, 10_000_000)) > 0
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("name", ["a", "x" * 255, "gr\u00f6\u00dfe", "\udcff"])
def test_every_name_has_a_temporary_name_that_stock_nodes_skip(name: str) -> None:
    temporary = temporary_name(name, new_owner())
    assert is_temporary(temporary)
    assert len(os.fsencode(temporary)) < 100
    assert path_ok(temporary) is None
    assert temporary.endswith(".tmp")
    assert temporary_name(name, "plan1-0") != temporary_name(name + "x", "plan1-0")
    assert temporary_name(name, "plan1-0") != temporary_name(name, "plan1-1")
    assert temporary != temporary_name(name, new_owner())


def test_only_what_no_living_process_writes_is_abandoned() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not is_abandoned(temporary_name("file", new_owner()))
    assert is_abandoned(temporary_name("file", f"pid{ended.pid}-0011223344556677"))
    assert is_abandoned(temporary_name("file", "plan0011223344556677-0"))
    assert is_abandoned(".clusterd-0011223344556677.tmp")  # as earlier versions named them
    assert not is_abandoned("operators_own.tmp")


def test_writer_that_proc_does_not_show_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc is mounted with hidepid, and the writer belongs to another user."""
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert not is_abandoned(temporary_name("file", new_owner()))

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not is_abandoned(temporary_name("file", "pid1-0011223344556677"))
    monkeypatch.undo()
    for nobody in ("pid0-00", "pid99999999999999999999-00"):
        assert is_abandoned(temporary_name("file", nobody))


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """The second writer begins and ends while the first has written half: each reader sees the content of one or the
    other."""
    path = tmp_path / "file"

    class Overlapped(FileOps):
        def write(self, fd: int, data: Data) -> None:
            super().write(fd, data[:3])
            write_atomic(FileOps(), str(path), b"second", 0o640)
            assert path.read_bytes() == b"second"
            super().write(fd, data[3:])

    write_atomic(Overlapped(), str(path), b"first", 0o640)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_temporary_file_is_made_in_its_directory(tmp_path: Path) -> None:
    dir_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fd, temporary = create_temporary(FileOps(), "file", 0o600, dir_fd=dir_fd)
        os.close(fd)
        assert os.listdir(tmp_path) == [temporary]
    finally:
        os.close(dir_fd)


def test_syncfs_raises_what_the_kernel_says(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    FileOps().syncfs(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        FileOps().syncfs(fd)


def test_operations_reach_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere doubles count them."""
    did: list[tuple[str, str]] = []
    write = os.write

    def noted(name: str) -> None:
        monkeypatch.setattr(os, name, lambda fd, *_: did.append((name, os.readlink(f"/proc/self/fd/{fd}"))))

    noted("fsync")
    noted("fchown")
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    ops, path = FileOps(), tmp_path / "file"
    fd = ops.create(str(path), 0o600)
    try:
        ops.write(fd, b"0123456789")
        assert path.read_bytes() == b"0123456789"
        ops.truncate(fd, 4)
        ops.chown(fd, 1, 1)
        ops.fsync(fd)
    finally:
        os.close(fd)
    sync_path(tmp_path)
    ops.link(str(path), str(tmp_path / "second"))
    assert (tmp_path / "second").samefile(path)
    assert path.read_bytes() == b"0123"
    assert did == [("fchown", str(path)), ("fsync", str(path)), ("fsync", str(tmp_path))]

"""Files that are mount points are written in place and are old or new after any failure; all other files are renamed as
always."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hashing.apply import sweep_temporary
from hashing.atomic import FileOps, is_temporary, new_owner, temporary_name
from hashing.in_place import LONGEST_WRITE_S, replace
from hashing.write import write_atomic
from tests.fakes.file_ops import FaultyOps
from tests.hashing.packages import RULES, Receiver, read_tree, write_tree
from tests.hashing.received import package_of, reasons

OLD = b"old content, " * 170_000
NEW = b"new" * 400_000
"""Several pieces each; the new content is shorter."""


class Stopped(BaseException):
    """The process is killed here."""


class MountedOps(FaultyOps):
    """Operations of a tree in which the files with these names are mount points. `stop_at`: from that operation on all
    fail."""

    def __init__(
        self, *mounted: str, stop_at: int = 0, failure: type[BaseException] = Stopped, only: bool = False
    ) -> None:
        def fault(number: int, name: str) -> BaseException | None:
            is_due = stop_at and (number == stop_at if only else number >= stop_at)
            return failure(errno.EIO, "at " + name) if is_due else None

        super().__init__(fault)
        self.mounted = mounted

    def fsync(self, fd: int) -> None:
        """Only counted: the test cuts no power."""

    def rename(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        if target in self.mounted:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        super().rename(source, target, dir_fd=dir_fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "root", {"etc/lists/a": OLD, "etc/lists/b": b"b"})
    return tmp_path / "root"


def receiver(root: Path, ops: FileOps) -> Receiver:
    spool = root.parent / "spool"
    spool.mkdir(exist_ok=True)
    return Receiver(root, spool, package_of({"etc/lists/a": NEW, "etc/lists/b": b"new b"}), ops)


def test_mount_point_is_written_in_place_and_its_neighbours_are_renamed(root: Path) -> None:
    before = {name: (root / "etc/lists" / name).stat().st_ino for name in "ab"}
    _, _, applied = receiver(root, MountedOps("a")).run()
    assert read_tree(root) == {"etc/lists/a": NEW, "etc/lists/b": b"new b"}
    assert (root / "etc/lists/a").stat().st_ino == before["a"]
    assert (root / "etc/lists/b").stat().st_ino != before["b"]
    assert applied.in_place == ["etc/lists/a"]
    assert (applied.create_errors, applied.overwrite_errors) == (0, 0)
    assert (root / "etc/lists/a").stat().st_mode & 0o777 == 0o660


def healed(root: Path) -> bytes:
    """Returns the file after the sweep at start. Beside it may be only files of this living process."""
    sweep_temporary(str(root), RULES, FileOps())
    for path in [path for path in root.rglob("*") if is_temporary(path.name)]:
        assert f"-pid{os.getpid()}-" in path.name
        path.unlink()
    return (root / "etc/lists/a").read_bytes()


@pytest.mark.slow
def test_file_is_old_or_new_after_a_kill_at_any_operation_and_a_start(root: Path) -> None:
    stop_at, seen = 0, set()
    while True:
        stop_at += 1
        (root / "etc/lists/a").write_bytes(OLD)
        ops = MountedOps("a", stop_at=stop_at)
        try:
            receiver(root, ops).run()
        except Stopped:
            found = healed(root)
            assert found in (OLD, NEW)
            seen.add(found)
            continue
        break
    assert seen == {OLD, NEW}
    assert {"truncate", "rename", "unlink"} <= set(ops.names)


@pytest.mark.slow
def test_next_application_completes_what_a_kill_left_torn(root: Path) -> None:
    total = len(operations(root))
    for stop_at in range(1, total):
        (root / "etc/lists/a").write_bytes(OLD)
        with pytest.raises(Stopped):
            receiver(root, MountedOps("a", stop_at=stop_at)).run()
        receiver(root, MountedOps("a")).run()
        assert (root / "etc/lists/a").read_bytes() == NEW
        assert healed(root) == NEW


@pytest.mark.slow
def test_what_a_kill_left_is_not_put_over_a_file_that_was_renamed_since(root: Path) -> None:
    total = len(operations(root))
    for stop_at in range(1, total):
        (root / "etc/lists/a").write_bytes(OLD)
        with pytest.raises(Stopped):
            receiver(root, MountedOps("a", stop_at=stop_at)).run()
        receiver(root, FileOps()).run()  # its directory is mounted instead, as status advises
        assert (root / "etc/lists/a").read_bytes() == NEW
        assert healed(root) == NEW


def operations(root: Path) -> list[str]:
    ops = MountedOps("a")
    receiver(root, ops).run()
    return ops.names


@pytest.mark.slow
def test_one_operation_that_fails_leaves_the_old_content_or_the_new(root: Path) -> None:
    for stop_at in range(1, len(operations(root)) + 1):
        (root / "etc/lists/a").write_bytes(OLD)
        with suppress(OSError):  # of a sync: nothing was renamed
            receiver(root, MountedOps("a", stop_at=stop_at, failure=OSError, only=True)).run()
        assert (root / "etc/lists/a").read_bytes() in (OLD, NEW)
        assert healed(root) in (OLD, NEW)


def test_file_that_another_process_writes_in_place_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashing.in_place.PATIENCE_S", 0.1)
    with (root / "etc/lists/a").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _, _, applied = receiver(root, MountedOps("a")).run()
        assert (root / "etc/lists/a").read_bytes() == OLD
    assert reasons(applied.notes) == {"etc/lists/a": f"[Errno {errno.ETIMEDOUT}] is being written by another process"}
    assert applied.overwrite_errors + applied.create_errors == 1


def test_files_of_the_store_and_of_settings_may_be_mount_points(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    inode = (tmp_path / "file").stat().st_ino
    write_atomic(MountedOps("file"), str(tmp_path / "file"), b"new", 0o640)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_ino == inode
    assert os.listdir(tmp_path) == ["file"]


def test_other_failures_of_a_rename_are_reported(tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(b"new")
    (tmp_path / "directory").mkdir()
    dir_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            replace(FileOps(), "beside", "directory", dir_fd=dir_fd)
    finally:
        os.close(dir_fd)


IN_NAMESPACE = """
import sys
from contextlib import suppress
from pathlib import Path
from tests.hashing.test_in_place import NEW, FileOps, healed, receiver
root = Path(sys.argv[1])
_, _, applied = receiver(root, FileOps()).run()
assert applied.in_place == ["etc/lists/a"], applied
assert (root / "etc/lists/a").read_bytes() == NEW
assert healed(root) == NEW
"""


@pytest.mark.slow
def test_real_bind_mount_of_a_file(root: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.write_bytes(OLD)
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace of our own is allowed here")
    script = 'mount --bind "$1" "$2/etc/lists/a" && exec "$3" -c "$4" "$2"'
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", script, "sh", str(volume), str(root), sys.executable, IN_NAMESPACE],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert volume.read_bytes() == NEW
    assert (root / "etc/lists/a").read_bytes() == OLD  # what the mount hid
    assert (root / "etc/lists/b").read_bytes() == b"new b"


def test_temporary_file_of_another_life_goes_although_a_process_has_its_writers_id(root: Path) -> None:
    """In a container the processes of each life have the same ids."""
    lists = root / "etc/lists"
    young, old = (lists / temporary_name(name, new_owner()) for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half of it")
    os.utime(old, (0, old.stat().st_mtime - LONGEST_WRITE_S - 1))
    assert sweep_temporary(str(root), RULES, FileOps()) == 1
    assert {path for path in lists.iterdir() if is_temporary(path.name)} == {young}

"""Putting files in place: what is on the disk before the first rename, what is deleted, and every moment at which the
process may die."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from hashing.apply import FEW, AppliedPlan
from hashing.atomic import FileOps, is_temporary, temporary_name
from hashing.plan import PlanFile, save_plan
from tests.fakes.file_ops import FaultyOps
from tests.hashing.packages import Receiver, build_as_stock, read_tree, wire_of, write_tree
from tests.hashing.received import metadata, package_of, reasons


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def receiver(root: Path, package: bytes, ops: FileOps | None = None) -> Receiver:
    return Receiver(root, root.parent / "spool", package, ops)


class SyncedOps(FileOps):
    """Knows which files (inodes) and file systems are synced, and records what was not synced at a rename."""

    def __init__(self) -> None:
        self.synced: set[int] = set()
        self.syncs = 0
        self.renamed: list[str] = []
        self.early: list[str] = []
        self.dirty: set[int] = set()
        """Directories with renames and removals that are not synced yet."""

    def fsync(self, fd: int) -> None:
        self.syncs += 1
        self.synced.add(os.fstat(fd).st_ino)
        self.dirty.discard(os.fstat(fd).st_ino)

    def syncfs(self, fd: int) -> None:
        self.syncs += 1
        self.synced.add(-os.fstat(fd).st_dev)
        self.dirty.clear()

    def rename(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
        assert dir_fd is not None
        found = os.stat(source, dir_fd=dir_fd)
        if not {found.st_ino, -found.st_dev} & self.synced:
            self.early.append(target)
        self.renamed.append(target)
        self.dirty.add(os.fstat(dir_fd).st_ino)
        super().rename(source, target, dir_fd=dir_fd)

    def unlink(self, name: str, *, dir_fd: int | None = None) -> None:
        assert dir_fd is not None
        self.dirty.add(os.fstat(dir_fd).st_ino)
        super().unlink(name, dir_fd=dir_fd)

    def rmdir(self, name: str, *, dir_fd: int | None = None) -> None:
        assert dir_fd is not None
        self.dirty.discard(os.stat(name, dir_fd=dir_fd).st_ino)
        self.dirty.add(os.fstat(dir_fd).st_ino)
        super().rmdir(name, dir_fd=dir_fd)


@pytest.mark.parametrize("count", [1, FEW, FEW + 1], ids=["one", "few", "many"])
def test_content_is_on_the_disk_before_the_renames_and_these_before_the_end(count: int, root: Path) -> None:
    write_tree(root, {"etc/shared/gone/old": b"x"})
    files = {f"etc/lists/{number}": b"new" for number in range(count)}
    announced = {path: wire_of(path, data) for path, data in files.items()}
    ops = SyncedOps()
    receiver(root, build_as_stock([*files.items(), metadata(announced, extra=["etc/shared/gone/old"])]), ops).run()
    assert len(ops.renamed) == count
    assert ops.early == []
    assert not ops.dirty
    assert read_tree(root) == files
    directories = 2  # of lists, and the one above what was removed
    assert ops.syncs == (count + directories if count <= FEW else 2), "many are synced by their file system"


@pytest.mark.parametrize("count", [1, FEW + 1], ids=["few", "many"])
def test_nothing_is_renamed_when_the_disk_did_not_take_what_was_written(count: int, root: Path) -> None:
    files = {f"etc/lists/{number}": b"new" for number in range(count)}
    write_tree(root, {"etc/lists/0": b"old", "etc/lists/extra": b"old"})
    ops = FaultyOps(lambda number, name: OSError(errno.EIO, "the disk") if name in ("fsync", "syncfs") else None)
    announced = {path: wire_of(path, data) for path, data in files.items()}
    worker = receiver(root, build_as_stock([*files.items(), metadata(announced, extra=["etc/lists/extra"])]), ops)
    with pytest.raises(OSError, match="the disk"):
        worker.run()
    assert "rename" not in ops.names
    assert (root / "etc/lists/0").read_bytes() == (root / "etc/lists/extra").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("path", "item", "why"),
    [
        ("etc/ossec.conf", "etc/rules/", "is not in etc/rules/"),
        ("etc/ossec.conf", "etc/", "is not one of the files of etc/"),
        ("../secret", "etc/rules/", "leads upwards"),
        ("etc/shared/a", "etc/nothing/", "names the unknown cluster_item_key 'etc/nothing/'"),
    ],
)
def test_deletion_that_the_rules_do_not_allow_is_refused_whoever_made_the_plan(
    path: str, item: str, why: str, root: Path
) -> None:
    """The process that deletes asks the rules once more, because a file carries the plan between two jobs."""
    files = {"etc/ossec.conf": b"settings", "etc/shared/a": b"a", "etc/rules/extra": b"x"}
    write_tree(root, files)
    (root.parent / "secret").write_bytes(b"secret")
    worker = receiver(root, b"")
    save_plan(worker.plan, [], [(path, item), ("etc/rules/extra", "etc/rules/")], (0, 0, 0))
    applied = worker.apply([])
    assert (root.parent / "secret").exists()
    del files["etc/rules/extra"]
    assert read_tree(root) == files
    assert applied.removed == ["etc/rules/extra"]
    assert (applied.deleted, applied.remove_errors) == (1, 1)
    assert reasons(applied.notes) == {path: why}


BEFORE = {
    "etc/lists/a": b"old a",
    "etc/lists/kept": b"kept",
    "etc/rules/gone": b"gone",
    "etc/shared/g/sub/gone": b"gone",
    "etc/shared/g/becomes a file/gone": b"gone",
    "etc/shared/g/becomes a directory": b"gone",
}
AFTER = {
    "etc/lists/a": b"new a",
    "etc/lists/b": b"new b",
    "etc/lists/kept": b"kept",
    "etc/shared/h/new": b"new",
    "etc/shared/g/becomes a file": b"file",
    "etc/shared/g/becomes a directory/of/new": b"new",
}


def update() -> bytes:
    written = {path: data for path, data in AFTER.items() if BEFORE.get(path) != data}
    announced = {path: wire_of(path, data) for path, data in written.items()}
    shared = {"etc/lists/a": announced.pop("etc/lists/a")}
    return build_as_stock([*written.items(), metadata(announced, shared, BEFORE.keys() - AFTER.keys())])


class Counted(FaultyOps):
    """Killed before operation `last` and every later one, so that nothing is cleaned up."""

    def __init__(self, last: int = 0) -> None:
        super().__init__(lambda number, name: Killed() if last and number >= last else None)

    def fsync(self, fd: int) -> None:
        """Only counted: the test cuts no power."""


def visible(root: Path) -> dict[str, bytes]:
    return {path: data for path, data in read_tree(root).items() if not is_temporary(path.rpartition("/")[2])}


@pytest.mark.slow
def test_apply_that_is_killed_at_any_operation_leaves_files_old_or_new_and_the_next_ends_it(root: Path) -> None:
    number, states, is_killed = 0, set(), True
    while is_killed:
        number += 1
        shutil.rmtree(root)
        write_tree(root, BEFORE)
        try:
            receiver(root, update(), Counted(number)).run()
            is_killed = False
        except Killed:
            found = visible(root)
            assert {path: data for path, data in found.items() if data not in (BEFORE.get(path), AFTER.get(path))} == {}
            assert found.keys() >= BEFORE.keys() & AFTER.keys(), "a file that was there and is to be there is away"
            states.add(tuple(sorted(found.items())))
            receiver(root, update()).run()
        assert visible(root) == AFTER, f"after operation {number}"
    assert len(states) > len(AFTER), "it was killed between any two changes"


def test_job_that_is_run_again_counts_what_its_dead_run_has_put_in_place(root: Path) -> None:
    """The same plan and the same temporary files: one that is gone was renamed."""
    for stop_at in (1, 2, 3, 4):
        write_tree(root, {"etc/lists/a": b"old a"})
        worker = receiver(root, package_of({"etc/lists/a": b"new a", "etc/lists/b": b"new b"}))
        opened = worker.open()
        written = [worker.unpack(index).written for index in range(opened.ranges)]
        worker.ops = Counted(stop_at)
        with pytest.raises(Killed):
            worker.apply(written)
        worker.ops = FileOps()
        applied = worker.apply(written)
        assert (applied.created, applied.create_errors, reasons(applied.notes)) == (2, 0, {})
        assert (root / "etc/lists/a").read_bytes() == b"new a"


def test_file_that_is_away_before_its_rename_and_not_in_its_place_is_an_error(root: Path) -> None:
    worker = receiver(root, package_of({"etc/lists/a": b"new a", "etc/lists/b": b"new b"}))
    opened = worker.open()
    written = [worker.unpack(index).written for index in range(opened.ranges)]
    with PlanFile(worker.plan) as plan:
        (root / "etc/lists" / temporary_name("a", plan.owner_of(0))).unlink()
    (root / "etc/lists/a").write_bytes(b"another")
    applied = worker.apply(written)
    assert (applied.created, applied.create_errors) == (1, 1)
    assert list(reasons(applied.notes)) == ["etc/lists/a"]
    assert (root / "etc/lists/a").read_bytes() == b"another"


def test_files_are_counted_by_group(root: Path) -> None:
    write_tree(root, {"etc/lists/a": b"old", "etc/lists/b": b"old"})
    files = {f"etc/lists/{name}": b"new" for name in "abc"}
    metas = {path: wire_of(path, data) for path, data in files.items()}
    new = {"etc/lists/c": metas.pop("etc/lists/c")}
    _, _, applied = receiver(root, build_as_stock([*files.items(), metadata(new, metas)])).run()
    assert (applied.created, applied.updated, applied.create_errors, applied.overwrite_errors) == (1, 2, 0, 0)


def test_file_that_cannot_be_renamed_is_logged_in_the_stock_words_and_leaves_nothing(root: Path) -> None:
    write_tree(root, {"etc/lists/a": b"old"})
    files = {f"etc/lists/{name}": b"new" for name in "ab"}
    metas = {path: wire_of(path, data) for path, data in files.items()}
    new = {"etc/lists/b": metas.pop("etc/lists/b")}
    ops = FaultyOps(lambda number, name: OSError(errno.EIO, "the disk") if name == "rename" else None)
    _, _, applied = receiver(root, build_as_stock([*files.items(), metadata(new, metas)]), ops).run()
    assert (applied.create_errors, applied.overwrite_errors) == (1, 1)
    texts = [note.text.partition(": ")[0] for note in applied.notes if note.level == "ERROR"]
    assert sorted(texts) == [
        "Error processing missing file 'etc/lists/b'",
        "Error processing shared file 'etc/lists/a'",
    ]
    assert read_tree(root) == {"etc/lists/a": b"old"}


def test_files_behind_one_whose_temporary_file_is_away_are_synced(root: Path) -> None:
    ops = SyncedOps()
    worker = receiver(root, package_of({"etc/lists/a": b"a", "etc/lists/b": b"b"}), ops)
    opened = worker.open()
    written = [worker.unpack(index).written for index in range(opened.ranges)]
    with PlanFile(worker.plan) as plan:
        (root / "etc/lists" / temporary_name(written[0][0].path.rpartition("/")[2], plan.owner_of(0))).unlink()
    worker.apply(written)
    assert len(ops.renamed) == 1
    assert ops.early == []


def test_file_takes_the_place_of_directories_but_not_of_a_file_in_one_of_them(root: Path) -> None:
    """Of the items whose emptied directories stay, too: nothing else would ever remove those below the first."""
    extra = ["etc/rules/a/b/c/old", "etc/rules/a/d/old", "etc/rules/kept/b/old"]
    own = {"etc/rules/kept/b/c/.x.swp": b"an editor's"}
    write_tree(root, dict.fromkeys(extra, b"old") | own)
    files = {"etc/rules/a": b"new", "etc/rules/kept": b"new"}
    announced = {path: wire_of(path, data) for path, data in files.items()}
    ops = SyncedOps()
    _, _, applied = receiver(root, build_as_stock([*files.items(), metadata(announced, extra=extra)]), ops).run()
    assert read_tree(root) == {"etc/rules/a": b"new"} | own
    assert (applied.created, applied.create_errors, applied.deleted, applied.remove_errors) == (1, 1, 3, 0)
    assert reasons(applied.notes) == {"etc/rules/kept": "[Errno 39] Directory not empty"}
    assert not ops.dirty


def test_files_take_the_place_of_a_file_that_is_deleted_at_once(root: Path) -> None:
    """They were refused, and came with the next package: nine seconds later from a stock master."""
    write_tree(root, {"etc/rules/a": b"old", "etc/rules/stays": b"old"})
    files = {"etc/rules/a/b/c": b"new", "etc/rules/a/c": b"", "etc/rules/stays/x": b"new"}
    announced = {path: wire_of(path, data) for path, data in files.items()}
    package = build_as_stock([*files.items(), metadata(announced, extra=["etc/rules/a"])])
    ops = SyncedOps()
    _, _, applied = receiver(root, package, ops).run()
    assert read_tree(root) == {"etc/rules/a/b/c": b"new", "etc/rules/a/c": b"", "etc/rules/stays": b"old"}
    assert (applied.created, applied.create_errors, applied.deleted, applied.remove_errors) == (2, 1, 1, 0)
    assert ops.early == []
    assert not ops.dirty


def test_file_in_the_way_stays_while_deletions_wait_and_leaves_nothing_else(root: Path) -> None:
    write_tree(root, {"etc/rules/a": b"old"})
    worker = receiver(
        root,
        build_as_stock(
            [
                ("etc/rules/a/b", b"new"),
                metadata({"etc/rules/a/b": wire_of("etc/rules/a/b", b"new")}, extra=["etc/rules/a"]),
            ]
        ),
    )
    opened = worker.open()
    applied = worker.apply([worker.unpack(index).written for index in range(opened.ranges)], delete=False)
    assert (applied.created, applied.create_errors, applied.deleted) == (0, 1, 0)
    assert read_tree(root) == {"etc/rules/a": b"old"}


def emptied(root: Path, extra: list[str], ops: FileOps | None = None) -> AppliedPlan:
    return receiver(root, build_as_stock([metadata({}, extra=extra)]), ops).run()[2]


def test_directories_that_hold_nothing_of_content_go_up_to_the_item(root: Path) -> None:
    """Files that stock nodes exclude, and clusterd's temporary files, are deleted, too; wire.md 5.9."""
    temporary = temporary_name("x", "pid1-0")
    write_tree(root, {"etc/shared/a/b/c/gone": b"", "etc/shared/a/b/ar.conf": b"x", f"etc/shared/a/{temporary}": b"x"})
    applied = emptied(root, ["etc/shared/a/b/c/gone"])
    assert (applied.deleted, applied.remove_errors) == (1, 0)
    assert os.listdir(root / "etc/shared") == []


@pytest.mark.parametrize("kept", ["etc/shared/a/kept", "etc/shared/a/ar.conf/x", "etc/shared/a/sub/x"])
def test_directory_that_holds_anything_else_stays_whole(kept: str, root: Path) -> None:
    write_tree(root, {"etc/shared/a/b/gone": b"", "etc/shared/a/ossec.conf": b"", kept: b"x"})
    assert emptied(root, ["etc/shared/a/b/gone"]).remove_errors == 0
    assert read_tree(root) == {"etc/shared/a/ossec.conf": b"", kept: b"x"}
    assert not (root / "etc/shared/a/b").exists()


def test_directory_that_cannot_be_removed_is_an_error_and_logged(root: Path) -> None:
    write_tree(root, {"etc/shared/a/b/gone": b"", "etc/shared/c/gone": b""})
    ops = FaultyOps(lambda number, name: OSError(errno.EIO, "the disk") if name == "rmdir" else None)
    applied = emptied(root, ["etc/shared/a/b/gone", "etc/shared/c/gone"], ops)
    assert (applied.deleted, applied.remove_errors) == (2, 2)
    assert sorted(note.text.partition(": ")[0] for note in applied.notes if note.level == "ERROR") == [
        "Error removing directory 'etc/shared/a/b'",
        "Error removing directory 'etc/shared/c'",
    ]

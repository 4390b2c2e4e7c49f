"""A scan after another one: what is read again, and the file of the cache."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps
from hashing.digest import BUFFER_BYTES
from hashing.digest_cache import NO_ROWS, file_rows, load_rows, load_shard, save_shard
from hashing.errors import MalformedPackage
from hashing.rules import Rules
from hashing.walk import scan_shard
from tests.hashing.walked import SECOND, rows_of, scan, write

# ---- what is read again ----------------------------------------------------------------------------------------------


def test_unchanged_tree_is_not_read_and_nothing_is_to_be_saved(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path, f"etc/rules/{number % 3}/{number}")
    first = scan(tmp_path)
    assert (first.files, first.hashed, first.reused, first.is_changed) == (30, 30, 0, True)
    second = scan(tmp_path, first.rows)
    assert (second.files, second.hashed, second.reused, second.is_changed) == (30, 0, 30, False)
    assert second.rows is first.rows


def test_ignoring_the_cache_reads_everything_and_finds_the_same(tmp_path: Path) -> None:
    write(tmp_path, "etc/rules/a")
    first = scan(tmp_path)
    second = scan(tmp_path, first.rows, ignore_cache=True)
    assert second.hashed == 1
    assert second.rows == first.rows


def _edit(root: Path) -> None:
    write(root, "etc/rules/sub/b", b"changed")


def _edit_same_size_and_time(root: Path) -> None:
    path = root / "etc/rules/sub/b"
    before = path.stat()
    path.write_bytes(b"y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace_by_rename(root: Path) -> None:
    path = root / "etc/rules/sub/b"
    before = path.stat()
    write(root, "etc/rules/sub/new", b"y")
    os.utime(root / "etc/rules/sub/new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(root / "etc/rules/sub/new", path)


def _add(root: Path) -> None:
    write(root, "etc/rules/sub/c", b"new")


def _add_below_a_new_directory(root: Path) -> None:
    write(root, "etc/rules/sub/deep/deeper/c", b"new")


def _delete(root: Path) -> None:
    (root / "etc/rules/sub/b").unlink()


def _rename(root: Path) -> None:
    os.rename(root / "etc/rules/sub/b", root / "etc/rules/sub/c")


def _rename_directory(root: Path) -> None:
    os.rename(root / "etc/rules/sub", root / "etc/rules/other")


def _touch(root: Path) -> None:
    os.utime(root / "etc/rules/sub/b", ns=(1, 1))


def _replace_by_directory(root: Path) -> None:
    (root / "etc/rules/sub/b").unlink()
    write(root, "etc/rules/sub/b/c")


def _swap_directories(root: Path) -> None:
    write(root, "etc/rules/tmp/b", b"swapped")
    os.rename(root / "etc/rules/sub", root / "away")
    os.rename(root / "etc/rules/tmp", root / "etc/rules/sub")


CHANGES = [
    _edit,
    _edit_same_size_and_time,
    _replace_by_rename,
    _add,
    _add_below_a_new_directory,
    _delete,
    _rename,
    _rename_directory,
    _touch,
    _replace_by_directory,
    _swap_directories,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_every_kind_of_change_is_seen_and_changes_the_digest(change: Callable[[Path], None], tmp_path: Path) -> None:
    for path in ("etc/client.keys", "etc/rules/a", "etc/rules/sub/b", "etc/rules/sub/stays"):
        write(tmp_path, path)
    first = scan(tmp_path)
    time.sleep(
        0.02
    )  # one tick of the clock that stamps files; what a change within a tick needs is the rule tested below
    change(tmp_path)
    second = scan(tmp_path, first.rows)
    assert rows_of(second) == rows_of(scan(tmp_path))
    assert rows_of(second) != rows_of(first)
    assert second.is_changed
    assert second.rows.digest != first.rows.digest
    assert "etc/rules/a" in rows_of(second)
    third = scan(tmp_path, second.rows)
    assert (third.hashed, third.is_changed) == (0, False)


def test_file_written_just_before_a_scan_is_read_again_until_it_is_settled(tmp_path: Path) -> None:
    """A change in the same clock tick as the read before it leaves inode, size and times unchanged."""
    path = write(tmp_path, "etc/rules/a")
    written = path.stat().st_ctime_ns
    first = scan(tmp_path, started_ns=written + SECOND)
    second = scan(tmp_path, first.rows, started_ns=written + 3 * SECOND // 2)
    assert (first.hashed, second.hashed, second.is_changed) == (1, 1, False)
    third = scan(tmp_path, second.rows, started_ns=written + 3 * SECOND)
    assert (third.hashed, third.is_changed) == (1, True)
    assert third.rows.digest == first.rows.digest
    fourth = scan(tmp_path, third.rows, started_ns=written + 3 * SECOND)
    assert (fourth.hashed, fourth.is_changed) == (0, False)


def test_file_from_the_future_never_settles(tmp_path: Path) -> None:
    path = write(tmp_path, "etc/rules/a")
    os.utime(path, ns=(1, time.time_ns() + 3600 * SECOND))
    first = scan(tmp_path)
    assert scan(tmp_path, first.rows).hashed == 1


def test_file_with_a_second_name_is_looked_at_in_every_scan(tmp_path: Path) -> None:
    """It may be written to through the other name (a hard link): no event of its directory tells of that."""
    file = write(tmp_path, "etc/rules/sub/b")
    write(tmp_path, "etc/rules/other/b")
    first = scan(tmp_path)
    assert first.again == []
    os.link(file, tmp_path / "outside")
    second = scan(tmp_path, first.rows)
    assert second.again == ["etc/rules/sub"]
    # Also by what an earlier version has remembered as settled.
    settled = [msgspec.structs.replace(directory, settled=True) for directory in second.rows.directories]
    third = scan(tmp_path, msgspec.structs.replace(second.rows, directories=settled))
    assert (third.again, third.hashed) == (second.again, 0)
    fourth = scan(tmp_path, third.rows)
    assert (fourth.again, fourth.hashed, fourth.is_changed) == (second.again, 0, False)
    (tmp_path / "outside").unlink()
    assert scan(tmp_path, fourth.rows).again == []


def test_other_rules_apply_at_once_and_cost_no_reading(tmp_path: Path) -> None:
    for path in ("etc/rules/a.xml", "etc/rules/b.new"):
        write(tmp_path, path)
    first = scan(tmp_path)
    stricter = Rules(DEFAULT_RULES.items, excluded_extensions=(".new",))
    second = scan(tmp_path, first.rows, rules=stricter)
    assert list(rows_of(second)) == ["etc/rules/a.xml"]
    assert (second.hashed, second.is_changed) == (0, True)
    third = scan(tmp_path, second.rows)
    assert list(rows_of(third)) == ["etc/rules/a.xml", "etc/rules/b.new"]
    assert third.hashed == 1


def test_empty_directory_changes_no_digest(tmp_path: Path) -> None:
    write(tmp_path, "etc/rules/a")
    first = scan(tmp_path)
    (tmp_path / "etc/rules/empty").mkdir()
    second = scan(tmp_path, first.rows)
    assert second.is_changed
    assert second.rows.digest == first.rows.digest


def test_progress_is_reported_throughout(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path, f"etc/rules/{number}")
    write(tmp_path, "etc/lists/large", bytes(4 * BUFFER_BYTES))
    steps: list[int] = []
    first = scan(tmp_path, on_step=lambda: steps.append(1))
    assert len(steps) > 100 // 16 + 4
    steps.clear()
    scan(tmp_path, first.rows, on_step=lambda: steps.append(1))
    assert len(steps) >= 4, "one for each directory at least"


# ---- the file of the cache -------------------------------------------------------------------------------------------


def test_cache_comes_back_from_its_file(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    state.mkdir()
    write(root, "etc/rules/größe.xml")
    first = scan(root)
    save_shard(FileOps(), str(state), 0, 1, first.rows)
    second = scan(root, load_shard(str(state), 0, 1))
    assert (second.hashed, second.is_changed) == (0, False)
    assert load_rows(str(state), [first.rows.digest]) == (list(file_rows(first.rows)), [])
    with pytest.raises(MalformedPackage, match="another scan"):
        load_rows(str(state), ["0" * 16])


def test_damaged_cache_costs_reading_but_never_a_manifest_with_holes(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    state.mkdir()
    write(root, "etc/rules/a")
    scanned = [scan_shard(str(root), DEFAULT_RULES, shard, 2).rows for shard in range(2)]
    for shard, rows in enumerate(scanned):
        save_shard(FileOps(), str(state), shard, 2, rows)
    digests = [rows.digest for rows in scanned]
    load_rows(str(state), digests)
    (state / "shard-1-of-2").write_bytes((state / "shard-1-of-2").read_bytes()[:-1])
    assert load_shard(str(state), 1, 2) is NO_ROWS
    with pytest.raises(MalformedPackage):
        load_rows(str(state), digests)
    (state / "shard-1-of-2").unlink()
    assert load_shard(str(state), 1, 2) is NO_ROWS
    with pytest.raises(FileNotFoundError):
        load_rows(str(state), digests)

"""What a scan finds, reads again, and leaves alone. Times are given to the scan, so that nothing here waits for a file
to be old: SOON is a scan that begins long enough after the files were written for them to be settled."""

import base64
import json
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps, temporary_name
from hashing.digest import BUFFER_BYTES
from hashing.digest_cache import NO_ROWS, ShardRows, file_rows, load_rows, load_shard, save_shard, shard_of
from hashing.errors import MalformedPackage
from hashing.manifest import MAX_DEPTH, FileMeta, ItemRule, Rules, build_manifest, to_wire
from hashing.walk import ShardScan, scan_shard

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())
SECOND = 10**9


def soon() -> int:
    return time.time_ns() + 10 * SECOND


def wait_for_a_tick(directory: Path) -> None:
    """Until the clock that stamps files has moved: a few milliseconds."""
    probe = directory / "probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    deadline = time.monotonic() + 30
    while probe.stat().st_ctime_ns == before:
        assert time.monotonic() < deadline, "the clock of this file system stands still"
        probe.touch()


def write(root: Path, path: str, content: bytes = b"x") -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def scan(root: Path, previous: ShardRows = NO_ROWS, rules: Rules = DEFAULT_RULES, **options: object) -> ShardScan:
    options.setdefault("started_ns", soon())
    return scan_shard(str(root), rules, 0, 1, previous, **options)  # type: ignore[arg-type]


def rows_of(found: ShardScan) -> dict[str, FileMeta]:
    return {row.path: row for row in file_rows(found.rows)}


def digests(found: ShardScan) -> dict[str, bytes]:
    return {path: row.digest for path, row in rows_of(found).items()}


# ---- what is found ---------------------------------------------------------------------------------------------------


def test_scan_of_the_vector_tree_gives_exactly_its_metadata(tmp_path: Path) -> None:
    for file in VECTORS["tree"]:
        path = write(tmp_path, file["path"], base64.b64decode(file["content_b64"]))
        os.utime(path, ns=(int(file["mtime"] * 1000) * 10**6,) * 2)
    manifest = build_manifest(file_rows(scan(tmp_path).rows))
    assert json.loads(to_wire(manifest.rows)) == VECTORS["tree_metadata"]


def test_shards_together_hold_every_file_once(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path, f"etc/rules/{number % 7}/{number}.xml", str(number).encode())
    whole = rows_of(scan(tmp_path))
    parts = [scan_shard(str(tmp_path), DEFAULT_RULES, shard, 3) for shard in range(3)]
    found = [rows_of(part) for part in parts]
    assert sum(len(part) for part in found) == len(whole) == 100
    assert found[0] | found[1] | found[2] == whole
    for shard, part in enumerate(found):
        assert all(shard_of(path, 3) == shard for path in part)


def test_rows_hold_size_time_digest_and_item(tmp_path: Path) -> None:
    path = write(tmp_path, "etc/client.keys", b"keys")
    os.utime(path, ns=(5, 1700000000123456789))
    assert list(rows_of(scan(tmp_path)).values()) == [
        FileMeta("etc/client.keys", "etc/", blake2b(b"keys").digest(), 4, 1700000000123456789)
    ]


@pytest.mark.parametrize("size", [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES])
def test_files_of_any_size_are_digested(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    write(tmp_path, "etc/lists/x", data)
    found = scan(tmp_path)
    assert digests(found) == {"etc/lists/x": blake2b(data).digest()}
    assert found.hashed_bytes == size


def test_missing_directories_are_empty_ones(tmp_path: Path) -> None:
    found = scan(tmp_path)
    assert (found.files, found.notes, found.rows.unread) == (0, [], [])


def test_missing_root_is_an_error_and_no_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "nothing")


@pytest.mark.parametrize(
    "path",
    [
        "etc/ossec.conf",
        "etc/rules/ossec.conf",
        "etc/shared/default/ar.conf",
        "etc/rules/a.xml~",
        "etc/lists/.a.swp",
        "etc/lists/a.lock",
        "etc/lists/.tmp",
        "etc/lists/" + temporary_name("a", "plan1-0"),
        "var/multigroups/x/other",
        "etc/other/client.keys",
    ],
)
def test_excluded_files_are_not_in_it(path: str, tmp_path: Path) -> None:
    write(tmp_path, path)
    assert scan(tmp_path).files == 0


def test_own_temporary_files_are_left_out_whatever_is_configured(tmp_path: Path) -> None:
    write(tmp_path, "etc/lists/" + temporary_name("a", "plan1-0"))
    rules = Rules(DEFAULT_RULES.items, excluded_files=(), excluded_extensions=())
    assert scan(tmp_path, rules=rules).files == 0


def test_special_files_do_not_stop_the_scan(tmp_path: Path) -> None:
    """A FIFO in a synchronised directory blocked the stock scan for ever (C10)."""
    write(tmp_path, "etc/lists/a")
    os.mkfifo(tmp_path / "etc/lists/fifo")
    found = scan(tmp_path)
    assert list(rows_of(found)) == ["etc/lists/a"]
    assert [(note.level, note.path) for note in found.notes] == [("DEBUG", "etc/lists/fifo")]


def test_nested_items_have_each_file_once(tmp_path: Path) -> None:
    rules = Rules((ItemRule("etc/", ("all",), True, 0o640), ItemRule("etc/shared/", ("all",), False, 0o660)))
    for path in ("etc/a", "etc/shared/b", "etc/shared/sub/c"):
        write(tmp_path, path)
    found = rows_of(scan(tmp_path, rules=rules))
    assert {path: row.item for path, row in found.items()} == {
        "etc/a": "etc/",
        "etc/shared/b": "etc/shared/",
        "etc/shared/sub/c": "etc/",
    }
    build_manifest(found.values())


# ---- links and names -------------------------------------------------------------------------------------------------


def test_linked_directory_is_not_entered(tmp_path: Path) -> None:
    write(tmp_path, "outside/secret")
    (tmp_path / "etc/rules").mkdir(parents=True)
    (tmp_path / "etc/rules/link").symlink_to(tmp_path / "outside")
    assert scan(tmp_path).files == 0


def test_item_directory_that_is_a_link_to_nothing_is_left_alone_and_named(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/rules").symlink_to(tmp_path / "outside")
    found = scan(tmp_path)
    assert found.files == 0
    assert found.rows.unread == ["etc/rules/"]
    assert found.notes[0].level == "WARNING"


def test_link_to_a_file_inside_its_item_counts_as_that_file(tmp_path: Path) -> None:
    write(tmp_path, "etc/rules/sub/target", b"content")
    (tmp_path / "etc/rules/link").symlink_to("sub/target")
    first = scan(tmp_path)
    assert digests(first)["etc/rules/link"] == blake2b(b"content").digest()
    second = scan(tmp_path, first.rows)
    assert (second.hashed, second.is_changed) == (0, False)
    write(tmp_path, "etc/rules/sub/target", b"changed")
    assert digests(scan(tmp_path, first.rows))["etc/rules/link"] == blake2b(b"changed").digest()


def test_link_that_leads_out_of_its_item_hands_out_nothing(tmp_path: Path) -> None:
    write(tmp_path, "etc/secret", b"secret")
    (tmp_path / "etc/rules").mkdir()
    (tmp_path / "etc/rules/link").symlink_to("../secret")
    found = scan(tmp_path)
    assert found.files == 0
    assert [(note.level, note.path) for note in found.notes] == [("WARNING", "etc/rules/link")]


def test_dangling_link_is_a_file_that_vanished(tmp_path: Path) -> None:
    (tmp_path / "etc/rules").mkdir(parents=True)
    (tmp_path / "etc/rules/link").symlink_to("nothing")
    found = scan(tmp_path)
    assert found.files == 0
    [note] = found.notes
    assert note.level == "DEBUG"
    assert note.text.startswith("File etc/rules/link was deleted in previous iteration: [Errno 2] No such file")


def test_name_that_is_not_utf8_is_left_out_and_told_once(tmp_path: Path) -> None:
    write(tmp_path, "etc/rules/größe.xml")
    (tmp_path / "etc/rules" / os.fsdecode(b"bad\xff.xml")).write_bytes(b"x")
    (tmp_path / "etc/rules" / os.fsdecode(b"bad\xff.tmp")).write_bytes(b"x")
    (tmp_path / "etc/rules" / os.fsdecode(b"dir\xff")).mkdir()
    (tmp_path / "etc/rules" / os.fsdecode(b"dir\xff") / "a").write_bytes(b"x")
    assert list(rows_of(scan(tmp_path))) == ["etc/rules/größe.xml"]
    notes = [note for shard in range(3) for note in scan_shard(str(tmp_path), DEFAULT_RULES, shard, 3).notes]
    assert sorted(note.path for note in notes) == ["etc/rules/bad\\xff.xml", "etc/rules/dir\\xff"]
    assert {note.level for note in notes} == {"WARNING"}


def test_tree_deeper_than_any_real_one_is_named_and_not_deleted(tmp_path: Path) -> None:
    write(tmp_path, "etc/rules/a")
    os.makedirs(tmp_path / "etc/rules" / "/".join(["d"] * 140))
    found = scan(tmp_path)
    assert list(rows_of(found)) == ["etc/rules/a"]
    assert found.rows.unread == ["etc/rules/" + "d/" * (MAX_DEPTH - 1)]
    assert [note.level for note in found.notes] == ["WARNING"]


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
    """A change in the same tick of the clock as the read before it leaves inode, size and times as they were."""
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


def test_steps_are_told_throughout(tmp_path: Path) -> None:
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
    assert load_rows(str(state), 1) == (list(file_rows(first.rows)), [])


def test_damaged_cache_costs_reading_but_never_a_manifest_with_holes(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    state.mkdir()
    write(root, "etc/rules/a")
    for shard in range(2):
        save_shard(FileOps(), str(state), shard, 2, scan_shard(str(root), DEFAULT_RULES, shard, 2).rows)
    load_rows(str(state), 2)
    (state / "shard-1-of-2").write_bytes((state / "shard-1-of-2").read_bytes()[:-1])
    assert load_shard(str(state), 1, 2) is NO_ROWS
    with pytest.raises(MalformedPackage):
        load_rows(str(state), 2)
    (state / "shard-1-of-2").unlink()
    assert load_shard(str(state), 1, 2) is NO_ROWS
    with pytest.raises(FileNotFoundError):
        load_rows(str(state), 2)

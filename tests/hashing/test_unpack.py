"""Files of a received package arrive as they were announced; a bad file never affects another."""

import os
import random
import zlib
from pathlib import Path

import pytest

from hashing.package import FILE_SEP, PATH_SEP
from tests.hashing.packages import (
    Receiver,
    build_as_stock,
    build_merged,
    open_descriptors,
    read_tree,
    wire_of,
    write_tree,
)
from tests.hashing.received import merged_meta, metadata, package_of, reasons


def test_package_of_a_stock_node_is_applied_with_content_and_mode(root: Path, spool: Path) -> None:
    write_tree(root, {"etc/lists/old": b"before", "etc/shared/a/b/gone": b"x", "etc/rules/kept": b"kept"})
    files = {"etc/client.keys": b"001 a any k\n", "etc/shared/g/agent.conf": b"", "etc/lists/größe x": b"\x00" * 3000}
    missing = {path: wire_of(path, data) for path, data in files.items()}
    shared = {"etc/lists/old": wire_of("etc/lists/old", b"after")}
    entries = [*files.items(), ("etc/lists/old", b"after"), metadata(missing, shared, ["etc/shared/a/b/gone"])]
    before = os.umask(0o077)
    try:
        opened, ranges, applied = Receiver(root, spool, build_as_stock(entries)).run()
    finally:
        os.umask(before)
    assert (opened.missing, opened.shared, opened.extra, opened.refused) == (3, 1, 1, [])
    assert (applied.created, applied.updated, applied.deleted) == (3, 1, 1)
    assert (applied.create_errors, applied.overwrite_errors, applied.remove_errors) == (0, 0, 0)
    assert read_tree(root) == files | {"etc/lists/old": b"after", "etc/rules/kept": b"kept"}
    assert (root / "etc/client.keys").stat().st_mode & 0o7777 == 0o640
    assert (root / "etc/lists/old").stat().st_mode & 0o7777 == 0o660
    assert (root / "etc/shared/g").stat().st_mode & 0o7777 == 0o770
    assert not (root / "etc/shared/a").exists()
    assert [note for part in ranges for note in part.notes] == []


def test_nothing_changes_before_apply(root: Path, spool: Path) -> None:
    write_tree(root, {"etc/lists/a": b"old", "etc/lists/b": b"old"})
    entries = [("etc/lists/a", b"new"), metadata({}, {"etc/lists/a": wire_of("etc/lists/a", b"new")}, ["etc/lists/b"])]
    receiver = Receiver(root, spool, build_as_stock(entries))
    receiver.open()
    assert [written.path for written in receiver.unpack(0).written] == ["etc/lists/a"]
    assert (root / "etc/lists/a").read_bytes() == b"old"
    assert (root / "etc/lists/b").exists()


def test_file_whose_content_is_not_as_announced_is_left_out(root: Path, spool: Path) -> None:
    write_tree(root, {"etc/lists/b": b"old"})
    noise = random.Random(1).randbytes(2 << 20)
    files = {"etc/lists/a": b"a", "etc/lists/b": b"evil", "etc/lists/c": noise, "etc/lists/d": b"d"}
    metas = {path: wire_of(path, data) for path, data in files.items()}
    metas["etc/lists/b"] = wire_of("etc/lists/b", b"good")
    metas["etc/lists/c"] = wire_of("etc/lists/c", b"good")
    _, ranges, applied = Receiver(root, spool, build_as_stock([*files.items(), metadata(metas)])).run()
    assert read_tree(root) == {"etc/lists/a": b"a", "etc/lists/b": b"old", "etc/lists/d": b"d"}
    assert [note.path for part in ranges for note in part.notes] == ["etc/lists/b", "etc/lists/c"]
    assert (applied.created, applied.create_errors) == (2, 2)


@pytest.mark.parametrize("damage", [b"", b"\x78\x01garbage", zlib.compress(b"x" * 500)[:-3], b"no stream at all"])
def test_broken_entry_costs_only_its_own_file(damage: bytes, root: Path, spool: Path) -> None:
    metas = {f"etc/lists/{name}": wire_of("etc/lists/x", b"x" * 500) for name in "abc"}
    good = PATH_SEP + zlib.compress(b"x" * 500)
    last = build_as_stock([metadata(metas)])
    package = FILE_SEP.join([b"etc/lists/a" + good, b"etc/lists/b" + PATH_SEP + damage, b"etc/lists/c" + good, last])
    _, ranges, _ = Receiver(root, spool, package).run()
    assert sorted(read_tree(root)) == ["etc/lists/a", "etc/lists/c"]
    assert [note.path for part in ranges for note in part.notes] == ["etc/lists/b"]


def test_stock_package_with_separators_in_its_data_is_rescued(root: Path, spool: Path) -> None:
    """C5: a stock sender writes them verbatim; a stock receiver would lose the whole package. The noise contains pieces
    that look like entries of this very package."""
    rng = random.Random(3)
    fake = FILE_SEP + b"etc/lists/small" + PATH_SEP + zlib.compress(b"evil")
    unknown = FILE_SEP + b"etc/lists/other" + PATH_SEP + zlib.compress(b"evil")
    noise = b"".join(rng.randbytes(9000) + rng.choice([FILE_SEP, fake, unknown, PATH_SEP]) for _ in range(60))
    files = {"etc/lists/noise": noise, "etc/lists/small": b"small", "etc/lists/z": noise[::-1]}
    for level in (0, 1):
        package = package_of(files, level)
        assert package.count(FILE_SEP) > 20
        receiver = Receiver(root, spool, package)
        receiver.range_bytes = 50_000
        _, ranges, applied = receiver.run()
        assert read_tree(root) == files
        assert [note for part in ranges for note in part.notes] == []
        assert applied.create_errors == 0


def test_range_that_begins_inside_data_takes_nothing_from_its_neighbours(root: Path, spool: Path) -> None:
    """Given data that contain what looks like the only entry of a file that was announced but not sent."""
    rng = random.Random(3)
    fake = FILE_SEP + b"etc/lists/ghost" + PATH_SEP + zlib.compress(b"evil")
    files = {"etc/lists/a": rng.randbytes(90_000) + fake + rng.randbytes(90_000), "etc/lists/b": rng.randbytes(90_000)}
    metas = {path: wire_of(path, data) for path, data in files.items()}
    metas["etc/lists/ghost"] = wire_of("etc/lists/ghost", b"good")
    receiver = Receiver(root, spool, build_as_stock([*files.items(), metadata(metas)], 0))
    receiver.range_bytes = 1
    opened, ranges, _ = receiver.run()
    assert opened.ranges == 3
    assert read_tree(root) == files
    assert [note.path for part in ranges for note in part.notes] == ["etc/lists/ghost"]


def test_file_announced_but_not_sent_is_named(root: Path, spool: Path) -> None:
    package = build_as_stock([metadata({"etc/lists/a": wire_of("etc/lists/a", b"a")})])
    opened, _, applied = Receiver(root, spool, package).run()
    assert reasons(opened.refused) == {"etc/lists/a": "is not in the package"}
    assert (opened.ranges, applied.create_errors) == (0, 1)


def test_entries_that_were_not_announced_are_ignored(root: Path, spool: Path) -> None:
    files = {"etc/lists/a": b"a", "etc/lists/b": b"b", "../outside": b"evil", "etc/lists/c": b"c"}
    metas = {path: wire_of(path, files[path]) for path in ("etc/lists/b", "etc/lists/c")}
    Receiver(root, spool, build_as_stock([*files.items(), metadata(metas)])).run()
    assert read_tree(root.parent) == {"root/etc/lists/b": b"b", "root/etc/lists/c": b"c"}


@pytest.mark.parametrize("range_bytes", [1, 1000, 100_000])
def test_ranges_of_any_size_give_the_same_files(range_bytes: int, root: Path, spool: Path) -> None:
    rng = random.Random(2)
    files = {f"etc/lists/{number % 7}/{number}": rng.randbytes(rng.randrange(3000)) for number in range(120)}
    receiver = Receiver(root, spool, package_of(files))
    receiver.range_bytes = range_bytes
    opened, ranges, _ = receiver.run()
    assert opened.ranges == len(ranges) > (1 if range_bytes < 100_000 else 0)
    assert read_tree(root) == files


def test_range_can_be_unpacked_again_after_its_process_died(root: Path, spool: Path) -> None:
    files = {f"etc/lists/{number}": b"%d" % number for number in range(10)}
    receiver = Receiver(root, spool, package_of(files))
    receiver.open()
    first = receiver.unpack(0)
    (root / "etc/lists" / next(name for name in os.listdir(root / "etc/lists"))).write_bytes(b"torn")
    again = receiver.unpack(0)
    assert [written.path for written in again.written] == [written.path for written in first.written]
    receiver.apply([again.written])
    assert read_tree(root) == files


def test_set_of_deletions_has_one_digest_whatever_else_is_sent(root: Path, spool: Path) -> None:
    gone = ["etc/lists/a", "etc/lists/b"]
    new = ("etc/lists/c", b"c")
    one = Receiver(root, spool, build_as_stock([metadata({}, {}, gone)])).open()
    same = Receiver(root, spool, build_as_stock([new, metadata({new[0]: wire_of(*new)}, {}, reversed(gone))])).open()
    other = Receiver(root, spool, build_as_stock([metadata({}, {}, gone[:1])])).open()
    assert one.extra_digest == same.extra_digest != other.extra_digest


def test_merged_file_of_a_stock_node_is_split_and_verified_first(root: Path, spool: Path) -> None:
    data = build_merged([("001", 0, b"default"), ("002", 0, b"")]) + b"3 ../x time\nabc"
    path = "queue/cluster/worker1/TYPE.merged"
    _, ranges, applied = Receiver(
        root, spool, build_as_stock([(path, data), metadata({path: merged_meta(path, data)})])
    ).run()
    assert read_tree(root) == {"queue/TYPE/001": b"default", "queue/TYPE/002": b""}
    assert "'../x'" in ranges[0].notes[0].why
    assert applied.create_errors == 0
    wrong = build_as_stock([(path, data), metadata({path: merged_meta(path, b"other")})])
    write_tree(root, {"queue/TYPE/001": b"kept"})
    assert Receiver(root, spool, wrong).run()[2].create_errors == 1
    assert read_tree(root)["queue/TYPE/001"] == b"kept"


def test_plain_file_with_merged_in_its_name_is_put_in_its_place(root: Path, spool: Path) -> None:
    """C6: a stock master marks it as merged; a stock worker then never gets it."""
    path = "etc/shared/default/x.merged"
    _, ranges, applied = Receiver(
        root, spool, build_as_stock([(path, b"<xml>\n"), metadata({path: merged_meta(path, b"<xml>\n")})])
    ).run()
    assert read_tree(root) == {path: b"<xml>\n"}
    assert applied.created == 1
    assert ranges[0].notes == []


def test_no_descriptor_and_no_temporary_file_stays(root: Path, spool: Path) -> None:
    files = {f"etc/shared/{number % 90}/{number}": b"x" * 100 for number in range(200)}
    metas = {path: wire_of(path, data if path[-1] != "7" else b"other") for path, data in files.items()}
    before = open_descriptors()
    Receiver(root, spool, build_as_stock([*files.items(), metadata(metas)])).run()
    assert open_descriptors() <= before  # what tests before this one left may be collected meanwhile
    assert set(read_tree(root)) == {path for path in files if path[-1] != "7"}


def test_refused_files_are_counted_by_group_and_logged_in_the_stock_words(root: Path, spool: Path) -> None:
    """docs/protocol/wire.md 5.9."""
    missing = {path: wire_of(path, b"x", "etc/rules/") for path in ("etc/a", "etc/b", "etc/c")}
    shared = {path: wire_of(path, b"x", "etc/rules/") for path in ("etc/d", "etc/e")}
    package = build_as_stock([metadata(missing, shared, ["../f", "../g", "../h", "../i"])])
    opened, _, applied = Receiver(root, spool, package).run()
    assert (applied.create_errors, applied.overwrite_errors, applied.remove_errors) == (3, 2, 4)
    texts = [note.text for note in opened.refused]
    assert [text.partition("'")[0] for text in texts] == [
        *["Error processing missing file "] * 3, *["Error processing shared file "] * 2, *["Error removing file "] * 4
    ]  # fmt: skip


def test_merged_file_is_split_up_to_its_bound_and_not_above(
    root: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = random.Random(1).randbytes(3_000_000)
    data = build_merged([("001", 0, part)])
    path = "queue/cluster/worker1/TYPE.merged"
    package = build_as_stock([(path, data), metadata({path: merged_meta(path, data)})])
    monkeypatch.setattr("hashing.unpack._MERGED_BYTES", len(data) - 1)
    _, ranges, applied = Receiver(root, spool, package).run()
    assert (applied.create_errors, read_tree(root)) == (1, {})
    assert "has more than" in ranges[0].notes[0].why
    monkeypatch.setattr("hashing.unpack._MERGED_BYTES", len(data))
    _, _, applied = Receiver(root, spool, package).run()
    assert (applied.create_errors, read_tree(root)) == (0, {"queue/TYPE/001": part})

"""A received package is not believed: paths, links, contents, sizes; and one bad file never costs another."""

import json
import os
import random
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

import lz4.frame
import msgspec
import pytest

from hashing.directories import Directories
from hashing.errors import MalformedPackage, Note, PackageTooLarge
from hashing.manifest import MAX_DEPTH, WireMeta
from hashing.package import CHUNK_BYTES, FEED_BYTES, FILE_SEP, METADATA_NAME, PATH_SEP, PackageReader
from hashing.plan import PlanFile, Written
from tests.hashing.packages import (
    GIB,
    Receiver,
    build_as_stock,
    build_merged,
    open_descriptors,
    read_tree,
    wire_of,
    write_tree,
)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "node" / "root"
    path.mkdir(parents=True)
    return path


def metadata(
    missing: Mapping[str, WireMeta], shared: Mapping[str, WireMeta] | None = None, extra: Iterable[str] = ()
) -> tuple[str, bytes]:
    groups = {"missing": missing, "extra": {path: wire_of(path) for path in extra}, "shared": shared or {}}
    return METADATA_NAME, json.dumps(msgspec.to_builtins(groups)).encode()


def package_of(files: Mapping[str, bytes], level: int = 1) -> bytes:
    announced = {path: wire_of(path, data) for path, data in files.items()}
    return build_as_stock([*files.items(), metadata(announced)], level)


def reasons(notes: Iterable[Note]) -> dict[str, str]:
    return {note.path: note.why for note in notes if note.why}


def test_package_of_a_stock_node_lands_with_content_and_mode(root: Path, spool: Path) -> None:
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


BAD_PATHS = [
    "../outside",
    "etc/rules/../../../outside",
    "/etc/passwd",
    "etc/rules//a",
    "etc/rules/./a",
    "etc/rules/a\0b",
    "etc/rules/" + "n" * 256,
    "etc/rules/" + "d/" * 2100 + "x",
    "etc/ossec.conf",
    "etc/shared/ar.conf",
    "etc/rules/a.tmp",
    "etc/rules/backup~",
    "etc/shared/x/ossec.conf",
    "var/multigroups/x/other",
    "queue/cluster/.clusterd/spool/x",
    "queue/cluster/other/x.zip",
    "etc/sslmanager.key",
    "etc/rules/.clusterd-0123456789abcdef.tmp",
    "etc/rules",
    "etc/rules/",
    "",
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=[str(number) for number in range(len(BAD_PATHS))])
@pytest.mark.parametrize("item", ["etc/", "etc/rules/", "etc/shared/", "queue/"])
def test_no_path_leads_out_of_what_is_synchronised(path: str, item: str, root: Path, spool: Path) -> None:
    write_tree(root, {"etc/ossec.conf": b"ours", "etc/shared/ar.conf": b"ours", "etc/rules/ok": b"old"})
    write_tree(root.parent, {"outside": b"ours"})
    before = read_tree(root.parent)
    meta = wire_of(path, b"evil", item)
    entries = {path: b"evil"} if len(path) <= 4096 and path else {}
    good = {"etc/rules/ok": wire_of("etc/rules/ok", b"new")}
    package = build_as_stock([*entries.items(), ("etc/rules/ok", b"new"), metadata({path: meta}, good)])
    opened, _, applied = Receiver(root, spool, package).run()
    assert read_tree(root.parent) == before | {"root/etc/rules/ok": b"new"}
    assert applied.create_errors == 1
    assert opened.refused[0].level == "ERROR"
    # The same path as one to delete
    package = build_as_stock(
        [
            (
                METADATA_NAME,
                json.dumps({"missing": {}, "shared": {}, "extra": {path: msgspec.to_builtins(meta)}}).encode(),
            )
        ]
    )
    _, _, applied = Receiver(root, spool, package).run()
    assert read_tree(root.parent) == before | {"root/etc/rules/ok": b"new"}
    assert (applied.deleted, applied.remove_errors) == (0, 1)


def test_path_of_thousands_of_directories_is_refused_at_once(root: Path, spool: Path) -> None:
    path = "etc/rules/" + "d/" * 2000 + "x"
    package = package_of({path: b"deep", "etc/rules/" + "d/" * (MAX_DEPTH - 2) + "x": b"deep enough"})
    opened, _, applied = Receiver(root, spool, package).run()
    assert reasons(opened.refused) == {path: f"is more than {MAX_DEPTH} directories deep"}
    assert (applied.created, applied.create_errors) == (1, 1)
    assert list(read_tree(root).values()) == [b"deep enough"]


def test_directories_on_the_way_are_made_without_a_call_for_each(root: Path) -> None:
    path = "/".join("d" * 1100)
    with Directories(str(root)) as directories:
        assert directories.make(path) == directories.get(path)
    while path:  # pytest would remove it by recursion
        (root / path).rmdir()
        path = path.rpartition("/")[0]


def test_path_of_another_item_is_refused(root: Path, spool: Path) -> None:
    meta = {"etc/client.keys": wire_of("etc/client.keys", b"k", "etc/shared/")}
    opened, _, _ = Receiver(root, spool, build_as_stock([("etc/client.keys", b"k"), metadata(meta)])).run()
    assert reasons(opened.refused) == {"etc/client.keys": "is not in etc/shared/"}
    assert read_tree(root) == {}


def make_foreign(link: Path) -> None:
    """A configured directory that is a link of the operator's is his word; of another user's it is not."""
    if os.geteuid() != 0:
        pytest.skip("needs a link of another user")
    os.chown(link, 65534, 65534, follow_symlinks=False)


@pytest.mark.parametrize("link", ["etc", "etc/rules", "etc/rules/sub"])
def test_nothing_is_written_or_deleted_through_a_linked_directory(link: str, root: Path, spool: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    write_tree(elsewhere, {"a": b"ours", "sub/a": b"ours", "rules/sub/a": b"ours"})
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(elsewhere)
    if link != "etc/rules/sub":
        make_foreign(root / link)
    before = read_tree(elsewhere)
    path = "etc/rules/sub/a"
    new = "etc/rules/sub/new"
    entries = [(new, b"evil"), metadata({new: wire_of(new, b"evil")}, {}, [path])]
    opened, _, applied = Receiver(root, spool, build_as_stock(entries)).run()
    assert read_tree(elsewhere) == before
    assert (applied.created, applied.create_errors, applied.deleted, applied.remove_errors) == (0, 1, 0, 1)
    assert "is a link" in reasons(opened.refused)[new]


def test_directory_that_becomes_a_link_after_opening_is_not_followed(root: Path, spool: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (root / "etc/rules").mkdir(parents=True)
    receiver = Receiver(root, spool, package_of({"etc/rules/a": b"evil"}))
    receiver.open()
    (root / "etc/rules").rmdir()
    (root / "etc/rules").symlink_to(elsewhere)
    make_foreign(root / "etc/rules")
    unpacked = receiver.unpack(0)
    assert unpacked.written == []
    assert "is a link" in unpacked.notes[0].why
    assert receiver.apply([[Written("etc/rules/a")]]).created == 0
    assert os.listdir(elsewhere) == []


def test_link_in_the_place_of_a_file_is_replaced_not_followed(root: Path, spool: Path) -> None:
    write_tree(root.parent, {"outside": b"ours"})
    (root / "etc/rules").mkdir(parents=True)
    (root / "etc/rules/a").symlink_to(root.parent / "outside")
    Receiver(root, spool, package_of({"etc/rules/a": b"new"})).run()
    assert (root.parent / "outside").read_bytes() == b"ours"
    assert not (root / "etc/rules/a").is_symlink()
    assert (root / "etc/rules/a").read_bytes() == b"new"


def test_members_that_collide_are_refused_and_the_others_land(root: Path, spool: Path) -> None:
    files = {"etc/rules/a": b"file", "etc/rules/a/b/c": b"below", "etc/rules/d": b"d", "etc/rules/e": b"e"}
    missing = {path: wire_of(path, files[path]) for path in ("etc/rules/a", "etc/rules/a/b/c", "etc/rules/d")}
    shared = {path: wire_of(path, files[path]) for path in ("etc/rules/d", "etc/rules/e")}
    package = build_as_stock([*files.items(), metadata(missing, shared, ["etc/rules/e"])])
    opened, _, applied = Receiver(root, spool, package).run()
    assert read_tree(root) == {"etc/rules/a": b"file", "etc/rules/d": b"d", "etc/rules/e": b"e"}
    assert sorted(note.path for note in opened.refused) == ["etc/rules/a/b/c", "etc/rules/d", "etc/rules/e"]
    assert (applied.create_errors, applied.overwrite_errors, applied.remove_errors) == (1, 1, 1)


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
    """C5: a stock sender writes them verbatim; a stock receiver would lose the whole package. Among the noise are
    pieces that look like entries of this very package."""
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
    """Given data that hold what looks like the only entry of a file announced but not sent."""
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


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_bomb_is_stopped_at_the_bound_of_a_file(root: Path, spool: Path) -> None:
    files = {"etc/lists/bomb": bytes(64 << 20), "etc/lists/good": b"good"}
    receiver = Receiver(root, spool, package_of(files, 9))
    receiver.max_file = 4 << 20
    tracemalloc.start()
    try:
        _, ranges, _ = receiver.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert read_tree(root) == {"etc/lists/good": b"good"}
    assert reasons(ranges[0].notes) == {"etc/lists/bomb": f"has more than {4 << 20} bytes"}


def test_all_ranges_together_respect_one_bound(root: Path, spool: Path) -> None:
    """Many files of 4 MiB that shrink to nothing, in many ranges: some are written, far from all."""
    files = {f"etc/lists/{number:02}": bytes(4 << 20) for number in range(30)}
    receiver = Receiver(root, spool, package_of(files, 9))
    receiver.range_bytes = 1
    receiver.max_total = 40 << 20
    opened, ranges, applied = receiver.run()
    assert opened.ranges == 30
    written = sum(len(data) for data in read_tree(root).values())
    assert 30 << 20 <= written <= 44 << 20
    assert applied.create_errors == 30 - written // (4 << 20)
    assert "in all" in ranges[-1].notes[0].why


def test_compressible_set_within_the_bounds_passes_in_little_memory(root: Path, spool: Path) -> None:
    files = {f"etc/lists/{number}": bytes(48 << 20) + b"%d" % number for number in range(2)}
    receiver = Receiver(root, spool, package_of(files, 9))
    tracemalloc.start()
    try:
        _, _, applied = receiver.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert applied.created == 2
    assert peak < 8 << 20
    for path, data in files.items():
        assert blake2b((root / path).read_bytes()).digest() == blake2b(data).digest()


def test_metadata_bomb_is_refused(root: Path, spool: Path) -> None:
    receiver = Receiver(root, spool, build_as_stock([(METADATA_NAME, b" " * (2 << 20))]))
    receiver.max_total = 1 << 20
    with pytest.raises(PackageTooLarge):
        receiver.open()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"missing": {}}',
        b'{"missing": {}, "shared": {}, "extra": []}',
        b'{"missing": {"etc/lists/a": {"cluster_item_key": "etc/lists/", "hash": "00"}}, "shared": {}, "extra": {}}',
        b'{"missing": {"etc/lists/a": {"cluster_item_key": "etc/lists/"}}, "shared": {}, "extra": {}}',
        b'{"missing": ' + b"[" * 100_000,
    ],
)
def test_metadata_that_cannot_be_used_refuse_the_package(content: bytes, root: Path, spool: Path) -> None:
    with pytest.raises(MalformedPackage):
        Receiver(root, spool, build_as_stock([(METADATA_NAME, content)])).open()


@pytest.mark.parametrize("package", [b"", b"garbage", FILE_SEP, FILE_SEP * 1000, PATH_SEP, bytes(100_000)])
def test_bytes_that_are_no_package_are_refused(package: bytes, root: Path, spool: Path) -> None:
    with pytest.raises(MalformedPackage):
        Receiver(root, spool, package).open()


def test_set_of_deletions_has_one_digest_whatever_else_is_sent(root: Path, spool: Path) -> None:
    gone = ["etc/lists/a", "etc/lists/b"]
    new = ("etc/lists/c", b"c")
    one = Receiver(root, spool, build_as_stock([metadata({}, {}, gone)])).open()
    same = Receiver(root, spool, build_as_stock([new, metadata({new[0]: wire_of(*new)}, {}, reversed(gone))])).open()
    other = Receiver(root, spool, build_as_stock([metadata({}, {}, gone[:1])])).open()
    assert one.extra_digest == same.extra_digest != other.extra_digest


# ---- small files, read at once ---------------------------------------------------------------------------------------


def frame_of(data: bytes) -> bytes:
    return lz4.frame.compress(data)


def stored_frame_of(data: bytes) -> bytes:
    """A frame that holds `data` as they are, a separator too."""
    return lz4.frame.compress(b"")[:7] + (len(data) | 1 << 31).to_bytes(4, "little") + data + bytes(4)


GOOD = b"good" * 50
MAX_SMALL = 100_000
LARGE = random.Random(4).randbytes(FEED_BYTES)
DECOY = GOOD + FILE_SEP + b"etc/lists/c" + PATH_SEP + zlib.compress(b"evil")
SMALL_STREAMS = {
    "zlib": (zlib.compress(GOOD), GOOD),
    "lz4": (frame_of(GOOD), GOOD),
    "empty_zlib": (zlib.compress(b""), b""),
    "empty_lz4": (frame_of(b""), b""),
    "wrong_zlib": (zlib.compress(b"evil"), GOOD),
    "wrong_lz4": (frame_of(b"evil"), GOOD),
    "cut_zlib": (zlib.compress(GOOD)[:-1], GOOD),
    "cut_lz4": (frame_of(GOOD)[:-1], GOOD),
    "longer_zlib": (zlib.compress(GOOD) + b"x", GOOD),
    "longer_lz4": (frame_of(GOOD) + b"x", GOOD),
    "two_frames": (frame_of(GOOD) * 2, GOOD),
    "damaged_zlib": (zlib.compress(GOOD)[:8] + b"xyz" + zlib.compress(GOOD)[11:], GOOD),
    "damaged_lz4": (frame_of(GOOD)[:15] + bytes(9) + frame_of(GOOD)[24:], GOOD),
    "only_magic": (frame_of(GOOD)[:4], GOOD),
    "nothing": (b"", GOOD),
    "separator_in_zlib": (zlib.compress(DECOY, 0), DECOY),
    "separator_in_lz4": (stored_frame_of(DECOY), DECOY),
    "separator_first": (FILE_SEP + zlib.compress(GOOD), GOOD),
    "long_zlib": (zlib.compress(LARGE), LARGE),
    "long_lz4": (frame_of(LARGE), LARGE),
    "at_the_limit_zlib": (zlib.compress(bytes(MAX_SMALL)), bytes(MAX_SMALL)),
    "at_the_limit_lz4": (frame_of(bytes(MAX_SMALL)), bytes(MAX_SMALL)),
    "above_the_limit_zlib": (zlib.compress(bytes(MAX_SMALL + 1)), bytes(MAX_SMALL + 1)),
    "above_the_limit_lz4": (frame_of(bytes(MAX_SMALL + 1)), bytes(MAX_SMALL + 1)),
    "bomb_zlib": (zlib.compress(bytes(16 << 20)), bytes(16 << 20)),
    "bomb_lz4": (frame_of(bytes(8 << 20)), bytes(8 << 20)),
}


@pytest.mark.parametrize("max_total", [16 << 20, MAX_SMALL + 300, 2 * len(GOOD), 2 * len(GOOD) - 1, 3])
@pytest.mark.parametrize("name", SMALL_STREAMS)
def test_file_read_at_once_fares_as_one_read_in_pieces(
    name: str, max_total: int, root: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between good files, which follow what may have upset the reader; the last one is empty, and fits any bound."""
    stream, announced = SMALL_STREAMS[name]
    metas = {"etc/lists/a": GOOD, "etc/lists/b": announced, "etc/lists/c": GOOD, "etc/lists/d": b""}
    package = FILE_SEP.join(
        [
            b"etc/lists/a" + PATH_SEP + frame_of(GOOD),
            b"etc/lists/b" + PATH_SEP + stream,
            b"etc/lists/c" + PATH_SEP + frame_of(GOOD),
            b"etc/lists/d" + PATH_SEP + frame_of(b""),
            build_as_stock([metadata({path: wire_of(path, data) for path, data in metas.items()})]),
        ]
    )

    def result(place: Path) -> tuple[object, ...]:
        receiver = Receiver(place, spool, package)
        receiver.max_file = MAX_SMALL
        receiver.open()
        receiver.max_total = max_total
        unpacked = receiver.unpack(0)
        with PlanFile(receiver.plan) as plan:
            spent = plan.unpacked_bytes()
        waiting = sorted(os.stat(place / path).st_mode for path in read_tree(place))
        paths = [written.path for written in unpacked.written]
        return paths, unpacked.notes, spent, waiting, receiver.apply([unpacked.written]), read_tree(place)

    at_once = result(root)
    monkeypatch.setattr(PackageReader, "small_content", lambda reader, limit: None)
    assert at_once == result(root.parent / "in_pieces")


def test_bomb_is_not_unpacked_at_once(tmp_path: Path) -> None:
    """Less than FEED_BYTES of either kind that would fill megabytes."""
    for bomb in (frame_of(bytes(12 << 20)), zlib.compress(bytes(12 << 20))):
        assert len(bomb) < FEED_BYTES
        path = tmp_path / "bomb"
        path.write_bytes(b"a" + PATH_SEP + bomb + FILE_SEP)
        with path.open("rb") as file:
            reader = PackageReader(file.fileno(), path.stat().st_size)
            reader.read_path()
            before = reader.position
            tracemalloc.start()
            try:
                assert reader.small_content(GIB) is None
                assert tracemalloc.get_traced_memory()[1] < 3 * CHUNK_BYTES
            finally:
                tracemalloc.stop()
        assert reader.position == before


@pytest.mark.parametrize("name", SMALL_STREAMS)
def test_nothing_of_a_broken_stream_gets_into_the_next(name: str, tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.write_bytes(SMALL_STREAMS[name][0] + FILE_SEP + frame_of(b"next") + FILE_SEP)
    with path.open("rb") as file:
        reader = PackageReader(file.fileno(), path.stat().st_size)
        reader.small_content(GIB)
        reader.position = path.stat().st_size - len(frame_of(b"next") + FILE_SEP)
        assert reader.small_content(GIB) == b"next"


def test_small_files_are_read_at_once(root: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise 20,000 of them cost 7 to 9 % more."""
    slow: list[str] = []
    content = PackageReader.content

    def observed(reader: PackageReader, path: str, limit: int) -> Iterator[bytes]:
        slow.append(path)
        return content(reader, path, limit)

    files = {f"etc/lists/{number}": bytes(number) * 1000 for number in range(20)}
    metas = {path: wire_of(path, data) for path, data in files.items()}
    entries = [path.encode() + PATH_SEP + frame_of(data) for path, data in files.items()]
    receiver = Receiver(root, spool, FILE_SEP.join([*entries, build_as_stock([metadata(metas)])]))
    receiver.open()
    monkeypatch.setattr(PackageReader, "content", observed)
    receiver.apply([receiver.unpack(0).written])
    assert read_tree(root) == files
    assert slow == []


# ---- merged files ----------------------------------------------------------------------------------------------------


def merged_meta(path: str, data: bytes) -> WireMeta:
    return wire_of(path, data, "etc/shared/", merged=True, merge_type="TYPE", merge_name="/x")


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


def test_plain_file_with_merged_in_its_name_lands_in_its_place(root: Path, spool: Path) -> None:
    """C6: a stock master marks it as merged; a stock worker then never has it."""
    path = "etc/shared/default/x.merged"
    _, ranges, applied = Receiver(
        root, spool, build_as_stock([(path, b"<xml>\n"), metadata({path: merged_meta(path, b"<xml>\n")})])
    ).run()
    assert read_tree(root) == {path: b"<xml>\n"}
    assert applied.created == 1
    assert ranges[0].notes == []


def test_parts_go_nowhere_but_to_their_directory(root: Path, spool: Path) -> None:
    """Paths that claim to be parts are believed only next to a merged file, and only in queue/TYPE."""
    write_tree(root, {"queue/db/.clusterd-x.tmp": b"", "etc/lists/a": b"a"})
    receiver = Receiver(root, spool, package_of({"etc/lists/b": b"b"}))
    receiver.open()
    written = receiver.unpack(0).written
    receiver.apply([[Written("queue/TYPE/x"), Written("queue/db/x"), *written]])
    assert sorted(read_tree(root)) == ["etc/lists/a", "etc/lists/b", "queue/db/.clusterd-x.tmp"]


def test_no_descriptor_and_no_temporary_file_stays(root: Path, spool: Path) -> None:
    files = {f"etc/shared/{number % 90}/{number}": b"x" * 100 for number in range(200)}
    metas = {path: wire_of(path, data if path[-1] != "7" else b"other") for path, data in files.items()}
    before = open_descriptors()
    Receiver(root, spool, build_as_stock([*files.items(), metadata(metas)])).run()
    assert open_descriptors() == before
    assert set(read_tree(root)) == {path for path in files if path[-1] != "7"}


def test_package_of_separators_is_refused_soon(root: Path, spool: Path) -> None:
    files = {"etc/lists/a": b"a"}
    whole = package_of(files)
    Receiver(root, spool, FILE_SEP * 500 + whole).open()
    with pytest.raises(MalformedPackage, match="more than 1002 entries"):
        Receiver(root, spool, FILE_SEP * 100_000 + whole).open()


def test_what_is_refused_is_counted_by_group_and_said_in_the_stock_words(root: Path, spool: Path) -> None:
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

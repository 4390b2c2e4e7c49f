"""Packing within limits (wire.md 5.6 with C12): which files fit, what is reported of the others, what the metadata then
contain."""

import base64
import errno
import json
import os
import random
import tracemalloc
from collections.abc import Iterable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import pytest

from hashing.compare import Difference
from hashing.errors import MalformedPackage
from hashing.manifest import FileMeta
from hashing.metadata_json import WireMeta
from hashing.pack import FULL, finish_package, pack_part, write_metadata
from hashing.package import METADATA_NAME, read_metadata_of
from tests.hashing.packages import (
    GIB,
    difference_of,
    joined,
    open_descriptors,
    pack,
    save,
    split_as_stock,
    step,
    write_tree,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


def metadata_of(entries: Iterable[tuple[str, bytes]]) -> dict[str, dict[str, dict[str, Any]]]:
    name, data = list(entries)[-1]
    assert name == METADATA_NAME
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(data)
    return found


def row_of(path: str, meta: dict[str, Any]) -> FileMeta:
    mtime_ns = round(meta["mod_time"] * 1e9)
    return FileMeta(path, meta["cluster_item_key"], bytes.fromhex(meta["hash"]), 0, mtime_ns)


SENT_BY_A_MASTER = [vector for vector in VECTORS["packages"] if vector["name"] != "worker_check"]


@pytest.mark.parametrize("vector", SENT_BY_A_MASTER, ids=lambda vector: str(vector["name"]))
def test_recorded_package_is_built_with_the_recorded_entries(vector: dict[str, Any], root: Path, spool: Path) -> None:
    write_tree(root, {file["path"]: base64.b64decode(file["content_b64"]) for file in VECTORS["tree"]})
    for file in VECTORS["tree"]:
        os.utime(root / file["path"], (file["mtime"], file["mtime"]))
    before = vector["metadata_before"]
    extra = [
        (path, WireMeta(meta["cluster_item_key"], meta["hash"], meta["mod_time"]))
        for path, meta in before["extra"].items()
    ]
    difference = Difference(
        [row_of(path, meta) for path, meta in before["missing"].items()],
        [row_of(path, meta) for path, meta in before["shared"].items()],
        extra,
    )
    limit = vector["limit"] or GIB
    parts, finished = pack(root, spool, difference, limit=limit)
    entries = split_as_stock(joined(finished))
    expected = [(entry["path"], base64.b64decode(entry["content_b64"])) for entry in vector["entries"]]
    if vector["name"] == "limit_exceeded":
        # C12: a stock node drops every file after the one that does not fit; clusterd goes on with smaller ones.
        expected.insert(1, ("etc/lists/empty", b""))
        vector["metadata_after"]["missing"]["etc/lists/empty"] = before["missing"]["etc/lists/empty"]
    assert sorted(entries[:-1]) == sorted(expected[:-1])
    assert list(metadata_of(entries)) == ["missing", "extra", "shared"]
    assert metadata_of(entries) == vector["metadata_after"]
    texts = {
        (note.level.lower(), note.path): [note.text.replace(str(root), "WAZUH_PATH")]
        for note in [*(note for part in parts for note in part.notes), *finished.notes]
    }
    assert texts == {
        (level, path): messages for level, found in vector["log_lists"].items() for path, messages in found.items()
    }


def test_parts_of_any_size_give_the_same_package(root: Path, spool: Path) -> None:
    files = {f"etc/lists/{number}": b"%d" % number * number for number in range(40)}
    write_tree(root, files)
    whole = joined(pack(root, spool, difference_of(files))[1])
    _, finished = pack(root, spool, difference_of(files), part_files=7)
    assert joined(finished) == whole
    assert finished.size == len(whole)
    assert finished.sha256 == sha256(whole).digest()
    assert (finished.sent, finished.dropped) == (40, 0)
    assert len(finished.segments) == 7, "neighbours in a part are one segment"


def test_worker_package_is_only_the_metadata(spool: Path) -> None:
    size = write_metadata(str(spool / "check"), b'{"a": 1}', 1)
    data = (spool / "check").read_bytes()
    assert len(data) == size
    assert split_as_stock(data) == [(METADATA_NAME, b'{"a": 1}')]
    assert read_metadata_of(str(spool / "check")) == b'{"a": 1}'


def test_smaller_files_go_on_behind_one_that_does_not_fit(root: Path, spool: Path) -> None:
    noise = random.Random(4).randbytes(900)
    files = {"etc/lists/a": b"a", "etc/lists/b": noise, "etc/lists/c": noise, "etc/lists/d": b"d"}
    write_tree(root, files)
    for part_files in (10, 1):
        _, finished = pack(root, spool, difference_of(files), limit=1200, part_files=part_files)
        entries = split_as_stock(joined(finished))
        assert [path for path, _ in entries] == ["etc/lists/a", "etc/lists/b", "etc/lists/d", METADATA_NAME]
        assert (finished.sent, finished.dropped) == (3, 1)
        assert "etc/lists/c" not in metadata_of(entries)["missing"]
        assert [(note.level, note.path, note.text) for note in finished.notes] == [("WARNING", "etc/lists/c", FULL)]


def test_packed_entries_never_exceed_the_limit(root: Path, spool: Path) -> None:
    rng = random.Random(9)
    files = {f"etc/lists/{number}": rng.randbytes(rng.randrange(400)) for number in range(30)}
    write_tree(root, files)
    for limit in (0, 30, 500, 2000, 5000):
        _, finished = pack(root, spool, difference_of(files), limit=limit, part_files=4)
        entries = joined(finished)
        assert finished.size - finished.segments[-1].length <= limit
        assert finished.sent + finished.dropped == 30
        assert len(split_as_stock(entries)) == finished.sent + 1


def test_file_above_the_limit_is_named_and_can_go_alone(root: Path, spool: Path) -> None:
    large = random.Random(4).randbytes(5000)
    files = {"etc/lists/a": b"a", "etc/lists/large": large}
    write_tree(root, files)
    parts, finished = pack(root, spool, difference_of(files), limit=4000)
    assert parts[0].oversize == parts[0].dropped == [1]
    assert finished.dropped == 1
    assert not finished.notes, "said once, by the part"
    note = parts[0].notes[0]
    assert (note.level, note.text) == ("WARNING", f"File too large to be synced: {root}/etc/lists/large")
    # When it goes alone, as sync does when nothing else is left
    saved = save(spool, difference_of({"etc/lists/large": large}))
    alone = pack_part(str(root), saved, 0, 1, 0, 1, str(spool / "alone"), True, step)
    package = finish_package(saved, [alone], alone.entries[0].length, 1, str(spool / "last"), step)
    assert split_as_stock(joined(package))[0] == ("etc/lists/large", large)


def test_incompressible_file_of_exactly_the_limit_goes_alone_too(root: Path, spool: Path) -> None:
    """Its raw bytes fit, but its entry does not, neither in this round nor in a later one."""
    files = {"etc/lists/large": random.Random(4).randbytes(5000)}
    write_tree(root, files)
    parts, finished = pack(root, spool, difference_of(files), limit=5000)
    assert parts[0].oversize == parts[0].dropped == [0]
    assert (finished.sent, finished.dropped) == (0, 1)


def test_vanished_file_is_left_to_the_next_manifest_where_deletions_are_judged(root: Path, spool: Path) -> None:
    difference = difference_of({"etc/rules/gone": b"1"}, {"etc/rules/sub/gone": b"2"}, ["etc/rules/old"])
    _, finished = pack(root, spool, difference, delete_vanished=False)
    metadata = metadata_of(split_as_stock(joined(finished)))
    assert metadata["missing"] == metadata["shared"] == {}
    assert set(metadata["extra"]) == {"etc/rules/old"}


def test_doubtful_file_waits_for_another_manifest(root: Path, spool: Path) -> None:
    """Neither its later content nor its deletion is sent."""
    write_tree(root, {"etc/rules/a": b"later", "etc/rules/b": b"later"})
    difference = difference_of({}, dict.fromkeys(("etc/rules/a", "etc/rules/b", "etc/rules/gone"), b"listed"))
    saved = save(spool, difference)
    part = pack_part(str(root), saved, 0, 3, GIB, 1, str(spool / "part"), False, step)
    finished = finish_package(
        saved, [part], GIB, 1, str(spool / "last"), step, believes=lambda path, digest: path == "etc/rules/b"
    )
    entries = split_as_stock(joined(finished))
    assert [path for path, _ in entries[:-1]] == ["etc/rules/b"]
    announced = metadata_of(entries)
    assert (list(announced["shared"]), announced["extra"]) == (["etc/rules/b"], {})
    assert finished.notes == []


def test_vanished_file_leaves_missing_and_becomes_extra_from_shared(root: Path, spool: Path) -> None:
    difference = difference_of({"etc/rules/gone": b"1"}, {"etc/rules/sub/gone": b"2"}, ["etc/rules/old"])
    parts, finished = pack(root, spool, difference)
    assert parts[0].vanished == [0, 1]
    metadata = metadata_of(split_as_stock(joined(finished)))
    assert metadata["missing"] == metadata["shared"] == {}
    assert set(metadata["extra"]) == {"etc/rules/old", "etc/rules/sub/gone"}
    assert {note.level for note in parts[0].notes} == {"DEBUG"}
    assert (finished.sent, finished.dropped) == (0, 0)


def test_file_that_cannot_be_read_is_never_reported_as_deleted(root: Path, spool: Path) -> None:
    """C8. A directory stands for a file that cannot be read: the tests may run as root, whom no mode stops."""
    (root / "etc/rules/a").mkdir(parents=True)
    write_tree(root, {"etc/rules/b": b"b"})
    os.mkfifo(root / "etc/rules/fifo")
    shared = {"etc/rules/a": b"a", "etc/rules/b": b"b", "etc/rules/fifo": b"f"}
    parts, finished = pack(root, spool, difference_of({}, shared))
    metadata = metadata_of(split_as_stock(joined(finished)))
    assert metadata["extra"] == metadata["missing"] == {}
    assert list(metadata["shared"]) == ["etc/rules/b"]
    assert parts[0].dropped == [0, 2]
    assert [(note.level, note.path) for note in parts[0].notes] == [
        ("ERROR", "etc/rules/a"),
        ("ERROR", "etc/rules/fifo"),
    ]
    assert all(note.why for note in parts[0].notes)
    assert finished.notes == []


def test_no_link_leads_out_of_the_item(root: Path, spool: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "outside", {"secret": b"secret"})
    write_tree(root, {"etc/rules/target": b"inside", "etc/client.keys": b"keys"})
    (root / "etc/rules/inside").symlink_to("target")
    (root / "etc/rules/outside").symlink_to(tmp_path / "outside/secret")
    (root / "etc/rules/keys").symlink_to("../client.keys")
    (root / "etc/rules/linked").symlink_to(tmp_path / "outside")
    paths = ["etc/rules/inside", "etc/rules/outside", "etc/rules/keys", "etc/rules/linked/secret"]
    _, finished = pack(root, spool, difference_of(dict.fromkeys(paths, b"inside")))
    assert dict(split_as_stock(joined(finished))[:-1]) == {"etc/rules/inside": b"inside"}


def test_changed_file_is_announced_as_what_was_packed(root: Path, spool: Path) -> None:
    write_tree(root, {"etc/rules/a": b"newer content"})
    os.utime(root / "etc/rules/a", ns=(0, 1_700_000_123_500_000_000))
    parts, finished = pack(root, spool, difference_of({}, {"etc/rules/a": b"as scanned"}))
    assert parts[0].entries[0].digest == blake2b(b"newer content").digest()
    entries = split_as_stock(joined(finished))
    assert entries[0] == ("etc/rules/a", b"newer content")
    announced = metadata_of(entries)["shared"]["etc/rules/a"]
    assert announced["hash"] == blake2b(b"newer content").hexdigest()
    assert announced["mod_time"] == 1_700_000_123.5


def test_file_written_to_while_it_is_packed_is_whole_or_left_out(root: Path, spool: Path) -> None:
    """Given a file of 3 MiB that is rewritten at every step of reading, and one that is rewritten once."""
    size = 3 << 20
    write_tree(root, {"etc/lists/busy": bytes(size), "etc/lists/once": bytes(size)})
    touched = {"etc/lists/busy": 10**6, "etc/lists/once": 1}

    def write_meanwhile() -> None:
        for path, times in touched.items():
            if times:
                touched[path] -= 1
                with (root / path).open("r+b") as file:
                    file.write(b"%d" % times)

    difference = difference_of({path: bytes(size) for path in touched})
    saved = save(spool, difference)
    part = pack_part(str(root), saved, 0, 1, GIB, 1, str(spool / "busy"), False, write_meanwhile)
    assert (part.entries, part.dropped) == ([], [0])
    assert (spool / "busy").stat().st_size == 0
    assert part.notes[0].level == "ERROR"
    assert part.notes[0].why == "it is being written to"
    touched["etc/lists/busy"], touched["etc/lists/once"] = 0, 1
    part = pack_part(str(root), saved, 1, 2, GIB, 1, str(spool / "once"), False, write_meanwhile)
    finished = finish_package(saved, [part], GIB, 1, str(spool / "last"), step)
    [(_, data), _] = split_as_stock(joined(finished))
    assert data == (root / "etc/lists/once").read_bytes()


@pytest.mark.slow
def test_large_file_is_packed_in_bounded_memory_with_a_heartbeat(root: Path, spool: Path) -> None:
    """128 MiB that do not compress."""
    block = random.Random(1).randbytes(1 << 20)
    write_tree(root, {"etc/lists/large": block * 128})
    beats = []
    saved = save(spool, difference_of({"etc/lists/large": b""}))
    tracemalloc.start()
    try:
        part = pack_part(str(root), saved, 0, 1, GIB, 1, str(spool / "part"), False, lambda: beats.append(1))
        finish_package(saved, [part], GIB, 1, str(spool / "last"), step)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part.entries[0].length > 128 << 20
    assert peak < 8 << 20
    assert len(beats) >= 128


def test_full_disk_ends_the_job_and_not_the_file(root: Path, spool: Path) -> None:
    write_tree(root, {"etc/lists/a": random.Random(1).randbytes(3 << 20)})
    saved = save(spool, difference_of({"etc/lists/a": b""}))
    with pytest.raises(OSError, match="No space left") as failure:
        pack_part(str(root), saved, 0, 1, GIB, 1, "/dev/full", False, step)
    assert failure.value.errno == errno.ENOSPC


def test_part_that_shrank_since_it_was_packed_is_noticed(root: Path, spool: Path) -> None:
    write_tree(root, {"etc/lists/a": b"a" * 100})
    saved = save(spool, difference_of({"etc/lists/a": b"a" * 100}))
    part = pack_part(str(root), saved, 0, 1, GIB, 1, str(spool / "part"), False, step)
    os.truncate(part.path, 10)
    with pytest.raises(MalformedPackage):
        finish_package(saved, [part], GIB, 1, str(spool / "last"), step)


def test_packing_leaves_no_descriptor_open(root: Path, spool: Path) -> None:
    files = {f"etc/lists/{number % 90}/{number}": b"x" for number in range(200)}
    write_tree(root, files)
    before = open_descriptors()
    pack(root, spool, difference_of(files | {"etc/lists/1/gone": b""}))
    assert open_descriptors() == before

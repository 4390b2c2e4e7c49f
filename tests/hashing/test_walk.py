"""What a scan finds, and which links and names it leaves out."""

import base64
import json
import os
from hashlib import blake2b
from pathlib import Path

import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import temporary_name
from hashing.digest import BUFFER_BYTES
from hashing.digest_cache import file_rows, shard_of
from hashing.manifest import FileMeta, build_manifest
from hashing.metadata_json import to_wire
from hashing.rules import MAX_DEPTH, ItemRule, Rules
from hashing.walk import ShardScan, scan_shard
from tests.hashing.walked import rows_of, scan, write

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


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


def test_name_that_is_not_utf8_is_left_out_and_logged_once(tmp_path: Path) -> None:
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

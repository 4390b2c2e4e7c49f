import base64
import json
import os
from pathlib import Path

import pytest

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.metadata_json import parse_wire_difference, parse_wire_metadata, to_wire
from tests.hashing.packages import meta_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


def test_metadata_of_the_vector_tree_is_written_as_a_stock_node_writes_it() -> None:
    contents = {file["path"]: base64.b64decode(file["content_b64"]) for file in VECTORS["tree"]}
    rows = [
        meta_of(path, contents[path], mtime_ns=int(meta["mod_time"] * 1000) * 1000000)
        for path, meta in VECTORS["tree_metadata"].items()
    ]
    assert to_wire(rows) == json.dumps(VECTORS["tree_metadata"]).encode()
    assert to_wire([]) == b"{}"


@pytest.mark.parametrize("mtime_ns", [0, 1, -1, 1795409470327312700, 1700000000999999999, 2**62])
def test_time_is_the_float_that_a_stock_node_reads_from_the_same_file(mtime_ns: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    os.utime(path, ns=(mtime_ns, mtime_ns))
    status = path.stat()
    wire = json.loads(to_wire([meta_of("etc/rules/a", mtime_ns=status.st_mtime_ns)]))
    assert wire["etc/rules/a"]["mod_time"] == status.st_mtime


def test_file_with_merged_in_its_name_is_sent_as_a_plain_one() -> None:
    wire = json.loads(to_wire([meta_of("etc/shared/default/x.merged")]))
    assert wire["etc/shared/default/x.merged"].keys() == {"mod_time", "cluster_item_key", "merged", "hash"}
    assert wire["etc/shared/default/x.merged"]["merged"] is False


def test_metadata_of_a_stock_worker_is_read() -> None:
    found = parse_wire_metadata(json.dumps(VECTORS["tree_metadata"]).encode())
    for path, meta in VECTORS["tree_metadata"].items():
        assert found[path].hash == meta["hash"]
        assert found[path].cluster_item_key == meta["cluster_item_key"]
        assert found[path].mod_time == meta["mod_time"]


def test_merged_entries_and_unknown_keys_are_read() -> None:
    entry = {
        "mod_time": 1,
        "cluster_item_key": "etc/",
        "merged": True,
        "merge_type": "TYPE",
        "merge_name": "/x",
        "hash": "aa",
    }
    found = parse_wire_metadata(json.dumps({"a": entry | {"new": [{}]}}).encode())["a"]
    assert (found.merged, found.merge_type, found.merge_name) == (True, "TYPE", "/x")


@pytest.mark.parametrize(
    "package",
    [package for package in VECTORS["packages"] if "missing" in package["metadata_after"]],
    ids=lambda p: p["name"],
)
def test_metadata_of_a_stock_master_is_read(package: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    metadata = package["metadata_after"]
    found = parse_wire_difference(json.dumps(metadata).encode())
    for group in ("missing", "shared", "extra"):
        assert {path: meta.hash for path, meta in getattr(found, group).items()} == {
            path: meta["hash"] for path, meta in metadata[group].items()
        }


ENTRY = b'{"cluster_item_key": "etc/", "hash": "aa"}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"a": {}}',
        b'{"a": {"hash": "aa"}}',
        b'{"a": {"cluster_item_key": "etc/"}}',
        b'{"a": {"cluster_item_key": "etc/", "hash": 1}}',
        b'{"a": {"cluster_item_key": "etc/", "hash": "aa", "merged": "yes"}}',
        b'{"a": {"cluster_item_key": "etc/", "hash": "aa", "mod_time": 1e999}}',
        b'{"\\ud800": ' + ENTRY + b", b}",
        b'{"a": {"z": ' + b"[" * 100000 + b"]" * 100000 + b', "cluster_item_key": "etc/", "hash": "aa"}}',
        b'{"a":' * 100000,
        b'{"a": ' + ENTRY + b"} more",
    ],
)
def test_metadata_that_is_not_such_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedPackage):
        parse_wire_metadata(data)
    with pytest.raises(MalformedPackage):
        parse_wire_difference(data)


@pytest.mark.parametrize("odd", [b"l\xf6sung.xml", b"\xed\xa0\xbd", b"a\xff\xf0\x9f\x98\x80", b"\\\xffdc"])
def test_files_of_a_stock_worker_whose_names_are_not_utf_8_hold_up_no_other(odd: bytes) -> None:
    names = [os.fsdecode(name) for name in (odd, "😀\\udcff".encode())]
    entries = {name: {"cluster_item_key": "etc/rules/", "hash": "aa"} for name in names}
    found = parse_wire_metadata(json.dumps(entries).encode())  # as stock writes them (wire.md 5.3)
    assert list(found) == names[1:]


def test_metadata_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(PackageTooLarge):
        parse_wire_metadata(b"{}" + b" " * 10, 11)
    assert parse_wire_metadata(b"{}" + b" " * 9, 11) == {}


def test_metadata_of_too_many_files_is_refused_unread() -> None:
    data = json.dumps({str(number): {"cluster_item_key": "etc/", "hash": ""} for number in range(20)}).encode()
    assert len(parse_wire_metadata(data, most_rows=20)) == 20
    with pytest.raises(PackageTooLarge, match="more than 10"):
        parse_wire_metadata(data, most_rows=10)
    with pytest.raises(PackageTooLarge, match="more than 10"):
        parse_wire_difference(b'{"missing": {}, "shared": {}, "extra": ' + data + b"}", most_rows=10)


@pytest.mark.parametrize(
    "digest", ["", "aa", "A" * 128, "g" * 128, "0" * 127, "0" * 129, " " + "0" * 126 + " ", "٠" * 128]
)
@pytest.mark.parametrize("group", ["missing", "shared"])
def test_file_to_write_needs_a_digest_that_can_be_verified(group: str, digest: str) -> None:
    whole = {"missing": {}, "extra": {}, "shared": {}}
    entry = {"cluster_item_key": "etc/", "hash": digest}
    with pytest.raises(MalformedPackage):
        parse_wire_difference(json.dumps(whole | {group: {"etc/client.keys": entry}}).encode())
    assert parse_wire_difference(json.dumps(whole | {"extra": {"etc/client.keys": entry}}).encode()).extra


@pytest.mark.parametrize("group", ["missing", "shared", "extra"])
def test_difference_needs_its_three_groups(group: str) -> None:
    whole = {"missing": {}, "extra": {}, "shared": {}, "extra_valid": {}}
    parse_wire_difference(json.dumps(whole).encode())
    del whole[group]
    with pytest.raises(MalformedPackage, match=group):
        parse_wire_difference(json.dumps(whole).encode())

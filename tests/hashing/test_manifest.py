import base64
import json
import os
from hashlib import blake2b
from pathlib import Path

import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps, temporary_name
from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.live_manifest import load_live
from hashing.manifest import (
    BUCKETS,
    MAX_DEPTH,
    NAME_BYTES,
    PATH_BYTES,
    FileMeta,
    ItemRule,
    Rules,
    allowed,
    bucket_digests,
    bucket_of,
    build_manifest,
    content_digest,
    is_too_deep,
    item_of,
    manifest_path,
    parse_wire_difference,
    parse_wire_metadata,
    path_ok,
    save_manifest,
    to_wire,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


def row(path: str, content: bytes = b"x", *, mtime_ns: int = 1) -> FileMeta:
    item = item_of(DEFAULT_RULES, path)
    assert item is not None
    return FileMeta(path, item.key, blake2b(content).digest(), len(content), mtime_ns)


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["a", "etc/client.keys", "etc/lists/with space", "etc/lists/größe", "a/..b/c", "a/...", ".x", "x" * 255, "a\nb"],
)
def test_path_of_a_file_below_the_root_is_fine(path: str) -> None:
    assert path_ok(path) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("..", "leads upwards"),
        ("etc/../../passwd", "leads upwards"),
        ("etc/rules/..", "leads upwards"),
        ("./etc/x", "is not normalised"),
        ("etc/./x", "is not normalised"),
        ("etc//x", "is not normalised"),
        ("etc/rules/", "is not normalised"),
        ("etc/x\0.xml", "holds a NUL byte"),
        ("etc/\udcff", "is not UTF-8"),
        ("x" * 256, "has a name of more than 255 bytes"),
        ("ö" * 128, "has a name of more than 255 bytes"),
        ("a/" * 2048 + "a", "has more than 4096 bytes"),
        ("etc/lists/a|@@//@@|b", "is not normalised"),
        ("etc/lists/a|//@@//|b", "is not normalised"),
    ],
)
def test_path_that_could_lead_elsewhere_is_refused_with_its_reason(path: str, reason: str) -> None:
    assert path_ok(path) == reason
    assert allowed(DEFAULT_RULES, "etc/lists/", path) == reason


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("etc/client.keys", "etc/"),
        ("etc/ossec.conf", None),
        ("etc/internal_options.conf", None),
        ("etc/rules/a.xml", "etc/rules/"),
        ("etc/rules/sub/deep/a.xml", "etc/rules/"),
        ("etc/rules/client.keys", "etc/rules/"),
        ("etc/shared/ar.conf", None),
        ("etc/shared/default/ar.conf", None),
        ("etc/shared/default/x.merged", "etc/shared/"),
        ("etc/rules/x.xml~", None),
        ("etc/rules/.local.swp", None),
        ("etc/lists/" + temporary_name("x", "plan1-0"), None),
        ("var/multigroups/c7c6e9aa/merged.mg", "var/multigroups/"),
        ("var/multigroups/c7c6e9aa/other.txt", None),
        ("queue/db/global.db", None),
        ("etc", None),
    ],
)
def test_item_of_a_path_follows_the_rules(path: str, key: str | None) -> None:
    item = item_of(DEFAULT_RULES, path)
    assert (item.key if item else None) == key


@pytest.mark.parametrize(
    ("item", "path", "reason"),
    [
        ("etc/rules/", "etc/rules/a.xml", None),
        ("etc/", "etc/client.keys", None),
        ("etc/", "etc/ossec.conf", "is not one of the files of etc/"),
        ("etc/", "etc/sub/client.keys", "is not directly in etc/"),
        ("etc/", "etc/rules/client.keys", "is not directly in etc/"),
        ("etc/lists/", "etc/rules/a.xml", "is not in etc/lists/"),
        ("etc/lists/", "etc/listsx", "is not in etc/lists/"),
        ("etc/shared/", "etc/shared/ar.conf", "has an excluded name"),
        ("etc/rules/", "etc/rules/a.xml.tmp", "has an excluded extension"),
        ("queue/", "queue/db/x", "names the unknown cluster_item_key 'queue/'"),
        ("", "etc/rules/a.xml", "names the unknown cluster_item_key ''"),
    ],
)
def test_only_files_of_the_item_they_name_are_allowed(item: str, path: str, reason: str | None) -> None:
    assert allowed(DEFAULT_RULES, item, path) == reason


def test_of_two_items_that_describe_a_file_the_longer_key_has_it() -> None:
    rules = Rules(
        (
            ItemRule("etc/", ("all",), True, 0o640),
            ItemRule("etc/shared/", ("all",), False, 0o660),
        )
    )
    assert allowed(rules, "etc/", "etc/shared/a") == "belongs to etc/shared/"
    assert allowed(rules, "etc/shared/", "etc/shared/a") is None
    assert allowed(rules, "etc/", "etc/shared/sub/a") is None


# ---- digests ---------------------------------------------------------------------------------------------------------


def test_content_digest_is_fixed_for_ever() -> None:
    """Nodes of different versions compare these digests: a change here changes the protocol."""
    assert content_digest(bucket_digests([])) == "18b909bc674f5f4a5f9d0b2d5d317a47"
    rows = [row("etc/lists/größe", b""), row("etc/rules/a.xml")]
    assert content_digest(bucket_digests(rows)) == "592905521cf11a7811c915dc9246d322"


def test_manifest_does_not_depend_on_order_or_times_of_files() -> None:
    rows = [row(f"etc/rules/{number}") for number in range(50)]
    later = [row(f"etc/rules/{number}", mtime_ns=7) for number in range(50)]
    manifest = build_manifest(rows)
    assert [found.path for found in manifest.rows] == sorted(found.path for found in rows)
    assert build_manifest(reversed(later)).root_digest == manifest.root_digest


def test_change_shows_in_its_bucket_and_in_no_other() -> None:
    rows = sorted((row(f"etc/rules/{number}") for number in range(3000)), key=lambda found: found.path)
    before = bucket_digests(rows)
    assert len(before) == BUCKETS * 16
    changed = rows[1234].path
    after = bucket_digests([row(found.path, b"new") if found.path == changed else found for found in rows])
    differing = [n for n in range(BUCKETS) if before[n * 16 : n * 16 + 16] != after[n * 16 : n * 16 + 16]]
    assert differing == [bucket_of(changed)]


def test_path_twice_is_refused() -> None:
    with pytest.raises(MalformedPackage, match="twice"):
        build_manifest([row("etc/rules/a"), row("etc/rules/a", b"other")])


def test_unread_places_make_another_manifest() -> None:
    rows = [row("etc/rules/a")]
    partial = build_manifest(rows, ["etc/lists/", "etc/lists/"])
    assert partial.unread == ("etc/lists/",)
    assert partial.root_digest != build_manifest(rows).root_digest


# ---- its file --------------------------------------------------------------------------------------------------------


def test_manifest_comes_back_from_its_file(tmp_path: Path) -> None:
    manifest = build_manifest([row("etc/lists/größe"), row("etc/client.keys", mtime_ns=-5)], ["etc/rules/"])
    save_manifest(FileOps(), str(tmp_path), manifest)
    assert load_live(str(tmp_path), manifest.root_digest).to_manifest() == manifest


def test_damaged_manifest_is_refused_at_whatever_byte(tmp_path: Path) -> None:
    manifest = build_manifest([row("etc/client.keys")])
    save_manifest(FileOps(), str(tmp_path), manifest)
    path = Path(manifest_path(str(tmp_path), manifest.root_digest))
    whole = path.read_bytes()
    for number in range(len(whole)):
        path.write_bytes(whole[:number] + bytes([whole[number] ^ 1]) + whole[number + 1 :])
        with pytest.raises(MalformedPackage):
            load_live(str(tmp_path), manifest.root_digest)
        path.write_bytes(whole[:number])
        with pytest.raises(MalformedPackage):
            load_live(str(tmp_path), manifest.root_digest)


def test_manifest_under_another_name_is_refused(tmp_path: Path) -> None:
    manifest = build_manifest([row("etc/client.keys")])
    save_manifest(FileOps(), str(tmp_path), manifest)
    os.rename(manifest_path(str(tmp_path), manifest.root_digest), manifest_path(str(tmp_path), "00"))
    with pytest.raises(MalformedPackage, match="another root digest"):
        load_live(str(tmp_path), "00")
    with pytest.raises(FileNotFoundError):
        load_live(str(tmp_path), manifest.root_digest)


def test_only_the_last_manifests_are_kept(tmp_path: Path) -> None:
    (tmp_path / "shard-0-of-1").write_bytes(b"stays")
    manifests = [build_manifest([row("etc/client.keys", str(n).encode())]) for n in range(5)]
    for number, manifest in enumerate(manifests):
        save_manifest(FileOps(), str(tmp_path), manifest, keep=3)
        os.utime(manifest_path(str(tmp_path), manifest.root_digest), ns=(number, number))
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["shard-0-of-1", *(f"manifest-{manifest.root_digest}" for manifest in manifests[2:])]
    )


# ---- JSON of other nodes ---------------------------------------------------------------------------------------------


def test_metadata_of_the_vector_tree_is_written_as_a_stock_node_writes_it() -> None:
    contents = {file["path"]: base64.b64decode(file["content_b64"]) for file in VECTORS["tree"]}
    rows = [
        row(path, contents[path], mtime_ns=int(meta["mod_time"] * 1000) * 1000000)
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
    wire = json.loads(to_wire([row("etc/rules/a", mtime_ns=status.st_mtime_ns)]))
    assert wire["etc/rules/a"]["mod_time"] == status.st_mtime


def test_file_with_merged_in_its_name_is_sent_as_a_plain_one() -> None:
    wire = json.loads(to_wire([row("etc/shared/default/x.merged")]))
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


def test_what_a_scan_enters_is_what_a_path_may_have() -> None:
    deepest = "/".join(["etc", "rules", *["d"] * (MAX_DEPTH - 2)])
    assert not is_too_deep(deepest)
    assert path_ok(f"{deepest}/x") is None
    assert is_too_deep(f"{deepest}/d")
    assert path_ok(f"{deepest}/d/x") == "is more than 64 directories deep"


def test_directory_is_entered_only_if_the_longest_name_in_it_is_a_path() -> None:
    def of(size: int) -> str:
        parts = "/".join(["d" * 199] * 40)
        return parts[: size - 1] + "d"

    longest = of(PATH_BYTES - NAME_BYTES - 1)
    assert not is_too_deep(longest)
    assert path_ok(f"{longest}/{'n' * NAME_BYTES}") is None
    longer = of(PATH_BYTES - NAME_BYTES)
    assert is_too_deep(longer)
    assert path_ok(f"{longer}/{'n' * NAME_BYTES}") == f"has more than {PATH_BYTES} bytes"

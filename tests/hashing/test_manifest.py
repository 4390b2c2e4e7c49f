import os
from pathlib import Path

import pytest

from hashing.atomic import FileOps
from hashing.errors import MalformedPackage
from hashing.live_manifest import load_live
from hashing.manifest import (
    BUCKETS,
    MANIFEST_MAGIC,
    bucket_digests,
    bucket_of,
    build_manifest,
    content_digest,
    manifest_path,
    save_manifest,
)
from hashing.state_file import save_state
from tests.hashing.packages import meta_of


def test_content_digest_is_fixed_for_ever() -> None:
    """Nodes of different versions compare these digests: a change here changes the protocol."""
    assert content_digest(bucket_digests([])) == "18b909bc674f5f4a5f9d0b2d5d317a47"
    rows = [meta_of("etc/lists/größe", b""), meta_of("etc/rules/a.xml")]
    assert content_digest(bucket_digests(rows)) == "592905521cf11a7811c915dc9246d322"


def test_manifest_does_not_depend_on_order_or_times_of_files() -> None:
    rows = [meta_of(f"etc/rules/{number}") for number in range(50)]
    later = [meta_of(f"etc/rules/{number}", mtime_ns=7) for number in range(50)]
    manifest = build_manifest(rows)
    assert [found.path for found in manifest.rows] == sorted(found.path for found in rows)
    assert build_manifest(reversed(later)).root_digest == manifest.root_digest


def test_change_shows_in_its_bucket_and_in_no_other() -> None:
    rows = sorted((meta_of(f"etc/rules/{number}") for number in range(3000)), key=lambda found: found.path)
    before = bucket_digests(rows)
    assert len(before) == BUCKETS * 16
    changed = rows[1234].path
    after = bucket_digests([meta_of(found.path, b"new") if found.path == changed else found for found in rows])
    differing = [n for n in range(BUCKETS) if before[n * 16 : n * 16 + 16] != after[n * 16 : n * 16 + 16]]
    assert differing == [bucket_of(changed)]


def test_path_twice_is_refused() -> None:
    with pytest.raises(MalformedPackage, match="twice"):
        build_manifest([meta_of("etc/rules/a"), meta_of("etc/rules/a", b"other")])


def test_unread_places_make_another_manifest() -> None:
    rows = [meta_of("etc/rules/a")]
    partial = build_manifest(rows, ["etc/lists/", "etc/lists/"])
    assert partial.unread == ("etc/lists/",)
    assert partial.root_digest != build_manifest(rows).root_digest


def test_manifest_comes_back_from_its_file(tmp_path: Path) -> None:
    manifest = build_manifest([meta_of("etc/lists/größe"), meta_of("etc/client.keys", mtime_ns=-5)], ["etc/rules/"])
    save_manifest(FileOps(), str(tmp_path), manifest)
    assert load_live(str(tmp_path), manifest.root_digest).to_manifest() == manifest


def test_damaged_manifest_is_refused_at_whatever_byte(tmp_path: Path) -> None:
    manifest = build_manifest([meta_of("etc/client.keys")])
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
    manifest = build_manifest([meta_of("etc/client.keys")])
    save_manifest(FileOps(), str(tmp_path), manifest)
    os.rename(manifest_path(str(tmp_path), manifest.root_digest), manifest_path(str(tmp_path), "00"))
    with pytest.raises(MalformedPackage, match="another root digest"):
        load_live(str(tmp_path), "00")
    with pytest.raises(FileNotFoundError):
        load_live(str(tmp_path), manifest.root_digest)


def test_manifest_that_is_whole_and_of_another_form_is_refused(tmp_path: Path) -> None:
    save_state(FileOps(), manifest_path(str(tmp_path), "00"), MANIFEST_MAGIC, ["no", "manifest"])
    with pytest.raises(MalformedPackage, match="does not decode"):
        load_live(str(tmp_path), "00")


def test_only_the_last_manifests_are_kept(tmp_path: Path) -> None:
    (tmp_path / "shard-0-of-1").write_bytes(b"stays")
    manifests = [build_manifest([meta_of("etc/client.keys", str(n).encode())]) for n in range(5)]
    for number, manifest in enumerate(manifests):
        save_manifest(FileOps(), str(tmp_path), manifest, keep=3)
        os.utime(manifest_path(str(tmp_path), manifest.root_digest), ns=(number, number))
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["shard-0-of-1", *(f"manifest-{manifest.root_digest}" for manifest in manifests[2:])]
    )

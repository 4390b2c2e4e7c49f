import json
from pathlib import Path

import pytest

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps
from hashing.compare import (
    MOST_UNKNOWN,
    Difference,
    compare,
    difference_to_wire,
    fit_difference,
    load_difference,
    save_difference,
    unknown_items,
)
from hashing.errors import MalformedPackage
from hashing.manifest import FileMeta, Manifest
from hashing.metadata_json import WireMeta, parse_wire_difference, parse_wire_metadata
from hashing.rules import ItemRule, Rules
from tests.hashing.packages import difference_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "package.json").read_text())


def manifest(*paths: str, unread: tuple[str, ...] = ()) -> Manifest:
    return Manifest("", tuple(FileMeta(path, "etc/rules/", b"\xaa" * 64, 1, 1) for path in sorted(paths)), unread)


def worker(*paths: str, digest: str = "aa" * 64, item: str = "etc/rules/") -> dict[str, WireMeta]:
    return {path: WireMeta(item, digest) for path in paths}


@pytest.mark.parametrize("vector", VECTORS["comparisons"], ids=lambda vector: vector["name"])
def test_difference_is_that_of_the_vectors(vector: dict[str, dict[str, dict[str, str]]]) -> None:
    rows = tuple(
        FileMeta(path, meta["cluster_item_key"], bytes.fromhex(meta["hash"]), 1, int(float(meta["mod_time"])) * 10**9)
        for path, meta in sorted(vector["master"].items())
    )
    found = compare(Manifest("", rows), parse_wire_metadata(json.dumps(vector["worker"]).encode()), DEFAULT_RULES)
    assert json.loads(difference_to_wire(found.missing, found.extra, found.shared)) == vector["result"]
    assert found.is_empty == (not any(vector["result"].values()))


def test_groups_are_sorted_by_path() -> None:
    found = compare(manifest("b", "a", "d", "c"), worker("d", "c", "z", "y", digest="00"), DEFAULT_RULES)
    assert [row.path for row in found.missing] == ["a", "b"]
    assert [row.path for row in found.shared] == ["c", "d"]
    assert [path for path, _ in found.extra] == ["y", "z"]


def test_time_and_item_of_the_worker_do_not_count() -> None:
    theirs = {"a": WireMeta("etc/lists/", "aa" * 64, 12345.5)}
    assert compare(manifest("a"), theirs, DEFAULT_RULES).is_empty


def test_extra_file_of_an_item_with_extra_valid_is_left_alone() -> None:
    rules = Rules((ItemRule("etc/rules/", ("all",), True, 0o660, extra_valid=True),))
    assert compare(manifest(), worker("a"), rules).is_empty


def test_files_of_an_item_that_the_master_does_not_know_are_left_alone_and_the_others_compared() -> None:
    """They made the whole check fail: a worker with one directory more got no files at all."""
    theirs = worker("own/b", item="own/") | worker("own/a", item="own/") | worker("etc/rules/old")
    found = compare(manifest("etc/rules/new"), theirs, DEFAULT_RULES)
    assert ([row.path for row in found.missing], [path for path, _ in found.extra]) == (
        ["etc/rules/new"],
        ["etc/rules/old"],
    )
    assert unknown_items(theirs, DEFAULT_RULES) == ["own/"]
    assert unknown_items(worker("a", "b"), DEFAULT_RULES) == []
    many = {f"{number}": WireMeta(f"{number}/", "") for number in range(1000)}
    assert len(unknown_items(many, DEFAULT_RULES)) == MOST_UNKNOWN


def test_nothing_is_deleted_where_the_master_could_not_read() -> None:
    """A directory that the master could not list at its first scan looked empty, and every worker deleted its own
    (C8)."""
    master = manifest("etc/rules/a", unread=("etc/rules/sub/", "etc/rules/b"))
    theirs = worker("etc/rules/a", "etc/rules/b", "etc/rules/sub/x", "etc/rules/sub/deep/y", "etc/rules/subx")
    found = compare(master, theirs, DEFAULT_RULES)
    assert [path for path, _ in found.extra] == ["etc/rules/subx"]


def test_difference_comes_back_from_its_file(tmp_path: Path) -> None:
    difference = compare(manifest("a", "b"), worker("b", "c", digest="00"), DEFAULT_RULES)
    path = tmp_path / "difference"
    save_difference(FileOps(), str(path), difference)
    assert load_difference(str(path)) == difference
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MalformedPackage):
        load_difference(str(path))
    with pytest.raises(FileNotFoundError):
        load_difference(str(tmp_path / "nothing"))


def test_metadata_of_a_package_reads_back_and_tells_no_path_of_a_node() -> None:
    extra = [("etc/größe", WireMeta("etc/rules/", "dd", 1.5, True, "TYPE", "/var/ossec/secret"))]
    difference = Difference([FileMeta("a", "etc/rules/", b"\xaa" * 64, 1, 1)], [], extra)
    wire = difference_to_wire(difference.missing, difference.extra, difference.shared)
    assert list(json.loads(wire)) == ["missing", "extra", "shared"]
    assert wire.isascii()
    assert b"secret" not in wire
    found = parse_wire_difference(wire)
    assert found.extra == {"etc/größe": WireMeta("etc/rules/", "dd", 1.5)}
    assert found.missing["a"].hash == "aa" * 64


def test_smallest_files_of_a_difference_go_first_and_all_deletions() -> None:
    contents = {"etc/rules/a": b"x" * 100, "etc/rules/b": b"x" * 10, "etc/rules/c": b"x" * 1000, "etc/rules/d": b""}
    found = difference_of(
        {path: contents[path] for path in ("etc/rules/a", "etc/rules/b", "etc/rules/d")},
        {"etc/rules/c": contents["etc/rules/c"]},
        ["etc/rules/gone"],
    )
    paths = {
        most: [row.path for row in (*fitted.missing, *fitted.shared)]
        for most in (0, 9, 10, 109, 110, 1109, 1110)
        if (fitted := fit_difference(found, most)).extra == found.extra
    }
    assert paths == {
        0: ["etc/rules/d"],
        9: ["etc/rules/d"],
        10: ["etc/rules/b", "etc/rules/d"],
        109: ["etc/rules/b", "etc/rules/d"],
        110: ["etc/rules/a", "etc/rules/b", "etc/rules/d"],
        1109: ["etc/rules/a", "etc/rules/b", "etc/rules/d"],
        1110: ["etc/rules/a", "etc/rules/b", "etc/rules/d", "etc/rules/c"],
    }

"""Manifests, their digests and their JSON, for any files."""

import json
from contextlib import suppress
from hashlib import blake2b
from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given

from clusterd.settings import DEFAULT_RULES
from hashing.compare import compare, difference_to_wire
from hashing.errors import MalformedPackage
from hashing.manifest import BUCKETS, FileMeta, Manifest, bucket_digests, bucket_of, build_manifest
from hashing.metadata_json import WireMeta, parse_wire_difference, parse_wire_metadata, to_wire
from hashing.rules import ItemRule, PathCheck, Rules, allowed, item_of, path_ok

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)
paths = st.lists(names, min_size=1, max_size=4).map("/".join).filter(lambda path: path_ok(path) is None)
digests = st.integers(0, 3).map(lambda number: blake2b(bytes([number])).digest())
trees = st.dictionaries(paths, digests, max_size=30)


def manifest(tree: dict[str, bytes]) -> Manifest:
    return build_manifest(FileMeta(path, "etc/lists/", digest, 1, 1) for path, digest in tree.items())


PLACES = ["", "etc", "etc/rules", "etc/rules/sub", "etc/lists", "etc/shared/g", "etc/other", "x", "var/multigroups/g"]
PLACES += [
    "/etc/rules",
    "etc//rules",
    "etc/./rules",
    "etc/rules/..",
    "..",
    "etc/r\0les",
    "etc/größe",
    "etc/rules/\ud800",
]
PLACES += ["etc/rules/" + "d" * 256, "etc/rules" + "/d" * 2040, "etc/rules" + "/é" * 1362]
NAMES = ["a", "a b", "größe", "\ud800", "", ".", "..", ".a", "a\0b", "client.keys", "merged.mg", "only", "ar.conf"]
NAMES += ["ossec.conf", "x.tmp", "x~", "x.lock", ".clusterd-0.tmp", "n" * 255, "n" * 256, "é" * 127, "é" * 128, "n" * 9]
RULES = [
    DEFAULT_RULES,
    Rules(
        (
            ItemRule("etc/", ("all",), True, 0o640),
            ItemRule("etc/rules/", ("all",), False, 0o640),
            ItemRule("etc/rules/sub/", ("only",), True, 0o640),
            ItemRule("etc/rules/", ("only",), True, 0o640),
            ItemRule("etc/lists/", ("only", "x"), True, 0o640),
            ItemRule("etc/lists/", ("all",), True, 0o640),
            ItemRule("x/", ("all",), False, 0o640),
        ),
        ("a",),
        ("b", "o"),
    ),
    Rules((), (), ()),
]
ITEMS = ["", "etc/", "etc/rules/", "etc/rules/sub/", "etc/lists/", "etc/shared/", "var/multigroups/", "x/", "unknown"]
asked = st.tuples(st.sampled_from(ITEMS), st.sampled_from(PLACES), st.sampled_from(NAMES) | st.text(max_size=4))


@pytest.mark.parametrize("rules", RULES)
def test_check_of_many_paths_allows_what_the_check_of_one_allows(rules: Rules) -> None:
    check = PathCheck(rules)
    for place, item, name in product(PLACES, ITEMS, NAMES):
        path = f"{place}/{name}" if place else name
        assert check.allowed(item, path) == allowed(rules, item, path)


def test_directory_that_is_free_for_its_item_is_not_for_another() -> None:
    check = PathCheck(DEFAULT_RULES)
    assert check.allowed("etc/rules/", "etc/rules/a") is None
    assert check.allowed("etc/lists/", "etc/rules/a") == "is not in etc/lists/"


@pytest.mark.slow
@given(st.sampled_from(RULES), st.lists(asked, max_size=30))
def test_answer_for_a_path_is_the_same_whatever_was_asked_before(rules: Rules, paths: list[tuple[str, ...]]) -> None:
    check = PathCheck(rules)
    for item, place, name in paths:
        path = f"{place}/{name}"
        assert check.allowed(item, path) == allowed(rules, item, path)


@pytest.mark.slow
@given(trees, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(tree: dict[str, bytes], random: object) -> None:
    paths = list(tree)
    random.shuffle(paths)  # type: ignore[attr-defined]
    assert manifest({path: tree[path] for path in paths}) == manifest(tree)


@pytest.mark.slow
@given(trees, trees)
def test_root_digests_are_equal_exactly_when_files_are(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (manifest(one).root_digest == manifest(other).root_digest) == (one == other)


@pytest.mark.slow
@given(trees, trees)
def test_buckets_that_differ_hold_every_difference(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    before, after = bucket_digests(manifest(one).rows), bucket_digests(manifest(other).rows)
    differing = {n for n in range(BUCKETS) if before[n * 16 : n * 16 + 16] != after[n * 16 : n * 16 + 16]}
    changed = {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
    assert differing == {bucket_of(path) for path in changed}


@pytest.mark.slow
@given(trees)
def test_metadata_is_the_json_of_the_standard_library_and_reads_back(tree: dict[str, bytes]) -> None:
    rows = manifest(tree).rows
    wire = to_wire(rows)
    assert wire == json.dumps(json.loads(wire)).encode()
    assert {path: meta.hash for path, meta in parse_wire_metadata(wire).items()} == {
        row.path: row.digest.hex() for row in rows
    }


@pytest.mark.slow
@given(trees, trees)
def test_difference_applied_to_the_worker_gives_the_master(master: dict[str, bytes], worker: dict[str, bytes]) -> None:
    theirs = {path: WireMeta("etc/lists/", digest.hex()) for path, digest in worker.items()}
    found = compare(manifest(master), theirs, DEFAULT_RULES)
    read = parse_wire_difference(difference_to_wire(found.missing, found.extra, found.shared))
    result = {path: digest.hex() for path, digest in worker.items()}
    assert not read.missing.keys() & result.keys()
    assert read.shared.keys() | read.extra.keys() <= result.keys()
    for path in read.extra:
        del result[path]
    for path, meta in (read.missing | read.shared).items():
        result[path] = meta.hash
    assert result == {path: digest.hex() for path, digest in master.items()}
    assert found.is_empty == (master == worker)


@given(st.text() | st.lists(st.sampled_from(["", ".", "..", "etc", "rules", "a", "~"])).map("/".join))
def test_no_path_that_is_allowed_leads_out_of_its_item(path: str) -> None:
    for item in DEFAULT_RULES.items:
        if allowed(DEFAULT_RULES, item.key, path) is None:
            assert path.startswith(item.key)
            assert not {"", ".", ".."} & set(path.split("/"))
            assert item_of(DEFAULT_RULES, path) is item


@pytest.mark.slow
@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.floats() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_metadata_or_refused(data: bytes) -> None:
    for parse in (parse_wire_metadata, parse_wire_difference):
        with suppress(MalformedPackage):
            parse(data)

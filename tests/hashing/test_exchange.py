"""What a worker tells of the buckets that differ: both ends read the same, and refuse anything else."""

import lz4.frame
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashing.compare import compare
from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.exchange import ALL_BUCKETS_BYTES, ToldBuckets, differing_buckets, encode_told, parse_told
from hashing.live_manifest import LiveManifest
from hashing.manifest import BUCKETS, FileMeta, bucket_digests, bucket_of, build_manifest
from hashing.metadata_json import WireMeta
from hashing.rules import ItemRule, Rules
from tests.sizes import examples

MOST = 1_000_000
ITEM = "etc/"
RULES = Rules((ItemRule(ITEM, ("all",), True, 0o660),))
MASTER = "0" * 32
Contents = dict[str, int]
quick = settings(deadline=None, max_examples=examples(60))
trees = st.dictionaries(st.text("abcé/", min_size=1, max_size=6), st.integers(0, 3), max_size=40)


def rows_of(contents: Contents) -> list[FileMeta]:
    return [FileMeta(ITEM + path, ITEM, bytes([content]) * 64, 1, 0) for path, content in sorted(contents.items())]


def frame(content: object) -> bytes:
    made: bytes = lz4.frame.compress(msgspec.msgpack.encode(content))
    return made


@pytest.mark.slow
@quick
@given(trees, trees)
def test_rows_of_differing_buckets_are_enough_to_find_every_difference(master: Contents, worker: Contents) -> None:
    ours, theirs = rows_of(master), rows_of(worker)
    numbers = differing_buckets(bucket_digests(theirs), bucket_digests(ours))
    told_rows = LiveManifest(build_manifest(theirs)).rows_of(numbers)
    told, heard = parse_told(encode_told(told_rows, numbers, MASTER, dry=False), MOST)
    found = compare(build_manifest(ours), heard, RULES, told.numbers)
    everything = {row.path: WireMeta(row.item, row.digest.hex()) for row in theirs}
    assert found == compare(build_manifest(ours), everything, RULES)


@quick
@given(trees)
def test_equal_trees_have_no_differing_bucket(contents: Contents) -> None:
    assert differing_buckets(bucket_digests(rows_of(contents)), bucket_digests(rows_of(contents))) == []


@quick
@given(st.sets(st.integers(0, BUCKETS - 1), max_size=5))
def test_the_buckets_that_differ_are_named(changed: set[int]) -> None:
    theirs = bytearray(bucket_digests([]))
    for number in changed:
        theirs[number * 16 + 15] ^= 1
    assert differing_buckets(bucket_digests([]), bytes(theirs)) == sorted(changed)


@pytest.mark.parametrize("size", [0, 1, ALL_BUCKETS_BYTES - 1, ALL_BUCKETS_BYTES + 1, 2 * ALL_BUCKETS_BYTES])
def test_digests_of_another_number_of_buckets_are_refused(size: int) -> None:
    with pytest.raises(MalformedPackage, match="not 16384"):
        differing_buckets(bytes(ALL_BUCKETS_BYTES), bytes(size))


def test_told_buckets_are_read_back_with_their_intent() -> None:
    rows = rows_of({"a": 1, "b": 2})
    numbers = sorted({bucket_of(row.path) for row in rows})
    told, heard = parse_told(encode_told(rows, numbers, MASTER, dry=True), MOST)
    assert (told.master, told.dry, told.numbers) == (MASTER, True, numbers)
    assert heard == {row.path: WireMeta(ITEM, row.digest.hex()) for row in rows}


@quick
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for candidate in (data, lz4.frame.compress(data)):
        try:
            told, _ = parse_told(candidate, MOST)
        except (MalformedPackage, PackageTooLarge):
            continue
        assert isinstance(told, ToldBuckets)


@quick
@given(st.data())
def test_damaged_message_is_a_message_or_refused(data: st.DataObject) -> None:
    good = bytearray(encode_told(rows_of({"a": 1}), [bucket_of("etc/a")], MASTER, dry=False))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_told(bytes(good), MOST)
    except (MalformedPackage, PackageTooLarge):
        return


def test_message_that_is_cut_off_is_refused() -> None:
    whole = encode_told(rows_of({"a": 1}), [bucket_of("etc/a")], MASTER, dry=False)
    for end in range(len(whole)):
        with pytest.raises((MalformedPackage, PackageTooLarge)):
            parse_told(whole[:end], MOST)


def test_bomb_is_refused_before_it_is_large() -> None:
    with pytest.raises(PackageTooLarge, match="more than 1000 bytes"):
        parse_told(lz4.frame.compress(bytes(50_000_000)), 1000)


ROW = ["etc/a", ITEM, bytes(64)]


@pytest.mark.parametrize(
    "content",
    [
        [MASTER, False, [BUCKETS], []],
        [MASTER, False, [-1], []],
        [MASTER, False, [0] * (BUCKETS + 1), []],
        [MASTER, False, [bucket_of("etc/a")], [["etc/a", ITEM, bytes(63)]]],
        [MASTER, False, [bucket_of("etc/a")], [["etc/a", ITEM, bytes(65)]]],
        [MASTER, False, list(range(BUCKETS)), [["a" * 4097, ITEM, bytes(64)]]],
        [MASTER, False, [], [ROW]],
        [MASTER, False, [(bucket_of("etc/a") + 1) % BUCKETS], [ROW]],
        ["0" * 33, False, [], []],
        [MASTER, 1, [], []],
        [MASTER, False, {}, []],
        {"master": MASTER},
        [],
        None,
    ],
    ids=str,
)
def test_message_with_impossible_content_is_refused(content: object) -> None:
    with pytest.raises(MalformedPackage):
        parse_told(frame(content), MOST)


def test_refusal_quotes_a_path_on_one_line() -> None:
    with pytest.raises(MalformedPackage) as refusal:
        parse_told(frame([MASTER, False, [], [["etc/a\n2026/01/01 forged", ITEM, bytes(64)]]]), MOST)
    assert "\n" not in str(refusal.value)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(MalformedPackage):
        parse_told(lz4.frame.compress(b"\x91" * 500_000), MOST)


def test_count_of_rows_is_believed_only_as_far_as_it_may_be() -> None:
    """A header that promises four thousand million rows costs no memory."""
    promise = b"\x94\xa0\xc2\x90\xdd\xff\xff\xff\xff"
    with pytest.raises(MalformedPackage, match="length"):
        parse_told(lz4.frame.compress(promise), MOST)

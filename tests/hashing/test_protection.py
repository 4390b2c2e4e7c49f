"""Which files that vanish stay in the manifest."""

import msgspec
import pytest

from hashing.live_manifest import LiveManifest
from hashing.manifest import FileMeta, build_manifest
from hashing.protection import Guard, apply_changes


def row(path: str) -> FileMeta:
    return FileMeta(path, "etc/rules/", b"d" * 64, 1, 1)


def manifest(count: int) -> LiveManifest:
    return LiveManifest(build_manifest(row(f"etc/rules/{number:04}") for number in range(count)))


def lose(live: LiveManifest, first: int, last: int, guard: Guard) -> int:
    return apply_changes(live, {f"etc/rules/{number:04}": None for number in range(first, last)}, frozenset(), guard)


def counts(live: LiveManifest) -> tuple[int, int, int]:
    return len(live), len(live.settling), len(live.withheld)


LOOK, JUDGE = Guard(0.5), Guard(0.5, judge=True)


@pytest.mark.parametrize(
    ("files", "lost", "after"),
    [
        (49, 49, (0, 0, 0)),
        (50, 25, (25, 0, 0)),
        (50, 26, (50, 0, 26)),
        (1000, 500, (500, 0, 0)),
        (1000, 501, (1000, 0, 501)),
    ],
)
def test_more_than_the_share_is_withheld_from_50_files_up(files: int, lost: int, after: tuple[int, int, int]) -> None:
    live = manifest(files)
    assert lose(live, 0, lost, LOOK) == lost
    lose(live, 0, 0, JUDGE)
    assert counts(live) == after


def test_parts_of_one_deletion_are_judged_together() -> None:
    live = manifest(1000)
    for start in range(0, 600, 60):
        lose(live, start, start + 60, LOOK)
        assert len(live) == 1000
    lose(live, 0, 0, JUDGE)
    assert counts(live) == (1000, 0, 600)


def test_few_files_go_at_once_and_count_when_more_follow() -> None:
    live = manifest(100)
    lost = 0
    for start in range(0, 60, 2):
        before = len(live)
        lose(live, start, start + 2, Guard(0.5, lost_before=lost))
        lost += before - len(live)
    lose(live, 0, 0, Guard(0.5, judge=True, lost_before=lost))
    assert counts(live) == (100 - lost, 0, 60 - lost)
    assert lost == 2


def test_small_tree_that_loses_files_slowly_is_protected_as_the_tree_it_was() -> None:
    """After its first two losses the tree has fewer files than are protected; those two count, too."""
    live = manifest(51)
    lost = 0
    for start in range(0, 40, 2):
        before = len(live)
        lose(live, start, start + 2, Guard(0.5, lost_before=lost))
        lost += before - len(live)
    lose(live, 0, 0, Guard(0.5, judge=True, lost_before=lost))
    assert (lost, counts(live)) == (2, (49, 0, 38))


def test_single_deletion_beside_withheld_files_goes_through() -> None:
    live = manifest(200)
    lose(live, 0, 120, JUDGE)
    assert counts(live) == (200, 0, 120)
    lose(live, 120, 123, LOOK)
    assert counts(live) == (197, 0, 120)


def test_what_is_left_beside_withheld_files_is_protected_by_itself() -> None:
    live = manifest(200)
    lose(live, 0, 120, JUDGE)
    lose(live, 120, 165, JUDGE)
    assert counts(live) == (200, 0, 165)


@pytest.mark.parametrize("guard", [Guard(1.0), Guard(0.5, allow=True)])
def test_everything_goes_once_it_is_allowed_or_protection_is_off(guard: Guard) -> None:
    live = manifest(200)
    lose(live, 0, 120, JUDGE)
    lose(live, 120, 180, LOOK)
    lose(live, 180, 190, guard)
    assert counts(live) == (10, 0, 0)


def test_file_that_comes_back_is_a_file_again() -> None:
    live = manifest(200)
    lose(live, 0, 120, LOOK)
    apply_changes(live, {"etc/rules/0005": row("etc/rules/0005")}, frozenset(), LOOK)
    assert counts(live) == (200, 119, 0)
    lose(live, 0, 0, JUDGE)
    apply_changes(live, {"etc/rules/0006": row("etc/rules/0006")}, frozenset(), LOOK)
    assert counts(live) == (200, 0, 118)


def test_what_is_held_is_part_of_the_digest_that_names_a_state_and_not_of_the_content() -> None:
    live = manifest(200)
    before = live.root_digest, live.content_digest
    lose(live, 0, 120, LOOK)
    settling = live.root_digest
    lose(live, 0, 0, JUDGE)
    assert live.content_digest == before[1]
    assert len({before[0], settling, live.root_digest}) == 3


@pytest.mark.parametrize(("settling", "after"), [(47, (50, 0, 0)), (48, (97, 0, 48))])
def test_files_that_went_before_count_as_lost_and_as_having_been_there(
    settling: int, after: tuple[int, int, int]
) -> None:
    """Three of 100 files have vanished at once: half of 100 may, those three included."""
    live = manifest(100)
    lose(live, 0, 3, LOOK)
    lose(live, 3, 3 + settling, Guard(0.5, lost_before=3))
    lose(live, 0, 0, Guard(0.5, judge=True, lost_before=3))
    assert counts(live) == after


def test_what_changes_while_deletions_are_judged_is_taken() -> None:
    live = manifest(100)
    lose(live, 0, 10, LOOK)
    apply_changes(live, {"etc/rules/new": row("etc/rules/new")}, frozenset(), JUDGE)
    assert counts(live) == (91, 0, 0)
    assert "etc/rules/new" in live


def test_rows_of_doubtful_files_stay_until_they_are_confirmed() -> None:
    """Other files found on the disk do not count, and judging never deletes these."""
    live = manifest(100)
    other = {
        path: msgspec.structs.replace(row(path), digest=b"x" * 64) for path in ("etc/rules/0001", "etc/rules/0003")
    }
    doubt = frozenset({"etc/rules/0001", "etc/rules/0002", "etc/rules/unknown"})
    changes = other | {"etc/rules/0002": None}
    assert apply_changes(live, changes, frozenset(), Guard(0.5, doubted=doubt)) == 2
    assert counts(live) == (100, 2, 0)
    assert live.get("etc/rules/0001") == row("etc/rules/0001")
    assert live.get("etc/rules/0003") == other["etc/rules/0003"]
    assert apply_changes(live, {}, frozenset(), Guard(0.5, judge=True, doubted=doubt)) == 0
    assert counts(live) == (100, 0, 2)
    assert apply_changes(live, {"etc/rules/0002": None}, frozenset(), Guard(0.5, doubted=doubt)) == 0
    assert counts(live) == (100, 0, 2), "they do not settle again"
    apply_changes(live, other | {"etc/rules/0002": row("etc/rules/0002")}, frozenset(), JUDGE)
    assert counts(live) == (100, 0, 0)

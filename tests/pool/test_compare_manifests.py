"""The difference of two manifests of a master equals the comparison of the second one with a worker that has the
first."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.messages.packages import CompareManifests
from clusterd.pool.buckets import compare_manifests
from clusterd.pool.tree import Memory
from clusterd.settings import Settings
from hashing.atomic import FileOps
from hashing.compare import compare, load_difference
from hashing.live_manifest import LiveManifest
from hashing.manifest import FileMeta, build_manifest
from hashing.metadata_json import WireMeta

Files = dict[int, int]
FILES = st.dictionaries(st.integers(0, 30), st.integers(0, 3), max_size=12)
SETTINGS = Settings("/")


def manifest_of(files: Files, withheld: Files) -> LiveManifest:
    rows = [
        FileMeta(f"etc/rules/{number}.xml", "etc/rules/", bytes((kind,)) * 64, 1, 10**9)
        for number, kind in files.items()
    ]
    live = LiveManifest(build_manifest(rows))
    live.mark((), [f"etc/rules/{number}.xml" for number in withheld if number in files], ())
    return live


@pytest.mark.slow
@given(FILES, FILES, FILES)
def test_difference_is_that_of_a_worker_with_the_manifest_before(
    tmp_path_factory: pytest.TempPathFactory, before: Files, now: Files, withheld: Files
) -> None:
    state = tmp_path_factory.mktemp("state")
    old, new = manifest_of(before, {}), manifest_of(now, withheld)
    for live in (old, new):
        live.save(FileOps(), str(state))
    out = str(state / "difference")
    job = CompareManifests(str(state), old.root_digest, old.buckets, new.root_digest, new.buckets, out)
    found = compare_manifests(job, SETTINGS, Memory())
    theirs = {row.path: WireMeta(row.item, row.digest.hex(), 1.0) for row in old.rows}
    expected = compare(new, theirs, SETTINGS.rules)
    assert load_difference(out) == expected
    assert (found.missing, found.shared, found.extra) == tuple(
        map(len, (expected.missing, expected.shared, expected.extra))
    )


def test_missing_manifest_is_reported(tmp_path: Path) -> None:
    live = manifest_of({1: 1}, {})
    job = CompareManifests(
        str(tmp_path), live.root_digest, live.buckets, live.root_digest, live.buckets, str(tmp_path / "x")
    )
    with pytest.raises(FileNotFoundError):
        compare_manifests(job, SETTINGS, Memory())

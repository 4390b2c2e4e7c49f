"""A patched manifest equals one that is built from scratch, whatever happened to the files."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from clusterd.settings import DEFAULT_RULES
from hashing.atomic import FileOps
from hashing.compare import compare
from hashing.digest_cache import NO_ROWS, ShardRows, file_rows
from hashing.live_manifest import LiveManifest, load_live
from hashing.manifest import BUCKETS, FileMeta, Manifest, bucket_of, build_manifest, content_digest
from hashing.metadata_json import WireMeta
from hashing.protection import LEAST_FILES, Guard, apply_changes
from hashing.rescan import rescan
from hashing.rules import ItemRule, Rules
from hashing.walk import scan_shard
from tests.sizes import examples

paths = st.integers(0, 60).map(lambda number: f"etc/rules/{number:03}")
digests = st.integers(0, 3).map(lambda number: blake2b(bytes([number])).digest())
rows = st.builds(FileMeta, paths, st.just("etc/rules/"), digests, st.integers(0, 9), st.just(1))
trees = st.dictionaries(paths, digests, max_size=60).map(
    lambda tree: [FileMeta(path, "etc/rules/", digest, 1, 1) for path, digest in tree.items()]
)
changes = st.dictionaries(paths, digests | st.none(), max_size=8).map(
    lambda found: {
        path: None if digest is None else FileMeta(path, "etc/rules/", digest, 2, 2) for path, digest in found.items()
    }
)


def patched(manifest: Manifest, change: dict[str, FileMeta | None]) -> Manifest:
    after = {row.path: row for row in manifest.rows} | change
    return build_manifest([row for row in after.values() if row is not None], manifest.unread)


def agree(live: LiveManifest, manifest: Manifest) -> None:
    assert live.to_manifest() == manifest
    assert live.buckets == manifest.buckets
    assert live.content_digest == content_digest(manifest.buckets)
    assert live.total_bytes == sum(row.size for row in manifest.rows)
    assert live.rows_of(range(BUCKETS)) == list(manifest.rows)
    assert live.below("etc/rules") == list(manifest.rows)


@pytest.mark.slow
@settings(deadline=None)
@given(trees, st.lists(changes, max_size=5), st.booleans())
def test_patches_give_what_a_build_gives(
    tree: list[FileMeta], steps: list[dict[str, FileMeta | None]], ask: bool
) -> None:
    manifest = build_manifest(tree)
    live = LiveManifest(manifest)
    for step in steps:
        manifest = patched(manifest, step)
        live.patch(step)
        if ask:
            agree(live, manifest)
    agree(live, manifest)


@pytest.mark.slow
@settings(deadline=None)
@given(trees, trees)
def test_many_changes_at_once_give_it_too(before: list[FileMeta], after: list[FileMeta]) -> None:
    many = [FileMeta(f"etc/lists/{number}", "etc/lists/", b"d" * 64, 1, 1) for number in range(600)]
    live = LiveManifest(build_manifest([*before, *many]))
    step: dict[str, FileMeta | None] = dict.fromkeys(row.path for row in [*before, *many])
    step |= {row.path: row for row in after}
    live.patch(step)
    agree(live, build_manifest(after))


@pytest.mark.slow
@settings(deadline=None)
@given(trees, st.lists(st.tuples(changes, st.sets(paths)), min_size=1, max_size=6), st.data())
def test_any_state_is_reached_from_any_other_by_their_files(
    tree: list[FileMeta], steps: list[tuple[dict[str, FileMeta | None], set[str]]], data: st.DataObject
) -> None:
    """One process writes states, whole or as deltas; another one reads them in any order."""
    with tempfile.TemporaryDirectory() as state:
        others = [FileMeta(f"etc/lists/{number}", "etc/lists/", b"d" * 64, 1, 1) for number in range(100)]
        live = LiveManifest(build_manifest([*tree, *others]))
        live.save(FileOps(), state)
        states = [live.to_manifest()]
        for step, unread in steps:
            live.patch(step)
            live.mark(unread, [], [])
            live.save(FileOps(), state)
            states.append(live.to_manifest())
        known: LiveManifest | None = None
        for manifest in data.draw(st.lists(st.sampled_from(states), max_size=8)):
            known = load_live(state, manifest.root_digest, known)
            # The digest that names a state does not cover the times of files.
            assert [(row.path, row.digest) for row in known.rows] == [(row.path, row.digest) for row in manifest.rows]
            assert (known.root_digest, known.buckets) == (manifest.root_digest, manifest.buckets)


@pytest.mark.slow
@settings(deadline=None)
@given(trees, trees, st.sets(st.integers(0, BUCKETS - 1)))
def test_comparing_buckets_finds_what_differs_in_them(
    master: list[FileMeta], worker: list[FileMeta], others: set[int]
) -> None:
    theirs = {row.path: WireMeta("etc/rules/", row.digest.hex()) for row in worker}
    manifest = build_manifest(master)
    whole = compare(manifest, theirs, DEFAULT_RULES)
    numbers = others | {bucket_of(row.path) for row in worker[::2]}
    part = compare(
        LiveManifest(manifest),
        {path: meta for path, meta in theirs.items() if bucket_of(path) in numbers},
        DEFAULT_RULES,
        numbers,
    )
    assert part.missing == [row for row in whole.missing if bucket_of(row.path) in numbers]
    assert part.shared == [row for row in whole.shared if bucket_of(row.path) in numbers]
    assert part.extra == [pair for pair in whole.extra if bucket_of(pair[0]) in numbers]


# ---- protection ------------------------------------------------------------------------------------------------------

files = st.sets(st.integers(0, 99).map(lambda number: f"etc/rules/{number:03}"))


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(files, st.sampled_from(["look", "look", "judge", "allow"])), max_size=6))
def test_rows_are_those_of_the_disk_and_of_what_is_held(steps: list[tuple[set[str], str]]) -> None:
    on_disk = {f"etc/rules/{number:03}" for number in range(100)}
    live = LiveManifest(build_manifest([FileMeta(path, "etc/rules/", b"d" * 64, 1, 1) for path in on_disk]))
    for present, what in steps:
        step = {path: FileMeta(path, "etc/rules/", b"d" * 64, 1, 1) if path in present else None for path in on_disk}
        before = len(live)
        judged = set(live.settling)
        apply_changes(live, step, frozenset(), Guard(0.5, judge=what == "judge", allow=what == "allow"))
        assert {row.path for row in live.rows} == present | live.held
        assert not present & live.held
        agree_digest(live)
        if what == "allow":
            assert not live.held
        elif what == "judge":
            assert not live.settling
        else:
            # Settling files leave that state only by coming back.
            assert judged - present <= set(live.settling)
        if before >= LEAST_FILES and what == "look" and not judged:
            assert len(live) * 2 >= before


def agree_digest(live: LiveManifest) -> None:
    assert live.content_digest == content_digest(build_manifest(live.rows).buckets)


# ---- the disk --------------------------------------------------------------------------------------------------------

RULES = Rules(
    (
        ItemRule("etc/", ("client.keys",), False, 0o640),
        ItemRule("etc/rules/", ("all",), True, 0o660),
        ItemRule("etc/rules/own/", ("all",), True, 0o660),
        ItemRule("etc/lists/", ("x", "y"), True, 0o660),
    )
)
places = st.lists(
    st.sampled_from(["rules", "lists", "own", "sub", "x", "y", "z.tmp", "client.keys", ".clusterd-x"]), max_size=4
).map(lambda parts: "/".join(["etc", *parts]))
Step = tuple[str, str, str]
operations = st.tuples(
    st.sampled_from(
        ["write", "write", "edit", "remove", "mkdir", "move", "link", "link out", "link directory", "fifo"]
    ),
    places,
    places,
)


def put(path: Path, text: str) -> None:
    """Writes a file; never through a link, and never into a FIFO, which has no reader."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def perform(root: Path, step: Step) -> Iterator[str]:
    """Makes the change. Returns the paths that events would name."""
    what, name, other = step
    path, target = root / name, root / other
    with suppress(OSError):
        match what:
            case "write":
                made = [at for at in path.parents if not at.exists() and at.is_relative_to(root)]
                path.parent.mkdir(parents=True, exist_ok=True)
                for at in made:
                    yield from named(root, at)
                put(path, other)
            case "edit":  # keeps the time of modification
                status = path.stat()
                put(path, name[::-1])
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            case "remove":
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            case "mkdir":
                path.mkdir()
            case "move":
                path.rename(target)
                yield from named(root, target)
            case "link" | "link directory":
                path.symlink_to(target)
            case "link out":
                path.symlink_to("/etc/hostname")
            case "fifo":
                os.mkfifo(path)
        yield from named(root, path)


def named(root: Path, path: Path) -> Iterator[str]:
    """A watch belongs to a directory: what happens behind a link has its name there, too."""
    yield str(path.relative_to(root))
    with suppress(OSError, RuntimeError, ValueError):
        yield str((path.parent.resolve() / path.name).relative_to(root))


def built(found: ShardRows) -> Manifest:
    return build_manifest(file_rows(found), found.unread)


def shards_of(root: Path) -> Callable[[], list[ShardRows]]:
    halves = [scan_shard(str(root), RULES, shard, 2, NO_ROWS, started_ns=2**62).rows for shard in range(2)]
    return lambda: halves


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.lists(operations, min_size=1, max_size=6), min_size=1, max_size=4))
@example([[("link", "etc/z.tmp", "etc"), ("write", "etc/z.tmp/client.keys", "etc")]])
def test_looking_again_where_something_happened_gives_what_a_walk_gives(rounds: list[list[Step]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for part in ("rules/own", "rules/sub", "lists"):
            (root / "etc" / part).mkdir(parents=True)
        for number in range(40):
            (root / "etc/rules/sub" / str(number)).write_text(str(number))
        walked = scan_shard(str(root), RULES, 0, 1).rows
        live = LiveManifest(built(walked))
        caches = shards_of(root)
        again: set[str] = set()
        for steps in rounds:
            events = {path for step in steps for path in perform(root, step)}
            trees = {path.rstrip("/") for path in again if path.endswith("/")}
            listed = {path for path in again if not path.endswith("/")}
            found = rescan(str(root), RULES, live, events | trees, listed, caches)
            live.patch(found.changes)
            live.mark(found.unread, [], [])
            again |= set(found.again)
            # A walk keeps what it cannot read, too.
            walked = scan_shard(str(root), RULES, 0, 1, walked).rows
            assert live.to_manifest() == built(walked)

"""Compares two manifests into a Difference (wire.md 5.5). A file carries it from the job that compares to the jobs
that pack."""

from collections.abc import Iterable, Iterator, Mapping
from json.encoder import encode_basestring_ascii as quote

import msgspec

from hashing.atomic import FileOps
from hashing.live_manifest import LiveManifest
from hashing.manifest import FileMeta, Manifest
from hashing.metadata_json import WireMeta, wire_members
from hashing.rules import Rules
from hashing.state_file import load_state, save_state

_MAGIC = b"cddiffr1"
MOST_UNKNOWN = 10


class Difference(msgspec.Struct, frozen=True, array_like=True):
    """What a worker must create (`missing`), replace (`shared`) and delete (`extra`), each sorted by path. The rows
    are the master's; an extra file has only the metadata that the worker sent."""

    missing: list[FileMeta]
    shared: list[FileMeta]
    extra: list[tuple[str, WireMeta]]

    @property
    def is_empty(self) -> bool:
        return not (self.missing or self.shared or self.extra)


def compare(
    master: LiveManifest | Manifest, worker: Mapping[str, WireMeta], rules: Rules, numbers: Iterable[int] | None = None
) -> Difference:
    """What the worker must do to have the master's files. Only digests are compared. An extra file does not count if
    its item has `extra_valid` or is unknown here (see `unknown_items`), or if the master could not read its place (C8).
    Files that the master withholds (protection.py) are neither sent nor extra.

    `numbers`: compare these buckets only; `worker` then has the files of these and no others.

    The worker's paths are not checked: it is the worker that deletes them, and it checks."""
    if isinstance(master, Manifest):
        master = LiveManifest(master)
    missing: list[FileMeta] = []
    shared: list[FileMeta] = []
    common = 0
    find, held = worker.get, master.held
    for row in master.rows if numbers is None else master.rows_of(numbers):
        theirs = find(row.path)
        if theirs is None:
            if row.path not in held:
                missing.append(row)
        else:
            common += 1
            if theirs.hash != row.digest.hex() and row.path not in held:
                shared.append(row)
    extra: list[tuple[str, WireMeta]] = []
    if common < len(worker):
        extra = _extra(master, worker, rules)
    return Difference(missing, shared, extra)


def _extra(master: LiveManifest, worker: Mapping[str, WireMeta], rules: Rules) -> list[tuple[str, WireMeta]]:
    unread_files = frozenset(master.unread)
    unread_directories = tuple(path for path in master.unread if path.endswith("/"))
    judged = {item.key for item in rules.items if not item.extra_valid}
    found: list[tuple[str, WireMeta]] = []
    for path, meta in worker.items():
        if path in master or path in unread_files or path.startswith(unread_directories):
            continue
        if meta.cluster_item_key in judged:
            found.append((path, meta))
    found.sort(key=lambda pair: pair[0])
    return found


def unknown_items(worker: Mapping[str, WireMeta], rules: Rules) -> list[str]:
    """Items of the worker's files that the master does not synchronise: at most MOST_UNKNOWN, sorted. Nothing is known
    of these files, so they stay as they are; stock does not answer such a worker at all (C23)."""
    known = {item.key for item in rules.items}
    return sorted({meta.cluster_item_key for meta in worker.values()} - known)[:MOST_UNKNOWN]


def fit_difference(difference: Difference, most: int) -> Difference:
    """The part of a difference whose files have at most `most` bytes together. The smallest files go first, so that
    one large file never holds up many small ones. All deletions stay."""
    chosen: set[str] = set()
    for row in sorted((*difference.missing, *difference.shared), key=lambda row: (row.size, row.path)):
        most -= row.size
        if most < 0:
            break
        chosen.add(row.path)
    return Difference(
        [row for row in difference.missing if row.path in chosen],
        [row for row in difference.shared if row.path in chosen],
        difference.extra,
    )


def difference_to_wire(
    missing: Iterable[FileMeta], extra: Iterable[tuple[str, WireMeta]], shared: Iterable[FileMeta]
) -> bytes:
    """The metadata entry of a master's package: JSON with the groups in the stock order missing, extra, shared
    (wire.md 5.3)."""
    members = (", ".join(wire_members(missing)), ", ".join(_extra_members(extra)), ", ".join(wire_members(shared)))
    return '{{"missing": {{{}}}, "extra": {{{}}}, "shared": {{{}}}}}'.format(*members).encode("ascii")


def _extra_members(extra: Iterable[tuple[str, WireMeta]]) -> Iterator[str]:
    for path, meta in extra:
        yield (
            f'{quote(path)}: {{"mod_time": {meta.mod_time!r}, "cluster_item_key": {quote(meta.cluster_item_key)}, '
            f'"merged": false, "hash": {quote(meta.hash)}}}'
        )


def save_difference(ops: FileOps, path: str, difference: Difference) -> None:
    """Write the difference's file. OSError as it comes."""
    save_state(ops, path, _MAGIC, difference)


def load_difference(path: str) -> Difference:
    """Read it back. Raises FileNotFoundError, MalformedPackage when it is damaged, other OSError as it comes."""
    difference: Difference = load_state(path, _MAGIC, msgspec.msgpack.Decoder(Difference))
    return difference

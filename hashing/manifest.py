"""Metadata of a node's files: FileMeta of one file, Manifest of all files with a root digest and 1,024 bucket
digests; the rules for paths; and the JSON in which nodes exchange metadata (wire.md 5.1 to 5.3)."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise
from json.encoder import encode_basestring_ascii as quote
from operator import attrgetter
from typing import TypeVar

import msgspec
import xxhash

from hashing.atomic import FileOps, is_temporary
from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.state_file import remove_all_but, save_state

BUCKETS = 1024
BUCKET_DIGEST_BYTES = 16
EMPTY_BUCKET = blake2b(digest_size=BUCKET_DIGEST_BYTES).digest()
"""The digest of a bucket without rows. Most of a small tree's 1,024 are empty."""
PATH_BYTES = 4096
NAME_BYTES = 255
MAX_DEPTH = 64
"""Directories of a path, from the root on."""
WIRE_BYTES = 268435456
"""Largest metadata JSON that is read from a peer: about a million files."""
WIRE_ROWS = 1000000
"""Most files that a peer's metadata may name. Reading so many takes seconds and hundreds of MiB of a pool process."""

MANIFEST_MAGIC = b"cdmanif1"
_FILE_PREFIX = "manifest-"
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.")
"""An escape in JSON; the group: half of a surrogate pair, which stands for no character."""
_T = TypeVar("_T")


class ItemRule(msgspec.Struct, frozen=True):
    """One synchronised directory (wire.md 5.1). `key` is its path relative to the root, with a trailing slash."""

    key: str
    files: tuple[str, ...]
    recursive: bool
    permissions: int
    remove_subdirs_if_empty: bool = False
    extra_valid: bool = False


class Rules(msgspec.Struct, frozen=True):
    """What is synchronised, and what is left out whatever directory it is in. `link_targets`: absolute paths of
    directories below which links may lead (links.py)."""

    items: tuple[ItemRule, ...]
    excluded_files: tuple[str, ...] = ("ar.conf", "ossec.conf")
    excluded_extensions: tuple[str, ...] = ("~", ".tmp", ".lock", ".swp")
    link_targets: tuple[str, ...] = ()


class FileMeta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file: path relative to the root with forward slashes, the key of its item, BLAKE2b (64 bytes), size in bytes,
    modification time in ns (informative, never compared between nodes)."""

    path: str
    item: str
    digest: bytes
    size: int
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """All files of a node at one moment, sorted by path.

    `unread`: paths, or with a trailing slash directories, of which the scan could not tell what is there. Rows from
    before are kept, and what a peer has there besides is not extra (C8). `withheld`, `settling`: paths of rows whose
    files have vanished in great numbers (protection.py): peers that have them keep them, none is sent them.
    """

    root_digest: str
    rows: tuple[FileMeta, ...]
    unread: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    settling: tuple[str, ...] = ()

    @property
    def buckets(self) -> bytes:
        """The digests of its buckets, see `bucket_digests`; computed anew each time."""
        return bucket_digests(self.rows)


class WireMeta(msgspec.Struct, frozen=True, gc=False):
    """Metadata of one file as a peer wrote it (wire.md 5.2): nothing in it is to be trusted. `hash` is any text."""

    cluster_item_key: str
    hash: str
    mod_time: float = 0.0
    merged: bool = False
    merge_type: str = ""
    merge_name: str = ""


class WireDifference(msgspec.Struct, frozen=True):
    """The metadata of a master's package (wire.md 5.3), by path. `missing` and `shared` have digests of 128 hex
    digits."""

    missing: dict[str, WireMeta]
    shared: dict[str, WireMeta]
    extra: dict[str, WireMeta]


# ---- paths and rules -------------------------------------------------------------------------------------------------


def path_ok(path: str) -> str | None:
    """None if `path` may be the path of a file relative to the root, else the reason why not, worded to follow the path
    in a sentence. Says nothing about items and rules: see `allowed`.

    A path that is fine here can be walked with a descriptor for each of its directories. It holds neither separator of
    wire.md 5.4: both contain `//`.
    """
    if not path:
        return "is empty"
    if path[0] == "/":
        return "is absolute"
    if "\0" in path:
        return "holds a NUL byte"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if len(encoded) > PATH_BYTES:
        return f"has more than {PATH_BYTES} bytes"
    if path.count("/") > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} directories deep"
    for part in encoded.split(b"/"):
        if part == b"..":
            return "leads upwards"
        if part in (b"", b"."):
            return "is not normalised"
        if len(part) > NAME_BYTES:
            return f"has a name of more than {NAME_BYTES} bytes"
    return None


def is_too_deep(directory: str) -> bool:
    """True for a directory that a scan does not enter: path_ok would refuse what may be in it."""
    if directory.count("/") >= MAX_DEPTH:
        return True
    return len(directory.encode(errors="surrogateescape")) + 1 + NAME_BYTES > PATH_BYTES


def refusal(rules: Rules, item: ItemRule, path: str) -> str | None:
    """None if `path` (fine for path_ok) is one of the files that `item` describes, else the reason why not. Another
    item may describe it too; the one with the longer key then has it."""
    if not path.startswith(item.key):
        return f"is not in {item.key}"
    directory, _, name = path.rpartition("/")
    if not item.recursive and len(directory) + 1 != len(item.key):
        return f"is not directly in {item.key}"
    if item.files != ("all",) and name not in item.files:
        return f"is not one of the files of {item.key}"
    if name in rules.excluded_files or is_temporary(name):
        return "has an excluded name"
    if name.endswith(rules.excluded_extensions):
        return "has an excluded extension"
    return None


def item_of(rules: Rules, path: str) -> ItemRule | None:
    """The item that `path` belongs to, None if it is not synchronised. Of several that describe it, the longest key."""
    found: ItemRule | None = None
    for item in rules.items:
        if (found is None or len(item.key) > len(found.key)) and refusal(rules, item, path) is None:
            found = item
    return found


def allowed(rules: Rules, item_key: str, path: str) -> str | None:
    """None if `path`, announced as a file of item `item_key`, may be written or deleted here, else the reason why
    not, to follow the path in a sentence. Checks the path itself (path_ok) and the rules; links on the disk are not
    looked at."""
    reason = path_ok(path)
    if reason is not None:
        return reason
    item = next((item for item in rules.items if item.key == item_key), None)
    if item is None:
        return f"names the unknown cluster_item_key {item_key!r}"
    reason = refusal(rules, item, path)
    if reason is not None:
        return reason
    owner = item_of(rules, path)
    if owner is not item and owner is not None:
        return f"belongs to {owner.key}"
    return None


class PathCheck:
    """`allowed` for many paths: the same answers, but sooner for the files of one directory that come one after the
    other."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._last = ("", "")
        self._last_is_free = False

    def allowed(self, item_key: str, path: str) -> str | None:
        """See the function `allowed`."""
        directory, _, name = path.rpartition("/")
        place = (item_key, directory)
        if place != self._last:
            self._last, self._last_is_free = place, self._is_free(item_key, directory)
        if self._last_is_free and path.isascii() and len(path) <= PATH_BYTES and self._is_plain(name):
            return None
        return allowed(self._rules, item_key, path)

    def _is_free(self, item_key: str, directory: str) -> bool:
        """True if every plain name in this directory belongs to the item."""
        rules, place = self._rules, f"{directory}/"
        item = next((item for item in rules.items if item.key == item_key), None)
        if item is None or item.files != ("all",) or path_ok(f"{place}x") or refusal(rules, item, f"{place}x"):
            return False
        return not any(len(other.key) > len(item.key) and place.startswith(other.key) for other in rules.items)

    def _is_plain(self, name: str) -> bool:
        """True only for ASCII names that are fine in every directory. Those of our temporary files begin with a dot."""
        return (
            0 < len(name) <= NAME_BYTES
            and name[0] != "."
            and "\0" not in name
            and name not in self._rules.excluded_files
            and not name.endswith(self._rules.excluded_extensions)
        )


# ---- the manifest ----------------------------------------------------------------------------------------------------


def bucket_of(path: str) -> int:
    """Number of the bucket that `path` is in, 0 to 1023."""
    return int(xxhash.xxh3_64_intdigest(path.encode())) % BUCKETS


def bucket_digests(rows: Iterable[FileMeta]) -> bytes:
    """1,024 digests of 16 bytes, in order of their numbers: each BLAKE2b-128 over path, NUL and digest of the rows
    of that bucket, which must come sorted by path. Sizes and times are not in it, so nodes with equal files have
    equal digests."""
    return b"".join([bucket_digest(part) if part else EMPTY_BUCKET for part in by_bucket(rows)])


def by_bucket(rows: Iterable[FileMeta]) -> list[list[FileMeta]]:
    """The rows of each of the 1,024 buckets, in the order in which they come."""
    parts: list[list[FileMeta]] = [[] for _ in range(BUCKETS)]
    number = xxhash.xxh3_64_intdigest
    for row in rows:
        parts[number(row.path.encode()) % BUCKETS].append(row)
    return parts


def bucket_digest(rows: Iterable[FileMeta]) -> bytes:
    """The digest of one bucket, from its rows sorted by path."""
    joined = b"".join([b"%b\0%b" % (row.path.encode(), row.digest) for row in rows])
    return blake2b(joined, digest_size=BUCKET_DIGEST_BYTES).digest()


def items_digest(rows: Iterable[FileMeta]) -> int:
    """xxh3 of the items of one bucket's rows, sorted by path; 0 for none."""
    items = "\0".join([row.item for row in rows])
    return int(xxhash.xxh3_64_intdigest(items.encode())) if items else 0


def content_digest(buckets: bytes) -> str:
    """Hex of BLAKE2b-128 over the bucket digests: equal on nodes with equal files."""
    return blake2b(buckets, digest_size=BUCKET_DIGEST_BYTES).hexdigest()


def root_digest(
    buckets: bytes,
    items: Iterable[int],
    unread: Iterable[str] = (),
    withheld: Iterable[str] = (),
    settling: Iterable[str] = (),
) -> str:
    """Hex of BLAKE2b-128 over the bucket digests and whatever else a manifest has, so that it names one state of it and
    nodes with equal, fully read files and equal rules have the same. `items`: the `items_digest` of each bucket. The
    paths must come sorted."""
    root = blake2b(buckets, digest_size=BUCKET_DIGEST_BYTES)
    root.update(b"".join([number.to_bytes(8, "big") for number in items]))
    for path in unread:
        root.update(path.encode(errors="surrogateescape") + b"\0")
    for mark, paths in ((b"\0w", withheld), (b"\0s", settling)):
        for path in paths:
            root.update(mark + path.encode() + b"\0")
    return root.hexdigest()


def build_manifest(rows: Iterable[FileMeta], unread: Iterable[str] = ()) -> Manifest:
    """Sort the rows and compute the root digest. Raises MalformedPackage when two rows have the same path."""
    ordered = sorted(rows, key=attrgetter("path"))
    for before, after in pairwise(ordered):
        if before.path == after.path:
            raise MalformedPackage(after.path, "is twice in the manifest")
    missed = tuple(sorted(set(unread)))
    parts = by_bucket(ordered)
    buckets = b"".join([bucket_digest(part) if part else EMPTY_BUCKET for part in parts])
    return Manifest(root_digest(buckets, map(items_digest, parts), missed), tuple(ordered), missed)


def manifest_path(state_dir: str, root_digest: str) -> str:
    """Where the manifest of that digest is kept."""
    return os.path.join(state_dir, _FILE_PREFIX + root_digest)


def kept_manifests(state_dir: str) -> list[str]:
    """Root digests of the manifests that are kept there, the newest first. OSError as it comes."""
    found = []
    with os.scandir(state_dir) as entries:
        for entry in entries:
            if entry.name.startswith(_FILE_PREFIX):
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name.removeprefix(_FILE_PREFIX)))
    return [digest for _, digest in sorted(found, reverse=True)]


def save_manifest(ops: FileOps, state_dir: str, manifest: Manifest, *, keep: int = 8) -> None:
    """Write the manifest's file and remove older ones beyond `keep`: jobs that were started with one of the last few
    root digests still find theirs. OSError as it comes."""
    save_state(ops, manifest_path(state_dir, manifest.root_digest), MANIFEST_MAGIC, manifest)
    remove_all_but(ops, state_dir, _FILE_PREFIX, keep)


# ---- JSON of other nodes ---------------------------------------------------------------------------------------------


def wire_members(rows: Iterable[FileMeta]) -> Iterator[str]:
    """The members `"path": {metadata}` of a wire object, one by one (wire.md 5.2).

    `merged` is false whatever the name, and `merge_name` absent (C6): a peer obeys the metadata it receives, and the
    absolute paths of this node are not its business.
    """
    keys: dict[str, str] = {}
    for row in rows:
        item, mtime_ns = row.item, row.mtime_ns
        key = keys.get(item)
        if key is None:
            key = keys[item] = quote(item)
        # Seconds and fraction apart, as the C library of a stock node adds them: the same float for the same file.
        mod_time = mtime_ns // 1000000000 + 1e-9 * (mtime_ns % 1000000000)
        yield (
            f'{quote(row.path)}: {{"mod_time": {mod_time!r}, "cluster_item_key": {key}, "merged": false, '
            f'"hash": "{row.digest.hex()}"}}'
        )


def to_wire(rows: Iterable[FileMeta]) -> bytes:
    """Flat JSON object of path to metadata, with the separators and escapes of a stock node (wire.md 5.3): what a
    worker sends. About 230 bytes a file."""
    return f"{{{', '.join(wire_members(rows))}}}".encode("ascii")


def parse_wire_metadata(data: bytes, limit: int = WIRE_BYTES, most_rows: int = WIRE_ROWS) -> dict[str, WireMeta]:
    """A worker's metadata. Paths are not checked: they are compared, not opened. A stock worker escapes the bytes of
    names that are not UTF-8 as halves of surrogate pairs: these files are left out, as by a scan of ours.

    Raises PackageTooLarge above `limit` bytes or `most_rows` files, MalformedPackage when it is not such an object or
    an entry lacks `hash` or `cluster_item_key`. Unknown keys are ignored, nesting is bounded.
    """
    try:
        return _parse(data, limit, most_rows, dict[str, WireMeta])
    except MalformedPackage:
        marked = _ESCAPE.sub(lambda found: b"\\u0000" if found[1] else found[0], data)
        if marked == data:
            raise
    found = _parse(marked, limit, most_rows, dict[str, WireMeta])
    return {path: meta for path, meta in found.items() if "\0" not in path}


def parse_wire_difference(data: bytes, limit: int = WIRE_BYTES, most_rows: int = WIRE_ROWS) -> WireDifference:
    """The metadata of a master's package. Paths and items are not checked here: see `allowed`.

    Raises PackageTooLarge above `limit` bytes or `most_rows` files, MalformedPackage when it is not such an object, one
    of the three groups is absent, or a file to be written has no digest that could be verified.
    """
    difference = _parse(data, limit, most_rows, WireDifference)
    for group in (difference.missing, difference.shared):
        for path, meta in group.items():
            if not is_digest(meta.hash):
                raise MalformedPackage(path, "has no BLAKE2b of 128 hexadecimal digits in its metadata")
    return difference


def is_digest(text: str) -> bool:
    """True for 128 lower-case hexadecimal digits."""
    return len(text) == 128 and not text.strip("0123456789abcdef")


def _parse(data: bytes, limit: int, most_rows: int, kind: type[_T]) -> _T:
    if len(data) > limit:
        raise PackageTooLarge("files_metadata.json", f"has {len(data)} bytes, more than {limit}")
    # Each file has its own object, and no other way to begin one: counted before anything is built of it.
    rows = data.count(b"{")
    if rows > most_rows + 4:
        raise PackageTooLarge("files_metadata.json", f"names about {rows} files, more than {most_rows}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedPackage("files_metadata.json", f"is not the expected JSON: {error}") from error

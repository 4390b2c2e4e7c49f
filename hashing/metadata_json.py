"""The JSON in which nodes exchange the metadata of their files (wire.md 5.2, 5.3)."""

import re
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii as quote
from typing import TypeVar

import msgspec

from hashing.errors import MalformedPackage, PackageTooLarge
from hashing.manifest import FileMeta

WIRE_BYTES = 268435456
"""Largest metadata JSON that is read from a peer: about a million files."""
WIRE_ROWS = 1000000
"""Most files that a peer's metadata may name. Reading so many takes seconds and hundreds of MiB of a pool process."""
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.")
"""An escape in JSON; the group: half of a surrogate pair, which stands for no character."""
_T = TypeVar("_T")


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

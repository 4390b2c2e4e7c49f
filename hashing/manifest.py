"""What is known of a node's files: FileMeta of one, Manifest of all, with a root digest and 1,024 bucket digests."""

import msgspec

BUCKETS = 1024


class ItemRule(msgspec.Struct, frozen=True):
    """One synchronised directory (wire.md 5.1). `key` is its path relative to the root, with a trailing slash."""

    key: str
    files: tuple[str, ...]
    recursive: bool
    permissions: int
    remove_subdirs_if_empty: bool = False
    extra_valid: bool = False


class Rules(msgspec.Struct, frozen=True):
    """What is synchronised, and what is left out whatever directory it is in."""

    items: tuple[ItemRule, ...]
    excluded_files: tuple[str, ...] = ("ar.conf", "ossec.conf")
    excluded_extensions: tuple[str, ...] = ("~", ".tmp", ".lock", ".swp")


class FileMeta(msgspec.Struct, frozen=True, array_like=True):
    """One file: path relative to the root with forward slashes, the key of its item, BLAKE2b (64 bytes), size in bytes,
    modification time in ns (informative, never compared between nodes)."""

    path: str
    item: str
    digest: bytes
    size: int
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """All files of a node at one moment, sorted by path."""

    root_digest: str
    rows: tuple[FileMeta, ...]

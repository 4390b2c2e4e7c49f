"""Which paths are synchronised: the items of cluster.json as rules, and what a path must be like (wire.md 5.1)."""

import msgspec

from hashing.atomic import is_temporary

PATH_BYTES = 4096
NAME_BYTES = 255
MAX_DEPTH = 64
"""Directories of a path, from the root on."""


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

"""Rules for names from outside. Each function returns what is wrong in words, or None for a good name."""

import re

MAX_NODE_NAME = 128
MAX_PACKAGE_NAME = 255
_NODE = re.compile(r"[A-Za-z0-9._-]+")
_PACKAGE = re.compile(r"[A-Za-z0-9._-]+\.zip")
_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.%a-z]{2,64}\]:([0-9]{1,5})|[A-Za-z0-9._-]{1,253}(?::([0-9]{1,5}))?")
HIGHEST_PORT = 65535
_GROUP = re.compile(r"[A-Za-z0-9._-]{1,255}")


def node_name_problem(name: str) -> str | None:
    """A node's name becomes a directory name on every node (wire.md W5): letters, digits, `.`, `_`, `-`; it begins with
    neither dot (no hidden directory) nor dash (no option of a command)."""
    if not name:
        return "a node name cannot be empty"
    if len(name) > MAX_NODE_NAME:
        return f"a node name has at most {MAX_NODE_NAME} characters, this one {len(name)}"
    if not _NODE.fullmatch(name):
        return "a node name has only letters, digits, '.', '_' and '-'"
    if name.startswith((".", "-")):
        return "a node name begins with a letter, a digit or '_'"
    return None


def is_address(text: str) -> bool:
    """Whether nodes take this as the address of a master: HOST, HOST:PORT or [V6]:PORT."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found[1] or found[2] or 1) in range(1, HIGHEST_PORT + 1)


def cluster_name_problem(name: str) -> str | None:
    """A cluster's name is one word of hello (wire.md 1.4): anything printable without a space."""
    if not name or any(character.isspace() or not character.isprintable() for character in name):
        return "a cluster name is one word without spaces"
    return None


def package_name_problem(name: str) -> str | None:
    """Whether this may be the base name of a package (wire.md W1)."""
    if len(name) > MAX_PACKAGE_NAME or not _PACKAGE.fullmatch(name) or name.startswith("."):
        return "a package name has only letters, digits, '.', '_' and '-', and ends in .zip"
    return None


def is_group_name(name: str) -> bool:
    """Whether a group of agents may have this name (wdb.md 3.20)."""
    return _GROUP.fullmatch(name) is not None and name not in (".", "..")


def is_utf8(name: str) -> bool:
    """Whether the name of a file, as Python reads it from a directory, is UTF-8. Others are not synchronised."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

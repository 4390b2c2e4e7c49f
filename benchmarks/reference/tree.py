"""Files of a node to metadata, two nodes' metadata to groups, and groups applied (wire.md 5.1, 5.2, 5.5, 5.9)."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

Files = dict[str, dict[str, Any]]
"""Path relative to the root to its metadata."""

ITEMS: dict[str, tuple[tuple[str, ...], bool, int, bool]] = {
    "etc/": (("client.keys",), False, 0o640, False),
    "etc/shared/": (("all",), True, 0o660, True),
    "var/multigroups/": (("merged.mg",), True, 0o660, True),
    "etc/rules/": (("all",), True, 0o660, False),
    "etc/decoders/": (("all",), True, 0o660, False),
    "etc/lists/": (("all",), True, 0o660, False),
}
"""Key to names, recursive, permissions, remove_subdirs_if_empty."""
EXCLUDED = ("ar.conf", "ossec.conf")
EXTENSIONS = ("~", ".tmp", ".lock", ".swp")
READ_BYTES = 65536


def digest_of(path: str) -> str:
    hasher = hashlib.blake2b()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(READ_BYTES):
            hasher.update(data)
    return hasher.hexdigest()


def scan(root: Path, previous: Files) -> Files:
    """Returns all files; an entry of `previous` with the same modification time is reused. Files that vanish meanwhile
    are left out."""
    found: Files = {}
    base = str(root)
    for key, (wanted, recursive, _, _) in ITEMS.items():
        for directory, below, names in os.walk(os.path.join(base, key)):
            if not recursive:
                below.clear()
            for name in names:
                if name in EXCLUDED or name.endswith(EXTENSIONS) or (wanted != ("all",) and name not in wanted):
                    continue
                full = os.path.join(directory, name)
                path = full[len(base) + 1 :]
                try:
                    changed_at = os.stat(full).st_mtime
                    known = previous.get(path)
                    if known is not None and known["mod_time"] == changed_at:
                        found[path] = known
                        continue
                    digest = digest_of(full)
                except FileNotFoundError:
                    continue
                found[path] = {"mod_time": changed_at, "cluster_item_key": key, "merged": False, "hash": digest}
    return found


def compare(master: Files, worker: Files) -> dict[str, Files]:
    """Returns the three groups in their order on the wire."""
    ours, theirs = master.keys(), worker.keys()
    return {
        "missing": {path: master[path] for path in ours - theirs},
        "extra": {path: worker[path] for path in theirs - ours},
        "shared": {path: master[path] for path in ours & theirs if master[path]["hash"] != worker[path]["hash"]},
    }


def apply(root: Path, unpacked: Path, groups: dict[str, Files]) -> list[str]:
    """Puts files in place one by one; returns one text for each failure. Raises ValueError for a path that leaves the
    root."""
    problems: list[str] = []
    emptied: set[str] = set()
    for group in ("missing", "extra", "shared"):
        for path, entry in groups[group].items():
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"path leaves the directory: {path!r}")
            target = os.path.join(root, path)
            directory, name = os.path.split(target)
            _, _, mode, removes_empty = ITEMS[entry["cluster_item_key"]]
            try:
                if group == "extra":
                    os.unlink(target)
                    if removes_empty:
                        emptied.add(directory)
                    continue
                os.makedirs(directory, mode=0o770, exist_ok=True)
                beside = os.path.join(directory, f".{name}.tmp")
                os.rename(os.path.join(unpacked, path), beside)
                os.chmod(beside, mode)
                os.rename(beside, target)
            except OSError as error:
                problems.append(f"Error processing {group} file '{path}': {error}")
    for directory in emptied:
        if os.path.isdir(directory) and all(name in EXCLUDED for name in os.listdir(directory)):
            shutil.rmtree(directory, ignore_errors=True)
    return problems

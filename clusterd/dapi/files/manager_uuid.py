"""The identifier of a manager without the stock framework (`uuid`, dapi.md 5.2): made when it is first asked for, and
kept."""

import re
import uuid

from clusterd.dapi.files.tree_files import locked_directory, read_text, write_file
from clusterd.framework.location import rest_of
from hashing.atomic import FileOps
from hashing.errors import FileVanished, HashingError

DIRECTORY, NAME = "etc", "clusterd-uuid"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def manager_uuid(root: str) -> str | None:
    """Returns the identifier, always the same. None where the framework has another one, or ours cannot be kept."""
    if rest_of(root):
        return None
    try:
        found = _kept(root)
        if not found:
            with locked_directory(root, DIRECTORY):
                found = _kept(root)
                if not found:
                    found = str(uuid.uuid4())
                    write_file(FileOps(), root, DIRECTORY, NAME, f"{found}\n".encode())
    except (HashingError, OSError):
        return None
    return found


def _kept(root: str) -> str:
    """Returns an empty text where there is none, or none that is whole."""
    try:
        text = read_text(root, DIRECTORY, NAME, 64).strip()
    except FileVanished:
        return ""
    return text if _UUID.fullmatch(text) else ""

"""Groups of agents: lists, creates and deletes them, and shows their files (dapi.md 5.3)."""

import contextlib
from typing import Annotated, Any, Literal

import msgspec

from clusterd.dapi.files.group_tree import (
    CONFIGURATION,
    DEFAULT,
    MERGED,
    SHARED,
    directory_of,
    group_exists,
    group_names,
    hash_of,
    make_group,
    may_be_group,
    remove_group,
)
from clusterd.dapi.files.membership import forget_group, member_counts, note_group
from clusterd.dapi.files.tree_files import list_files, read_text
from clusterd.dapi.protocol.actions import CREATE_GROUPS, DELETE_GROUPS, SOME_GROUPS
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, Registry
from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list
from clusterd.dapi.ruleset.group_file import Form, UnknownForm, parse_group_file
from clusterd.dapi.ruleset.xml import MalformedXml
from clusterd.wdb.client import DatabaseError
from clusterd.wire.results import BAD_REQUEST, INTERNAL_ERROR, WireException
from hashing.atomic import FileOps
from hashing.errors import FileVanished, HashingError

registry = Registry()

OF_ALL_GROUPS = "ar.conf"
"""A file of every group; it lies in etc/shared itself."""
LARGEST_FILE = 8 * 1024 * 1024
"""Most bytes of a file that is shown."""
Algorithm = Literal[
    "md5",
    "sha1",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "blake2b",
    "blake2s",
    "sha3_224",
    "sha3_256",
    "sha3_384",
    "sha3_512",
]
OneName = Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]
_GROUP_FIELDS = ("name", "count", "mergedSum", "configSum")
_GROUPS = Shape(_GROUP_FIELDS, _GROUP_FIELDS, ("name",), ("name",))
_FILE_FIELDS = ("filename", "hash")
_FILES = Shape(_FILE_FIELDS, _FILE_FIELDS, ("filename",), ("filename",))


class GroupList(ListArguments, frozen=True):
    group_list: list[str] | None = None
    hash_algorithm: Algorithm = "md5"


class GroupToAdd(Arguments, frozen=True):
    group_id: str


class DeletedGroups(Arguments, frozen=True):
    """`group_list`: None for all but `default`."""

    group_list: list[str] | None = None


class GroupFiles(ListArguments, frozen=True, kw_only=True):
    group_list: OneName
    hash_algorithm: Algorithm = "md5"


class GroupFile(Arguments, frozen=True):
    """`type_conf`: how the file is to be parsed, None for the type that its name implies; the raw text has no type."""

    group_list: OneName
    filename: str
    type_conf: Form | None = None
    raw: bool = False


@registry.function("wazuh.agent", "get_agent_groups", needs=(SOME_GROUPS,))
def get_agent_groups(call: Call, given: GroupList) -> Items:
    """Returns the groups with the number of their agents and the hashes of merged.mg and agent.conf; the hash of a
    missing file is left out. Groups that do not exist are failed items 1710."""
    there = _names(call.root)
    named = frozenset(given.group_list or ())
    wanted = there if given.group_list is None else [name for name in there if name in named]
    counts = member_counts(call.database)
    found = [_group(call.root, name, counts.get(name, 0), given.hash_algorithm) for name in wanted]
    page, total = cut_list(found, given, _GROUPS)
    items = Items(
        "All selected groups were returned",
        "Some groups were not returned",
        "No group was returned",
        affected=page,
        total=total,
        sort_fields=["name"],
    )
    items.fail_all(sorted(named.difference(wanted)), _unknown())
    return items


@registry.function("wazuh.agent", "create_group", needs=(CREATE_GROUPS,))
def create_group(call: Call, given: GroupToAdd) -> dict[str, Any]:
    """Returns `{"message"}`. Raises WireException 1722 for an invalid name, 1711 for an existing group, 1713 for
    anything else of that name, 1006 when it cannot be written."""
    name = given.group_id
    if not may_be_group(name):
        raise WireException(1722)
    try:
        make_group(FileOps(), call.root, name)
    except FileExistsError:
        raise WireException(1711 if group_exists(call.root, name) else 1713, name, wire_class=BAD_REQUEST) from None
    except (HashingError, OSError) as failure:
        raise _inaccessible(directory_of(name), failure) from None
    # The database follows the directories by itself. Adding the row now lets a client assign agents at once.
    with contextlib.suppress(DatabaseError):
        note_group(call.database, name)
    return {"message": f"Group '{name}' was created"}


@registry.function("wazuh.agent", "delete_groups", needs=(DELETE_GROUPS,))
def delete_groups(call: Call, given: DeletedGroups) -> Items:
    """Returns the names of the groups that were removed. Their agents without another group are in `default` then.
    Failed items: 1710, 1712 for `default`, 1006."""
    items = Items("All selected groups were deleted", "Some groups were not deleted", "No group was deleted")
    if given.group_list is None:
        wanted = [name for name in _names(call.root) if name != DEFAULT]
    else:
        wanted = sorted(set(given.group_list))
    for name in wanted:
        if name == DEFAULT:
            items.fail(name, WireException(1712))
            continue
        try:
            remove_group(call.root, name)
        except FileVanished:
            items.fail(name, _unknown())
            continue
        except (HashingError, OSError) as failure:
            items.fail(name, _inaccessible(directory_of(name), failure))
            continue
        # As above: the database would notice by itself, some seconds later.
        with contextlib.suppress(DatabaseError):
            forget_group(call.database, name)
        items.affected.append(name)
    return items


@registry.function("wazuh.agent", "get_group_files", needs=(SOME_GROUPS,))
def get_group_files(call: Call, given: GroupFiles) -> Items:
    """Returns the files of a group's directory and ar.conf, with their hashes. Raises WireException 1710, 1727 when
    they cannot be read."""
    (group,) = given.group_list
    directory = directory_of(group)
    if not group_exists(call.root, group):
        raise _unknown()
    try:
        files = [(directory, name) for _, name in list_files(call.root, directory)]
        files.append((SHARED, OF_ALL_GROUPS))
        hashes = [(name, hash_of(call.root, place, name, given.hash_algorithm)) for place, name in files]
    except (HashingError, OSError) as failure:
        raise WireException(1727, _reason(failure), wire_class=INTERNAL_ERROR) from None
    found = [{"filename": name, "hash": text} for name, text in hashes if text is not None]
    page, total = cut_list(found, given, _FILES)
    return Items(
        "All selected files of the group were returned",
        none_msg="No file of the group was returned",
        affected=page,
        total=total,
        sort_fields=["filename"],
    )


@registry.function("wazuh.agent", "get_file_conf", needs=(SOME_GROUPS,))
def get_file_conf(call: Call, given: GroupFile) -> dict[str, Any]:
    """Returns `{"data"}`: the text of a file of the group or of ar.conf, or the content parsed into objects. Raises
    WireException 1710; 1006, also for a file that can only be shown as text; 1113 for a malformed file."""
    (group,) = given.group_list
    name = given.filename
    if not group_exists(call.root, group):
        raise _unknown()
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise WireException(1006, name[:255], wire_class=BAD_REQUEST)
    directory = directory_of(group) if name != OF_ALL_GROUPS else SHARED
    try:
        text = read_text(call.root, directory, name, LARGEST_FILE)
        return {"data": text if given.raw else parse_group_file(name, text, given.type_conf)}
    except UnknownForm:
        why = f"{name[:255]} has no other form than its text: ask for it with raw=true"
        raise WireException(1006, why, wire_class=BAD_REQUEST) from None
    except MalformedXml as failure:
        raise WireException(1113, f"{name[:255]}: {failure}", wire_class=BAD_REQUEST) from None
    except (HashingError, OSError) as failure:
        raise WireException(1006, f"{name[:255]}: {_reason(failure)}", wire_class=BAD_REQUEST) from None


def _names(root: str) -> list[str]:
    try:
        return group_names(root)
    except (HashingError, OSError) as failure:
        raise _inaccessible(SHARED, failure) from None


def _group(root: str, name: str, count: int, algorithm: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": name, "count": count}
    for field, file in (("mergedSum", MERGED), ("configSum", CONFIGURATION)):
        try:
            text = hash_of(root, directory_of(name), file, algorithm)
        except (HashingError, OSError):
            continue  # removed meanwhile, or not ours to read: the group is still one
        if text is not None:
            shown[field] = text
    return shown


def _unknown() -> WireException:
    return WireException(1710)


def _inaccessible(what: str, failure: HashingError | OSError) -> WireException:
    return WireException(1006, f"{what}: {_reason(failure)}")


def _reason(failure: HashingError | OSError) -> str:
    return str(getattr(failure, "strerror", None) or failure)

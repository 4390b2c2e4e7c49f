"""CDB lists: lists, shows, uploads and deletes them (dapi.md 5.6). A list is a file whose name has no dot, below
`etc/lists` or `ruleset/lists`."""

import re
from typing import Any

import msgspec

from clusterd.dapi.files.tree_files import (
    DEEPEST,
    list_files,
    locked_directory,
    mode_of,
    read_text,
    remove_file,
    write_file,
)
from clusterd.dapi.functions.ruleset_files import only_name
from clusterd.dapi.protocol.actions import FILES
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, Registry
from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list
from clusterd.dapi.ruleset.cdb import entries, is_list
from clusterd.wire.results import BAD_REQUEST, WireException
from hashing.atomic import FileOps
from hashing.errors import FileVanished, HashingError

registry = Registry()
NEEDS = FILES["list"]

USER_DIRECTORY = "etc/lists"
DIRECTORIES = (USER_DIRECTORY, "ruleset/lists")
LARGEST_LIST = 16 * 1024 * 1024
"""Most bytes of one list."""
LARGEST_ANSWER = 32 * 1024 * 1024
"""Most bytes of all lists of one answer. They are held as objects, which take about ten times the memory."""
LIST_NAME = re.compile(r"[\w-]{1,250}", re.ASCII)
_MODULE = "wazuh.cdb_list"
_PATH_FIELDS = ("relative_dirname", "filename")


class ListLists(ListArguments, frozen=True):
    filename: list[str] | None = None
    relative_dirname: str | None = None


class ShowList(Arguments, frozen=True):
    """`raw`: the unparsed text, instead of the list's entries."""

    filename: str | list[str]
    raw: bool = False


class UploadList(Arguments, frozen=True):
    filename: str | list[str]
    content: str
    overwrite: bool = False


class DeleteList(Arguments, frozen=True):
    filename: str | list[str]


class ListFile(msgspec.Struct, frozen=True, order=True):
    """One existing list; fields as in the answers."""

    relative_dirname: str
    filename: str

    @property
    def path(self) -> str:
        return f"{self.relative_dirname}/{self.filename}"


@registry.function(_MODULE, "get_path_lists", needs=(NEEDS.read,))
def get_path_lists(call: Call, given: ListLists) -> Items:
    """Finds the lists. Raises WireException 1803, 1804 for directories that cannot be read."""
    files = [msgspec.structs.asdict(file) for file in _wanted(call.root, given)]
    page, total = cut_list(files, given, Shape(_PATH_FIELDS, _PATH_FIELDS, _PATH_FIELDS, _PATH_FIELDS))
    return _listing(page, total)


@registry.function(_MODULE, "get_lists", needs=(NEEDS.read,))
def get_lists(call: Call, given: ListLists) -> Items:
    """Returns the lists with their entries, `{"items": [{"key", "value"}], "relative_dirname", "filename"}`. A list
    that cannot be read is a failed item (1803, 1804). Raises WireException 1803 for more than LARGEST_ANSWER bytes."""
    found: list[dict[str, Any]] = []
    failed: list[tuple[str, WireException]] = []
    left = LARGEST_ANSWER
    for file in _wanted(call.root, given):
        try:
            text = read_text(call.root, file.relative_dirname, file.filename, LARGEST_LIST)
        except FileVanished:
            continue
        except (HashingError, OSError) as failure:
            failed.append((file.path, _reading_failed(failure, file.path)))
            continue
        left -= len(text)
        if left < 0:
            text = f"the lists together have more than {LARGEST_ANSWER} bytes; ask for fewer by filename"
            raise WireException(1803, text, wire_class=BAD_REQUEST)
        pairs = [{"key": key, "value": value} for key, value in entries(text)]
        found.append({"items": pairs, "relative_dirname": file.relative_dirname, "filename": file.filename})
    page, total = cut_list(found, given, Shape(_PATH_FIELDS, ("items", *_PATH_FIELDS), _PATH_FIELDS, _PATH_FIELDS))
    items = _listing(page, total)
    for path, error in failed:
        items.fail(path, error)
    return items


@registry.function(_MODULE, "get_list_file", needs=(NEEDS.read,))
def get_list_file(call: Call, given: ShowList) -> Items | dict[str, Any]:
    """Returns `{"message": text}`, or one object of keys and values as the only item. The failed item: 1802 to 1804."""
    name = only_name(given.filename)
    items = Items("The list was read", none_msg="The list could not be read")
    files = _named(call.root, DIRECTORIES, name)
    if not files:
        items.fail(name, WireException(1802, name, wire_class=BAD_REQUEST))
        return items
    try:
        text = read_text(call.root, files[0].relative_dirname, name, LARGEST_LIST)
    except FileVanished:
        items.fail(name, WireException(1802, name, wire_class=BAD_REQUEST))
    except (HashingError, OSError) as failure:
        items.fail(name, _reading_failed(failure, files[0].path))
    else:
        if given.raw:
            return {"message": text}
        items.affected.append(dict(entries(text)))
    return items


@registry.function(_MODULE, "upload_list_file", needs=(NEEDS.update,))
def upload_list_file(call: Call, given: UploadList) -> Items:
    """Writes a list directly in etc/lists; the item is its path. The failed item, with the path too: 1112, 1800, 1801,
    1805, 1806, 1905. Line ends become those of Unix."""
    items = Items("The list was uploaded", none_msg="The list could not be uploaded")
    name = only_name(given.filename)
    path = f"{USER_DIRECTORY}/{name}"
    content = given.content.replace("\r\n", "\n")
    try:
        _check_name(name)
        if not content.strip():
            raise WireException(1112, wire_class=BAD_REQUEST)
        if len(content) > LARGEST_LIST or not is_list(content):
            raise WireException(1800, {"path": path}, wire_class=BAD_REQUEST)
        with locked_directory(call.root, USER_DIRECTORY):
            _check_unique(call.root, name)
            if not given.overwrite and mode_of(call.root, USER_DIRECTORY, name) is not None:
                raise WireException(1905, path, wire_class=BAD_REQUEST)
            write_file(FileOps(), call.root, USER_DIRECTORY, name, content.encode(errors="replace"))
        items.affected.append(path)
    except WireException as failure:
        items.fail(path, failure)
    except HashingError as failure:
        items.fail(path, WireException(1806, str(failure), wire_class=BAD_REQUEST))
    except OSError as failure:
        items.fail(path, WireException(1806, f"{path}: {failure.strerror or failure}", wire_class=BAD_REQUEST))
    return items


@registry.function(_MODULE, "delete_list_file", needs=(NEEDS.delete,))
def delete_list_file(call: Call, given: DeleteList) -> Items:
    """Removes the list, anywhere below etc/lists, and its compiled form; the item is its path. The failed item, with
    the path too: 1801, 1802, 1907."""
    items = Items("The list was deleted", none_msg="The list could not be deleted")
    name = only_name(given.filename)
    path = f"{USER_DIRECTORY}/{name}"
    try:
        _check_name(name)
        with locked_directory(call.root, USER_DIRECTORY):
            files = _named(call.root, (USER_DIRECTORY,), name)
            if not files:
                raise WireException(1802, name, wire_class=BAD_REQUEST)
            path = files[0].path
            _remove_compiled(call.root, files[0])
            remove_file(FileOps(), call.root, files[0].relative_dirname, name)
        items.affected.append(path)
    except WireException as failure:
        items.fail(path, failure)
    except FileVanished:
        items.fail(path, WireException(1802, name, wire_class=BAD_REQUEST))
    except (HashingError, OSError) as failure:
        why = str(getattr(failure, "strerror", None) or failure)
        items.fail(path, WireException(1907, f"{path}: {why}", wire_class=BAD_REQUEST))
    return items


def _remove_compiled(root: str, file: ListFile) -> None:
    try:
        remove_file(FileOps(), root, file.relative_dirname, f"{file.filename}.cdb")
    except FileVanished:
        return  # never compiled


def _listing(page: list[Any], total: int) -> Items:
    return Items(
        "All lists were read",
        "Some lists could not be read",
        "No list was found",
        affected=page,
        total=total,
    )


def _all_lists(root: str, directories: tuple[str, ...]) -> list[ListFile]:
    """Raises WireException 1803, 1804."""
    found: list[ListFile] = []
    for directory in directories:
        try:
            files = list_files(root, directory, depth=DEEPEST)
        except FileVanished:
            continue
        except (HashingError, OSError) as failure:
            raise _reading_failed(failure, directory) from None
        found.extend(ListFile(place, name) for place, name in files if "." not in name and "~" not in name)
    return found


def _named(root: str, directories: tuple[str, ...], name: str) -> list[ListFile]:
    return [file for file in _all_lists(root, directories) if file.filename == name]


def _wanted(root: str, given: ListLists) -> list[ListFile]:
    names = None if given.filename is None else frozenset(given.filename)
    directory = given.relative_dirname and given.relative_dirname.rstrip("/")
    return [
        file
        for file in sorted(_all_lists(root, DIRECTORIES))
        if (names is None or file.filename in names) and (directory is None or file.relative_dirname == directory)
    ]


def _reading_failed(failure: HashingError | OSError, path: str) -> WireException:
    return WireException(1804 if isinstance(failure, PermissionError) else 1803, path, wire_class=BAD_REQUEST)


def _check_name(name: str) -> None:
    """Raises WireException 1801."""
    if not LIST_NAME.fullmatch(name):
        raise WireException(1801, name[:500], wire_class=BAD_REQUEST)


def _check_unique(root: str, name: str) -> None:
    """Rules name a list by its path, requests only by its name. Raises WireException 1805."""
    for file in _named(root, (USER_DIRECTORY,), name):
        if file.relative_dirname != USER_DIRECTORY:
            raise WireException(1805, file.path, wire_class=BAD_REQUEST)

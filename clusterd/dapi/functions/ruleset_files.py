"""Files of rules and decoders: lists, shows, uploads and deletes them (dapi.md 5.6). Both kinds have the same
functions.

An uploaded file is not tested with the analysis daemon, which loads it at its next restart.
"""

import re
import stat
from typing import Any

import msgspec

from clusterd.dapi.files.tree_files import locked_directory, mode_of, read_text, remove_file, write_file
from clusterd.dapi.protocol.actions import FILES
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, Registry
from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list
from clusterd.dapi.ruleset.config import DECODERS, RULES, Kind, RulesetFile, loaded_files, read_section
from clusterd.dapi.ruleset.xml import LARGEST_XML, MalformedXml, as_objects, check_upload, parse_ruleset
from clusterd.wire.results import BAD_REQUEST, WireException
from hashing.atomic import FileOps
from hashing.errors import FileVanished, HashingError

registry = Registry()

FILE_NAME = re.compile(r"[\w-]{1,251}\.xml", re.ASCII)
DIRECTORY_NAME = re.compile(r"[\w-]{1,255}(?:/[\w-]{1,255}){0,10}", re.ASCII)
STATUSES = ("enabled", "disabled", "all")
_FIELDS = ("filename", "relative_dirname", "status")


class ListFiles(ListArguments, frozen=True):
    """`status`: one of STATUSES, None for all."""

    status: str | None = None
    filename: list[str] | None = None
    relative_dirname: str | None = None


class ShowFile(Arguments, frozen=True):
    """`raw`: the unparsed text, instead of the parsed document."""

    filename: str | list[str]
    raw: bool = False
    relative_dirname: str | None = None


class UploadFile(Arguments, frozen=True):
    """`relative_dirname`: None for the kind's own directory below etc."""

    filename: str | list[str]
    content: str
    overwrite: bool = False
    relative_dirname: str | None = None


class DeleteFile(Arguments, frozen=True):
    """As UploadFile."""

    filename: str | list[str]
    relative_dirname: str | None = None


def only_name(given: str | list[str]) -> str:
    """Returns the requested filename, as a list for the permissions. Raises WireException 1202 for none or several."""
    if isinstance(given, str):
        return given
    if len(given) != 1:
        raise WireException(1202, "filename", wire_class=BAD_REQUEST)
    return given[0]


def wanted_files(files: list[RulesetFile], given: ListFiles) -> list[RulesetFile]:
    """Returns the files that match `status`, `filename` and `relative_dirname`. Raises WireException 1202 for another
    status."""
    if given.status is not None and given.status not in STATUSES:
        raise WireException(1202, f"status: {', '.join(STATUSES)}", wire_class=BAD_REQUEST)
    names = None if given.filename is None else frozenset(given.filename)
    directory = given.relative_dirname and given.relative_dirname.rstrip("/")
    return [
        file
        for file in files
        if (given.status in (None, "all", file.status))
        and (names is None or file.filename in names)
        and (directory is None or file.relative_dirname == directory)
    ]


def list_kind(call: Call, given: ListFiles, kind: Kind) -> Items:
    """Returns the existing files that the configuration names. Raises WireException."""
    files = [msgspec.structs.asdict(file) for file in wanted_files(loaded_files(call.settings, kind), given)]
    page, total = cut_list(files, given, Shape(_FIELDS, _FIELDS, ("filename",), ("filename",)))
    return Items(
        f"All {kind.words} files were read",
        f"Some {kind.words} files could not be read",
        f"No {kind.words} file was found",
        affected=page,
        total=total,
    )


def show_file(call: Call, given: ShowFile, kind: Kind) -> Items | dict[str, Any]:
    """Returns `{"message": text}`, or the parsed document as the only item. Shows files of the configuration only; if
    several have the name, the first by directory. The failed item: 1413 to 1415, or 1501 to 1503."""
    name = only_name(given.filename)
    items = Items(f"The {kind.words} file was read", none_msg=f"The {kind.words} file could not be read")
    wanted = ListFiles(filename=[name], relative_dirname=given.relative_dirname)
    files = wanted_files(loaded_files(call.settings, kind), wanted)
    if not files:
        items.fail(name, WireException(kind.not_found, name, wire_class=BAD_REQUEST))
        return items
    try:
        text = read_text(call.root, files[0].relative_dirname, name, LARGEST_XML)
        if given.raw:
            return {"message": text}
        items.affected.append(as_objects(parse_ruleset(text)))
    except FileVanished:
        items.fail(name, WireException(kind.not_found, name, wire_class=BAD_REQUEST))
    except MalformedXml as failure:
        items.fail(name, WireException(kind.unreadable, f"{files[0].path}: {failure}", wire_class=BAD_REQUEST))
    except (HashingError, OSError) as failure:
        items.fail(name, kind.reading_failed(failure, files[0].path))
    return items


def upload_file(call: Call, given: UploadFile, kind: Kind) -> Items:
    """Writes the file; the item is its path relative to the root. The failed item, with the path too: 1006, 1112, 1113,
    1905, and 1209 to 1211 or 1505 to 1507."""
    items = Items(f"The {kind.words} file was uploaded", none_msg=f"The {kind.words} file could not be uploaded")
    name = only_name(given.filename)
    directory = _directory(given.relative_dirname, kind)
    path = f"{directory}/{name}"
    try:
        _check_place(directory, name, kind)
        _check_content(given.content)
        if directory not in read_section(call.settings, kind).directories:
            raise WireException(kind.not_loaded, directory, wire_class=BAD_REQUEST)
        with locked_directory(call.root, directory):
            if not given.overwrite and mode_of(call.root, directory, name) is not None:
                raise WireException(1905, path, wire_class=BAD_REQUEST)
            write_file(FileOps(), call.root, directory, name, given.content.encode(errors="replace"))
        items.affected.append(path)
    except WireException as failure:
        items.fail(path, failure)
    except FileVanished:
        items.fail(path, WireException(kind.no_directory, directory, wire_class=BAD_REQUEST))
    except HashingError:
        items.fail(path, WireException(kind.not_allowed, path, wire_class=BAD_REQUEST))
    except OSError as failure:
        items.fail(path, WireException(1006, f"{path}: {failure.strerror or failure}", wire_class=BAD_REQUEST))
    return items


def delete_file(call: Call, given: DeleteFile, kind: Kind) -> Items:
    """Removes the file; the item is its path relative to the root. The failed item, with the path too: 1906, 1907, and
    1210 or 1506."""
    items = Items(f"The {kind.words} file was deleted", none_msg=f"The {kind.words} file could not be deleted")
    name = only_name(given.filename)
    directory = _directory(given.relative_dirname, kind)
    path = f"{directory}/{name}"
    try:
        _check_place(directory, name, kind)
        with locked_directory(call.root, directory):
            mode = mode_of(call.root, directory, name)
            if mode is None or not stat.S_ISREG(mode):
                raise WireException(1906, path, wire_class=BAD_REQUEST)
            remove_file(FileOps(), call.root, directory, name)
        items.affected.append(path)
    except WireException as failure:
        items.fail(path, failure)
    except FileVanished:
        items.fail(path, WireException(1906, path, wire_class=BAD_REQUEST))
    except HashingError:
        items.fail(path, WireException(kind.not_allowed, path, wire_class=BAD_REQUEST))
    except OSError as failure:
        items.fail(path, WireException(1907, f"{path}: {failure.strerror or failure}", wire_class=BAD_REQUEST))
    return items


def _directory(given: str | None, kind: Kind) -> str:
    return kind.user_directory if given is None else given.rstrip("/")


def _check_place(directory: str, name: str, kind: Kind) -> None:
    """Raises WireException 1210 or 1506 for a path outside the directory of the user's own files."""
    if (
        not FILE_NAME.fullmatch(name)
        or not DIRECTORY_NAME.fullmatch(directory)
        or not f"{directory}/".startswith(f"{kind.user_directory}/")
    ):
        raise WireException(kind.not_allowed, f"{directory}/{name}"[:500], wire_class=BAD_REQUEST)


def _check_content(content: str) -> None:
    """Raises WireException 1112, 1113."""
    if not content.strip():
        raise WireException(1112, wire_class=BAD_REQUEST)
    try:
        check_upload(content)
    except MalformedXml as failure:
        raise WireException(1113, str(failure), wire_class=BAD_REQUEST) from None


def _register(kind: Kind) -> None:
    needs = FILES[kind.word]

    @registry.function(kind.module, f"get_{kind.words}_files", needs=(needs.read,))
    def get_files(call: Call, given: ListFiles) -> Items:
        return list_kind(call, given, kind)

    @registry.function(kind.module, f"get_{kind.word}_file", needs=(needs.read,))
    def get_file(call: Call, given: ShowFile) -> Items | dict[str, Any]:
        return show_file(call, given, kind)

    @registry.function(kind.module, f"upload_{kind.word}_file", needs=(needs.update,))
    def upload(call: Call, given: UploadFile) -> Items:
        return upload_file(call, given, kind)

    @registry.function(kind.module, f"delete_{kind.word}_file", needs=(needs.delete,))
    def delete(call: Call, given: DeleteFile) -> Items:
        return delete_file(call, given, kind)


for _kind in (RULES, DECODERS):
    _register(_kind)

"""Which files of rules and decoders a node loads: the `ruleset` section of its ossec.conf (dapi.md 5.6)."""

import os
import stat
from pathlib import Path
from typing import Literal

import msgspec

from clusterd.config.loading import OSSEC_CONF
from clusterd.config.markup import Document, TooMuch
from clusterd.config.ossec_conf import read_conf
from clusterd.dapi.files.tree_files import TooManyFiles, list_files, mode_of
from clusterd.settings import Settings
from clusterd.wire.results import BAD_REQUEST, WireException
from hashing.errors import HashingError
from hashing.rules import path_ok

Status = Literal["enabled", "disabled"]
_ROOTS = ("etc", "ruleset")


class Kind(msgspec.Struct, frozen=True):
    """Rules or decoders: everything in which the functions for the two kinds differ. `words`: the plural, which is also
    the name of the directories; the last fields are error codes (dapi.md appendix B)."""

    module: str
    word: Literal["rule", "decoder"]
    words: str
    bad_section: int
    unreadable: int
    not_permitted: int
    not_found: int
    no_directory: int
    not_allowed: int
    not_loaded: int

    @property
    def user_directory(self) -> str:
        """The directory for uploads; nothing else is written or removed."""
        return f"etc/{self.words}"

    def reading_failed(self, failure: HashingError | OSError, path: str) -> WireException:
        """Returns the error for the asker when a file or directory could not be read. The path is relative to the
        root."""
        code = self.not_permitted if isinstance(failure, PermissionError) else self.unreadable
        return WireException(code, path, wire_class=BAD_REQUEST)


RULES = Kind("wazuh.rule", "rule", "rules", 1200, 1413, 1414, 1415, 1209, 1210, 1211)
DECODERS = Kind("wazuh.decoder", "decoder", "decoders", 1500, 1501, 1502, 1503, 1505, 1506, 1507)


class RulesetFile(msgspec.Struct, frozen=True):
    """One existing file; disabled: excluded by the section. Its fields are those of the answers."""

    filename: str
    relative_dirname: str
    status: Status

    @property
    def path(self) -> str:
        return f"{self.relative_dirname}/{self.filename}"


class Section(msgspec.Struct, frozen=True):
    """The settings for one kind: directories and single files relative to the root, and names or paths that are
    excluded."""

    directories: tuple[str, ...]
    included: tuple[str, ...]
    excluded: frozenset[str]


def read_section(settings: Settings, kind: Kind) -> Section:
    """Reads the section's settings for this kind. Without a section, or with one that names neither directories nor
    files, the stock directories `ruleset/…` and `etc/…` apply. Raises WireException 1200 or 1500 for an ossec.conf that
    cannot be read."""
    path = Path(settings.conf) if settings.conf else Path(settings.root, OSSEC_CONF)
    try:
        document = read_conf(path)
    except FileNotFoundError:
        document = Document("")
    except (OSError, TooMuch, ValueError):
        raise WireException(kind.bad_section, OSSEC_CONF, wire_class=BAD_REQUEST) from None
    sections = document.sections("ruleset")
    # A fault elsewhere in the file does not matter here, unless no section was found: then the fault may hide it.
    faults = [fault for section in sections for fault in document.complaints_in(section)]
    faults = faults if sections else document.complaints
    if faults:
        raise WireException(kind.bad_section, f"{OSSEC_CONF}, {faults[0]}", wire_class=BAD_REQUEST)
    values: dict[str, list[str]] = {"dir": [], "include": [], "exclude": []}
    for section in sections:
        for option in section.children:
            what = option.name.removeprefix(f"{kind.word}_")
            if option.name == f"{kind.word}_{what}" and what in values:
                values[what].append(_relative(settings.root, option.text))
    directories = [value for value in values["dir"] if value.split("/")[0] in _ROOTS]
    included = [value if "/" in value else f"ruleset/{kind.words}/{value}" for value in values["include"] if value]
    included = [value for value in included if value.split("/")[0] in _ROOTS]
    if not directories and not included:
        directories = [f"ruleset/{kind.words}", kind.user_directory]
    return Section(tuple(dict.fromkeys(directories)), tuple(included), frozenset(values["exclude"]))


def _relative(root: str, value: str) -> str:
    """Returns the path relative to the root, empty for a path outside it."""
    path = value.removeprefix(f"{root.rstrip('/')}/").rstrip("/")
    return path if path_ok(path) is None else ""


def loaded_files(settings: Settings, kind: Kind) -> list[RulesetFile]:
    """Returns the existing files, sorted by directory and name. Subdirectories are not searched (a directory of the
    section stands for its `*.xml`). Raises WireException: 1200, 1413, 1414 or 1500, 1501, 1502."""
    section = read_section(settings, kind)
    found: dict[tuple[str, str], None] = {}
    for directory in section.directories:
        try:
            found.update(dict.fromkeys(list_files(settings.root, directory)))
        except (TooManyFiles, PermissionError) as failure:
            raise kind.reading_failed(failure, directory) from None
        except (HashingError, OSError):
            continue  # a directory of the section that is not there, or is a link: nothing is read from it
    for path in section.included:
        directory, _, name = path.rpartition("/")
        try:
            mode = mode_of(settings.root, directory, name)
        except (HashingError, OSError):
            continue
        if mode is not None and stat.S_ISREG(mode):
            found[directory, name] = None
    return [
        RulesetFile(name, directory, _status(section, directory, name))
        for directory, name in sorted(found)
        if os.path.splitext(name)[1] == ".xml"
    ]


def loaded_names(settings: Settings, word: str) -> list[str]:
    """Returns the names of the files of this kind. If the configuration cannot be read there are none, and then no
    request gets any of them."""
    try:
        return [file.filename for file in loaded_files(settings, RULES if word == RULES.word else DECODERS)]
    except WireException:
        return []


def _status(section: Section, directory: str, name: str) -> Status:
    return "disabled" if section.excluded & {name, f"{directory}/{name}"} else "enabled"

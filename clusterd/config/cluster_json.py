"""etc/cluster.json (wire.md 7.1 and our section `clusterd`): the file overrides any part of the built-in defaults."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from clusterd.config.json_section import ABSENT, JsonSection, read_struct
from clusterd.config.own_section import read_clusterd
from clusterd.config.problem import Problem, shown
from clusterd.errors import ClusterError
from clusterd.settings import DEFAULT_RULES, LARGEST_BYTES, Communication, MasterIntervals, Settings, WorkerIntervals
from hashing.rules import ItemRule, Rules

LARGEST_FILE = 4 * 1024 * 1024
_MOST_DIGITS = 30


class JsonRead(msgspec.Struct):
    """The result of reading the file. Use `settings` only if there are no problems."""

    settings: Settings
    problems: list[Problem] = msgspec.field(default_factory=list)
    warnings: list[Problem] = msgspec.field(default_factory=list)


def read_json(path: Path, settings: Settings) -> JsonRead:
    """`settings` overridden by what the file says; a missing file overrides nothing."""
    found = JsonRead(settings)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        return found
    except OSError as failure:
        found.problems.append(_unreadable(path, "", f"cannot be read: {failure.strerror or failure}"))
        return found
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        found.problems.append(_unreadable(path, f"line {line}", "bytes that are no UTF-8; save this file as UTF-8"))
        return found
    if len(data) > LARGEST_FILE:
        found.problems.append(_unreadable(path, "", f"larger than {LARGEST_FILE} bytes"))
        return found
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        twice.extend(name for name, count in counts.items() if count > 1)
        return dict(pairs)

    try:
        content = json.loads(text, parse_int=_integer, object_pairs_hook=members)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        found.problems.append(_unreadable(path, "", "a text holds half a character, an escape from \\ud800 to \\udfff"))
        return found
    except json.JSONDecodeError as failure:
        found.problems.append(_unreadable(path, f"line {failure.lineno}", f"this is not JSON: {failure.msg}"))
        return found
    except RecursionError:
        found.problems.append(_unreadable(path, "", "this is not JSON: nested too deeply"))
        return found
    reader = _JsonReader(str(path), found)
    for name in dict.fromkeys(twice):
        reader.warn(name, "this key is given more than once in one object; the last one counts")
    reader.read(content)
    return found


def _integer(digits: str) -> int | float:
    """No setting is so large, and Python refuses to parse thousands of digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _unreadable(path: Path, where: str, text: str) -> Problem:
    return Problem(str(path), where, text, stock_text=str(ClusterError(3005, text)))


class _JsonReader:
    def __init__(self, file: str, found: JsonRead) -> None:
        self._file = file
        self._found = found

    def wrong(self, where: str, allowed: str, value: object) -> None:
        self._found.problems.append(Problem(self._file, where, "this value is not allowed", allowed, shown(value)))

    def unknown(self, where: str) -> None:
        self.warn(where, "this key is not known and is ignored")

    def warn(self, where: str, text: str) -> None:
        self._found.warnings.append(Problem(self._file, where, text))

    def read(self, content: object) -> None:
        if not isinstance(content, dict):
            self._found.problems.append(Problem(self._file, "", "this is no object", "a JSON object", shown(content)))
            return
        top = JsonSection(self, "", content)
        intervals = top.section("intervals")
        worker, master = intervals.section("worker"), intervals.section("master")
        communication = intervals.section("communication")
        dapi = top.section("distributed_api")
        own = top.section("clusterd")
        pool_size = worker.number("process_pool_size", ABSENT, 0, 32, whole=True)
        if pool_size is ABSENT:
            pool_size = master.number("process_pool_size", 0, 0, 32, whole=True)
        else:
            master.take("process_pool_size")
        settings = self._found.settings
        self._found.settings = msgspec.structs.replace(
            settings,
            rules=self._rules(top.section("files"), own.directories("link_targets")),
            worker=read_struct(worker, WorkerIntervals),
            master=read_struct(master, MasterIntervals),
            communication=self._communication(communication),
            clusterd=read_clusterd(own, settings.root, self.warn),
            pool_size=pool_size,
            dapi_enabled=dapi.boolean("enabled", True),
        )
        for section in (top, intervals, dapi):
            section.done()

    def _communication(self, section: JsonSection) -> Communication:
        base = Communication()
        largest = section.number("max_zip_size", base.max_zip_size_bytes, 1024, LARGEST_BYTES, whole=True)
        least = section.number("min_zip_size", base.min_zip_size_bytes, 1024, LARGEST_BYTES, whole=True)
        if least > largest:
            section.wrong("min_zip_size", f"at most max_zip_size ({largest})", least)
        return read_struct(section, Communication, max_zip_size_bytes=largest, min_zip_size_bytes=least)

    # ---- files -------------------------------------------------------------------------------------------------------

    def _rules(self, section: JsonSection, link_targets: tuple[str, ...]) -> Rules:
        """Directories named in the file replace or join the built-in ones; `null` takes one out."""
        items = {item.key: item for item in DEFAULT_RULES.items}
        excluded_files = section.texts("excluded_files", DEFAULT_RULES.excluded_files)
        extensions = section.texts("excluded_extensions", DEFAULT_RULES.excluded_extensions)
        for key in section.keys:
            if key in ("excluded_files", "excluded_extensions"):
                continue
            if section.take(key) is None:
                items.pop(key, None)
                continue
            if not _is_directory_key(key):
                section.wrong(key, "a directory below the root, like etc/rules/, with a slash at its end", key)
                section.section(key)
                continue
            items[key] = self._item(key, section.section(key), items.get(key))
        section.done()
        return Rules(tuple(items.values()), excluded_files, extensions, link_targets)

    def _item(self, key: str, section: JsonSection, base: ItemRule | None) -> ItemRule:
        base = base or ItemRule(key, ("all",), True, 0o660)
        permissions = section.text("permissions", oct(base.permissions), 'a mode as text, like "0o640"', _is_mode)
        for unused in ("source", "description", "restart"):
            section.take(unused)
        item = ItemRule(
            key,
            section.texts("files", base.files),
            section.boolean("recursive", base.recursive),
            int(permissions, 8),
            section.boolean("remove_subdirs_if_empty", base.remove_subdirs_if_empty),
            section.boolean("extra_valid", base.extra_valid),
        )
        section.done()
        return item


def _is_directory_key(key: str) -> bool:
    parts = key.split("/")
    return (
        key.endswith("/")
        and not key.startswith("/")
        and "\0" not in key
        and all(part not in ("", ".", "..") for part in parts[:-1])
    )


def _is_mode(value: str) -> bool:
    try:
        return 0 <= int(value, 8) <= 0o777
    except ValueError:
        return False

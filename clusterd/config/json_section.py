"""One object of a JSON file of settings, read by the types and bounds that each setting has. What is wrong is told with
its key path; the default then stays.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

ABSENT: Any = object()
"""The value of a key that is not there."""


class ProblemTaker(Protocol):
    """The reader of the file."""

    def wrong(self, where: str, allowed: str, value: object) -> None:
        """The value at this key path is not what is `allowed`."""

    def unknown(self, where: str) -> None:
        """No setting has this key."""


class JsonSection:
    """One JSON object, with its key path. Remembers which keys were asked for; the rest is unknown."""

    def __init__(self, reader: ProblemTaker, path: str, content: Mapping[str, Any]) -> None:
        self._reader = reader
        self._path = path
        self._content = content
        self._asked: set[str] = set()

    def where(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def take(self, key: str) -> Any:
        self._asked.add(key)
        return self._content.get(key, ABSENT)

    def section(self, key: str) -> "JsonSection":
        value = self.take(key)
        if value is ABSENT:
            value = {}
        elif not isinstance(value, dict):
            self.wrong(key, "an object", value)
            value = {}
        return JsonSection(self._reader, self.where(key), value)

    def wrong(self, key: str, allowed: str, value: object) -> None:
        self._reader.wrong(self.where(key), allowed, value)

    def number(self, key: str, default: Any, lowest: float, highest: float, *, whole: bool = False) -> Any:
        value = self.take(key)
        if value is ABSENT:
            return default
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if good and whole:
            good = value == int(value)
        if not good or not lowest <= value <= highest:
            kind = "a whole number" if whole else "a number"
            self.wrong(key, f"{kind} from {lowest:g} to {highest:g}", value)
            return default
        return int(value) if whole else value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.take(key)
        if value is ABSENT:
            return default
        if not isinstance(value, bool):
            self.wrong(key, "true, false", value)
            return default
        return value

    def text(self, key: str, default: str, allowed: str, is_good: Callable[[str], bool]) -> str:
        value = self.take(key)
        if value is ABSENT:
            return default
        if not isinstance(value, str) or "\0" in value or not is_good(value):
            self.wrong(key, allowed, value)
            return default
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.take(key)
        if value is ABSENT:
            return default
        if not isinstance(value, list) or not all(_is_name(item) for item in value):
            self.wrong(key, "a list of names without slashes", value)
            return default
        return tuple(value)

    def directories(self, key: str) -> tuple[str, ...]:
        value = self.take(key)
        if value is ABSENT:
            return ()
        if not isinstance(value, list) or not all(isinstance(path, str) and is_link_target(path) for path in value):
            self.wrong(key, 'a list of absolute paths of directories, like ["/git/rules"]', value)
            return ()
        return tuple(path.rstrip("/") for path in value)

    def done(self) -> None:
        """Report every key that was not asked for as unknown."""
        for key in self._content:
            if key not in self._asked:
                self._reader.unknown(self.where(key))

    @property
    def keys(self) -> list[str]:
        return list(self._content)


def is_link_target(path: str) -> bool:
    """Whether this path may be a target of links. The whole file system may not."""
    return path.startswith("/") and bool(path.strip("/")) and "\0" not in path and ".." not in path.split("/")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "/" not in value and "\0" not in value


def read_struct(section: JsonSection, kind: type[T], **read: Any) -> T:
    """Returns the settings of this section. Each field is read from the key of its name (without `_s`) as its type
    says: bool, a Literal's words, a list of names, or a number or text with the bounds of its msgspec.Meta. `read`:
    fields that the caller has read."""
    for field in msgspec.structs.fields(kind):
        if field.name not in read:
            read[field.name] = _read_field(section, field.name.removesuffix("_s"), field.type, field.default)
    section.done()
    return kind(**read)


def _read_field(section: JsonSection, key: str, declared: Any, default: Any) -> Any:
    if declared is bool:
        return section.boolean(key, default)
    if declared == tuple[str, ...]:
        return section.texts(key, default)
    if get_origin(declared) is Literal:
        words = get_args(declared)
        return section.text(key, default, ", ".join(words), lambda value: value in words)
    assert get_origin(declared) is Annotated, f"{key} has no bounds"
    basic, meta = get_args(declared)
    if basic is str:
        return section.text(key, default, meta.description, lambda value: len(value) >= (meta.min_length or 0))
    return section.number(key, default, meta.ge, meta.le, whole=basic is int)

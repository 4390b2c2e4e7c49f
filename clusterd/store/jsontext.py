"""JSON of the wdb stream socket (wdb.md 2.3, 2.5): what it accepts beyond the standard, the exact form of its answers,
and the rule for chunks."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
ANSWER_BYTES = 65536
CHUNK_BYTES = ANSWER_BYTES - 512
"""Bytes of a chunked answer."""
NEAR = 32
_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""Compact, UTF-8, `/` not escaped."""
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Also matches an unterminated string. Otherwise the search would start again at each quote, and 64 KiB of quotes would
# take a minute.
_NUMBER_OR_TEXT = re.compile(rb'"(?:[^"\\]+|\\.)*+"?|(?<![\d.eE+])(-?)0+(?=\d)', re.DOTALL)


class JsonRefused(Exception):
    """A request that is answered with `err` and this text."""


def near(text: str) -> str:
    """Quotes the beginning of a text that could not be parsed."""
    return f"'{text[:NEAR]}'"


def parse(text: str, shape: type[T]) -> T:
    """Parses a JSON argument. Numbers may have leading zeros, since the API inserts ids unchanged (`{"id":001}`).

    Raises Refused with the texts of wdb.md 2.4."""
    data = text.encode(errors="surrogateescape")
    try:
        return msgspec.json.decode(data, type=shape)
    except _FAILURES:
        data = _NUMBER_OR_TEXT.sub(_without_zeros, data)
    try:
        msgspec.json.decode(data)
    except _FAILURES:
        raise JsonRefused(f"Invalid JSON syntax, near {near(text)}") from None
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError:
        raise JsonRefused(f"Invalid JSON data, near {near(text)}") from None


def _without_zeros(found: "re.Match[bytes]") -> bytes:
    return found[0] if found[0].startswith(b'"') else found[1]


class Chunk:
    """Collects the items that fit into one answer. `used`: bytes of the surrounding frame, counted as in wdb.md 2.3."""

    def __init__(self, used: int) -> None:
        self.used = used
        self.items: list[bytes] = []

    def add(self, item: bytes) -> bool:
        """Adds the item if it fits. Returns whether it did."""
        if not self.fits(len(item)):
            return False
        self.used += len(item) + 1
        self.items.append(item)
        return True

    def fits(self, length: int) -> bool:
        return self.used + length + 1 < CHUNK_BYTES

    def joined(self) -> bytes:
        return b",".join(self.items)


def array(items: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Status and text of an array with as many items as fit."""
    chunk = Chunk(2)
    status = b"ok"
    for item in items:
        if not chunk.add(item):
            status = b"due"
            break
    return status, b"[" + chunk.joined() + b"]"


def rows(names: Iterable[str], found: Iterable[tuple[Any, ...]]) -> Iterator[bytes]:
    """Each row as an object with its members in the order of `names`; NULL is left out."""
    names = tuple(names)
    for row in found:
        yield encode({name: value for name, value in zip(names, row, strict=True) if value is not None})

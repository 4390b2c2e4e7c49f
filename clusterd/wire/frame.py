"""Frames: the 20 bytes before a body, and the division of large bodies (wire.md 2.1, 2.2, 2.4).

Header and body must be given to the transport in one write for a stock peer (2.5): `frames_of` returns them joined.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from clusterd.errors import ClusterError
from clusterd.wire.commands import MAX_COMMAND_BYTES

HEADER = struct.Struct("!II12s")
HEADER_BYTES = HEADER.size
FIELD_BYTES = 12

REQUEST_CHUNK = 5242880
"""Largest plaintext sent in one frame, however long its token; also the size of a divided frame including its
header."""
PIECE_BYTES = REQUEST_CHUNK - HEADER_BYTES
"""Body bytes of each piece of a divided message except the last."""

_DIVIDED_FLAG = 0x64
_SPACE = b" "


class Header(NamedTuple):
    """`length`: bytes of the following body. `divided`: more pieces follow with this counter."""

    counter: int
    length: int
    command: str
    divided: bool


class Piece(NamedTuple):
    """One frame of a body that lies elsewhere: write `header`, then body bytes `start` to `stop` (excluded)."""

    header: bytes
    start: int
    stop: int


@lru_cache(maxsize=256)
def command_field(command: str, flag: bytes = b"") -> bytes:
    """The 12 bytes for a command: the command, one space, dashes; `flag` replaces the twelfth.

    Raises ClusterError 3024 for a command of more than 11 bytes, 3018 for one with other characters than Latin-1.
    """
    try:
        word = command.encode("latin-1")
    except UnicodeEncodeError:
        raise ClusterError(3018, "a command can only have Latin-1 characters") from None
    if len(word) > MAX_COMMAND_BYTES:
        raise ClusterError(3024, repr(word))
    field = (word + _SPACE).ljust(FIELD_BYTES, b"-")
    return field[: FIELD_BYTES - 1] + flag if flag else field


@lru_cache(maxsize=256)
def parse_field(field: bytes) -> tuple[str, bool]:
    """Splits the 12 bytes into command and division flag. Any bytes are valid; nothing is raised."""
    return field[:MAX_COMMAND_BYTES].split(_SPACE, 1)[0].decode("latin-1"), field[MAX_COMMAND_BYTES] == _DIVIDED_FLAG


def build_header(counter: int, length: int, command: str, divided: bool | None = None) -> bytes:
    """The header of a body of `length` bytes. `divided`: None for an undivided message, True for a piece that is not
    the last, False for the last piece (whose flag is a dash even after an 11-byte command)."""
    flag = b"" if divided is None else b"d" if divided else b"-"
    return HEADER.pack(counter, length, command_field(command, flag))


def parse_header(header: bytes) -> Header:
    """Parses the first 20 bytes of `header`."""
    counter, length, field = HEADER.unpack_from(header)
    command, divided = parse_field(field)
    return Header(counter, length, command, divided)


def pieces_of(counter: int, command: str, length: int, *, divide: bool) -> Iterator[Piece]:
    """The frames for a body of `length` bytes: one, or with `divide` the pieces of wire.md 2.4."""
    if not divide or length <= PIECE_BYTES:
        yield Piece(build_header(counter, length, command), 0, length)
        return
    for start in range(0, length, PIECE_BYTES):
        stop = min(start + PIECE_BYTES, length)
        yield Piece(build_header(counter, stop - start, command, stop < length), start, stop)


def frames_of(counter: int, command: str, body: bytes | memoryview, *, divide: bool) -> list[bytes]:
    """The complete frames for a body, to be written in this order, each in one write."""
    if not divide or len(body) <= PIECE_BYTES:
        return [build_header(counter, len(body), command) + body]
    view = memoryview(body)
    return [header + view[start:stop] for header, start, stop in pieces_of(counter, command, len(body), divide=True)]

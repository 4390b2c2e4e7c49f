"""A piece of a file, by which what is longer than memory is named instead of read."""

import msgspec


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """`length` bytes at `offset` of the file `path` (absolute)."""

    path: str
    offset: int
    length: int

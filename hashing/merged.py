"""Merged files (wire.md 5.10): several small files in one, each behind a line of its length, name and time.

Stock 4.14.1 nodes make none in normal operation, but mark every file whose name contains `.merged` as one, and would
apply one that came.
"""

import msgspec

from hashing.atomic import is_temporary

_LINE_BYTES = 4096
MOST_PARTS = 100_000
"""Most parts that one merged file is split into: 64 MiB of headers would be eleven million files."""


class Part(msgspec.Struct, frozen=True):
    """One file of a merged file. `time` is the text of its header."""

    name: str
    time: str
    data: bytes


class Merged(msgspec.Struct, frozen=True):
    """What a merged file holds. `refused`: names that could lead out of a directory, with the reason. `malformed`:
    the stock text when a header could not be read; the parts before it are good."""

    parts: list[Part]
    refused: list[tuple[str, str]]
    malformed: str = ""


def parse_merged(data: bytes, most: int = MOST_PARTS) -> Merged:
    """Split a merged file, up to its `most`th part. Data shorter than its header says is accepted, as a stock node
    does. Raises nothing."""
    parts: list[Part] = []
    refused: list[tuple[str, str]] = []
    position = 0
    while position < len(data):
        if len(parts) + len(refused) >= most:
            return Merged(parts, refused, f"Malformed file (more than {most} parts). Some files won't be synced")
        newline = data.find(b"\n", position, position + _LINE_BYTES)
        end = newline + 1 if newline >= 0 else min(len(data), position + _LINE_BYTES)
        line = data[position:end]
        try:
            length, name, time = _parse_header(line)
        except ValueError as error:
            text = f"Malformed file ({error}). Parsed line: {line.decode(errors='replace')}. Some files won't be synced"
            return Merged(parts, refused, text)
        content = data[end : end + length]
        position = end + length
        reason = _name_problem(name)
        if reason is None:
            parts.append(Part(name, time, content))
        else:
            refused.append((name, reason))
    return Merged(parts, refused)


def _parse_header(line: bytes) -> tuple[int, str, str]:
    fields = line.split(b" ", 2)
    if len(fields) < 3:
        raise ValueError(f"not enough values to unpack (expected 3, got {len(fields)})")
    if not fields[0].isdigit() or len(fields[0]) > 18:
        raise ValueError(f"invalid length {fields[0].decode(errors='replace')!r}")
    if not line.endswith(b"\n"):
        raise ValueError("the header does not end")
    return int(fields[0]), fields[1].decode(), fields[2][:-1].decode()


def _name_problem(name: str) -> str | None:
    """Why a part of this name may not be written, None if it may: it must be one name, directly in its directory."""
    if name in ("", ".", ".."):
        return "is not a file name"
    if "/" in name or "\0" in name:
        return "is not a plain file name"
    if len(name.encode()) > 255:
        return "has more than 255 bytes"
    if is_temporary(name):
        return "is a name of our own"
    return None

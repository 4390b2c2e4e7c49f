"""Long strings of agent-info and agent-groups: database rows between nodes (wire.md section 6)."""

from typing import Any

import msgspec

REPORT_HEAD = b'{"set_data_command": "global sync-agent-info-set", "payload": '
REPORT_MIDDLE = b', "chunks": '
REPORT_TAIL = b"}"
GROUPS_HEAD = (
    b'{"set_data_command": "global set-agent-groups", "payload": {"mode": "override", "sync_status": "synced"},'
    b' "chunks": ['
)
GROUPS_TAIL = b"]}"
GROUPS_COMMAND = b"global set-agent-groups "
HANDED_OUT = b"global clusterd-groups-handed-out "
"""A command of our own store: every connected worker has these groups of these agents (clusterd/store/groups.py)."""
LARGEST_REQUEST = 65536
OFFSET = "clock_offset_us"
"""Member of a report's `payload` between two nodes with our store: the master's boot clock minus the worker's."""


class BadString(Exception):
    """A long string that violates wire.md section 6; the text completes `error while trying to load JSON: ...`."""


class Report(msgspec.Struct, frozen=True):
    """Agent-info. `chunks` stays unparsed: it is passed between the databases."""

    chunks: msgspec.Raw
    payload: dict[str, Any] = {}


class Groups(msgspec.Struct, frozen=True):
    """Agent-groups: each of `chunks` is JSON inside a text."""

    chunks: list[str]
    payload: dict[str, Any] = {}


class GroupsChunk(msgspec.Struct, frozen=True):
    """The object in a chunk. `hash` is Unset if the chunk has none."""

    data: list[msgspec.Raw]
    hash: str | msgspec.UnsetType | None = msgspec.UNSET


class GroupsRow(msgspec.Struct, frozen=True):
    """An agent's groups, as in an item of `data`."""

    id: int
    groups: list[str]
    name: str = ""


_parse_report = msgspec.json.Decoder(Report).decode
_parse_groups = msgspec.json.Decoder(Groups).decode
_parse_chunk = msgspec.json.Decoder(list[GroupsChunk]).decode
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_report(data: bytes) -> Report:
    """Raises BadString."""
    try:
        return _parse_report(data)
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def count_lists(chunks: msgspec.Raw) -> int:
    """The number of the object's keys, which stock counts as chunks. Raises BadString if it is no object."""
    try:
        return len(msgspec.json.decode(chunks, type=dict[str, msgspec.Raw]))
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def parse_groups(data: bytes) -> Groups:
    """Raises BadString."""
    try:
        return _parse_groups(data)
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def parse_chunk(text: str | bytes) -> GroupsChunk:
    """Raises BadString for anything but an array with exactly one object."""
    try:
        (chunk,) = _parse_chunk(text)
    except (*_FAILURES, ValueError) as problem:
        raise BadString(str(problem)) from None
    return chunk


def rows_of(chunk: GroupsChunk) -> list[GroupsRow]:
    """Raises BadString for an item without id or groups."""
    try:
        return [msgspec.json.decode(item, type=GroupsRow) for item in chunk.data]
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def requests_of(chunk: GroupsChunk, payload: dict[str, Any]) -> list[bytes]:
    """The database requests that set these groups: one, or several where one would be too large. Raises BadString for
    an item that fits into none."""
    head = GROUPS_COMMAND + msgspec.json.encode({name: payload[name] for name in payload if name != "data"})[:-1]
    head += b',"data":[' if payload else b'"data":['
    room = LARGEST_REQUEST - len(head) - len(b"]}")
    requests, items, used = [], list[bytes](), 0
    for raw in chunk.data:
        item = bytes(raw)
        if len(item) > room:
            raise BadString(f"an agent with {len(item)} bytes of groups")
        if used + len(item) + 1 > room + 1:
            requests.append(head + b",".join(items) + b"]}")
            items, used = [], 0
        items.append(item)
        used += len(item) + 1
    requests.append(head + b",".join(items) + b"]}")
    return requests

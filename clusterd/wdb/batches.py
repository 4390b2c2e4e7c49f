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
MOST_OBJECTS = 1_000_000
"""Most JSON objects in a report: agents and their labels. Read, an object takes thirty times its bytes."""
MOST_CHUNKS = 10_000
"""Most chunks of groups in one string: a stock node fills each to 64 KiB, and four thousand of these make the largest
string that is taken."""
CHUNK_BYTES = 1024 * 1024
PAYLOAD_BYTES = 4096
"""Bytes of what comes before the chunks. It is part of each request to the database."""
LONGEST_NUMBER = 20


class BadString(Exception):
    """A long string that violates wire.md section 6; the text completes `error while trying to load JSON: ...`."""


class Moments(msgspec.Struct, frozen=True, rename={"offset": OFFSET}):
    """The `payload` of a report."""

    offset: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def offset_us(self) -> int | None:
        """Microseconds; None if the node sends none that can be one."""
        if len(self.offset) > LONGEST_NUMBER:
            return None
        try:
            found = msgspec.json.decode(self.offset)
        except _FAILURES:  # what is skipped is not looked at: bytes that are no text, a number beyond all others
            return None
        return found if type(found) is int and abs(found) < 1 << 62 else None


class Report(msgspec.Struct, frozen=True):
    """Agent-info. `chunks` stays unparsed: it is passed between the databases."""

    chunks: msgspec.Raw
    payload: Moments = Moments()


class _Lists(msgspec.Struct, frozen=True):
    """The members of a report's `chunks` (wdb.md 7.7), and nothing that is built of others."""

    syncreq: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    syncreq_keepalive: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    syncreq_status: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Groups(msgspec.Struct, frozen=True):
    chunks: list[str]
    payload: msgspec.Raw = msgspec.Raw(b"{}")


class Groups(msgspec.Struct, frozen=True):
    """Agent-groups: each of `chunks` is JSON inside a text."""

    chunks: list[str]
    payload: dict[str, Any]


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
_parse_lists = msgspec.json.Decoder(_Lists).decode
_parse_groups = msgspec.json.Decoder(_Groups).decode
_parse_chunk = msgspec.json.Decoder(list[GroupsChunk]).decode
_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_report(data: bytes) -> Report:
    """Raises BadString."""
    if data.count(b"{") > MOST_OBJECTS:
        raise BadString(f"more than {MOST_OBJECTS} objects")
    try:
        return _parse_report(data)
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def count_lists(chunks: msgspec.Raw) -> int:
    """The number of the object's lists, which stock counts as chunks. Raises BadString if it is no object."""
    try:
        return sum(one is not msgspec.UNSET for one in msgspec.structs.astuple(_parse_lists(chunks)))
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def parse_groups(data: bytes) -> Groups:
    """Raises BadString."""
    # A quote without a backslash before it begins or ends a text; no text begins with another one.
    if data.count(b'"') - data.count(b'\\"') > 2 * MOST_CHUNKS + PAYLOAD_BYTES:
        raise BadString(f"more than {MOST_CHUNKS} chunks")
    try:
        found = _parse_groups(data)
        if len(found.payload) > PAYLOAD_BYTES:
            raise BadString(f"a payload of {len(found.payload)} bytes")
        return Groups(found.chunks, msgspec.json.decode(found.payload, type=dict[str, Any]))
    except _FAILURES as problem:
        raise BadString(str(problem)) from None


def parse_chunk(text: str | bytes) -> GroupsChunk:
    """Raises BadString for anything but an array with exactly one object."""
    if len(text) > CHUNK_BYTES:
        raise BadString(f"a chunk of {len(text)} characters")
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

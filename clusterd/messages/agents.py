"""Jobs on agent-info and agent-groups."""

import msgspec

from clusterd.messages.base import Job, Result


class ReportOpened(Result, frozen=True, tag="report-opened"):
    """`lists`: keys of `chunks`; `size`: bytes of its JSON. `offset_us`: what must be added to the moments in it, None
    if the node sends no offset."""

    lists: int
    size: int
    offset_us: int | None = None


class OpenReport(Job[ReportOpened], frozen=True, tag="open-report"):
    """A worker's agent-info, a long string of `size` bytes at `path`: write the value of its `chunks` to `out`.
    Result: ReportOpened, or JobFailed "bad-json"."""

    makes = ("out",)

    path: str
    size: int
    out: str


class ChunkRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request of `size` bytes for the agent database; the number of the chunk that it is from, counted from 1."""

    size: int
    chunk: int


class GroupsOpened(Result, frozen=True, tag="groups-opened"):
    """`chunks`: their number. `requests`: those in `out`, in order. `bad`: texts of chunks that cannot be read.
    `has_hash`: whether the last chunk contains the master's `hash`."""

    chunks: int
    requests: list[ChunkRequest]
    bad: list[str]
    has_hash: bool
    hash: str | None = None


class OpenGroups(Job[GroupsOpened], frozen=True, tag="open-groups"):
    """A master's agent-groups, a long string of `size` bytes at `path`: write the requests for the agent database to
    `out`, one after the other. Result: GroupsOpened, or JobFailed "bad-json"."""

    makes = ("out",)

    path: str
    size: int
    out: str

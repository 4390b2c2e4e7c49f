"""Jobs that read the long strings of agent-info and agent-groups: megabytes of JSON, too much for sync's event loop."""

from msgspec import UNSET, UnsetType

from clusterd.messages.agents import ChunkRequest, GroupsOpened, OpenGroups, OpenReport, ReportOpened
from clusterd.pool.failure import Failure
from clusterd.wdb import batches

BAD_JSON = "bad-json"
MOST_BAD = 100


def open_report(job: OpenReport) -> ReportOpened:
    """Write the value of `chunks` to a file of its own."""
    try:
        report = batches.parse_report(_read(job.path, job.size))
        lists = batches.count_lists(report.chunks)
    except batches.BadString as problem:
        raise Failure(BAD_JSON, str(problem)) from None
    with open(job.out, "wb") as file:
        size = file.write(report.chunks)
    return ReportOpened(lists, size, report.payload.offset_us)


def open_groups(job: OpenGroups) -> GroupsOpened:
    """Write one database request for each chunk (wire.md 6.5) to a file."""
    try:
        groups = batches.parse_groups(_read(job.path, job.size))
    except batches.BadString as problem:
        raise Failure(BAD_JSON, str(problem)) from None
    requests: list[ChunkRequest] = []
    bad: list[str] = []
    last: batches.GroupsChunk | None = None
    with open(job.out, "wb") as file:
        for number, text in enumerate(groups.chunks, 1):
            last = None
            try:
                last = batches.parse_chunk(text)
                for request in batches.requests_of(last, groups.payload):
                    requests.append(ChunkRequest(file.write(request), number))
            except batches.BadString as problem:
                if len(bad) < MOST_BAD:
                    bad.append(f"chunk {number} cannot be read: {problem}")
    digest = UNSET if last is None else last.hash
    if isinstance(digest, UnsetType):
        return GroupsOpened(len(groups.chunks), requests, bad, has_hash=False)
    return GroupsOpened(len(groups.chunks), requests, bad, has_hash=True, hash=digest)


def _read(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)

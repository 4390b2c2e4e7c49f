"""Jobs of the distributed API: run a function, plan who answers, combine answers. All the JSON that may be large is
read and written here, off sync's loop."""

import mmap
from collections.abc import Callable, Iterator

from clusterd.dapi import execution
from clusterd.dapi.protocol.envelope import read_permissions
from clusterd.dapi.protocol.item_text import pieces_of, read_answer
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.merge import Value
from clusterd.dapi.protocol.registry import ArgumentsRefused
from clusterd.dapi.protocol.request import encode_request, parse_request
from clusterd.dapi.protocol.routing import combine, plan
from clusterd.dapi.query.lookup import AgentTable
from clusterd.errors import ClusterError
from clusterd.leadership import NOT_LEADING, Leadership
from clusterd.messages.api import CombineAnswers, FunctionDone, NodeRequest, PlanRequest, RequestPlanned, RunFunction
from clusterd.messages.base import INLINE_BYTES, Text
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireException, WireResult, dump_json, load_json


def run_function(
    job: RunFunction, settings: Settings, on_step: Callable[[], None], leadership: Leadership | None = None
) -> FunctionDone:
    """The answer of this node. `leadership`: of a master in an election; the job may have waited for long."""
    if leadership is not None and not leadership.holds():
        refusal = execution.as_answer(ClusterError(3023, NOT_LEADING), settings.cluster.node_name)
        return FunctionDone(write_text(dump_json(refusal), job.out))
    content = read_text(job.request)
    try:
        answer = execution.run(
            content, settings, serves_store=job.serves_store, may_decline=job.may_decline, on_step=on_step
        )
    except ArgumentsRefused as failure:
        return FunctionDone(Text(), declined=str(failure))
    return FunctionDone(write_text(dump_json(answer), job.out))


def plan_request(job: PlanRequest, settings: Settings, on_step: Callable[[], None]) -> RequestPlanned:
    """Who is asked what."""
    node, content = settings.cluster.node_name, read_text(job.request)
    try:
        request = parse_request(content)
        with BlockingDatabase(job.root, on_step=on_step) as database:
            found = plan(
                request, master=node, connected=job.connected, agents=AgentTable(database), timeout_s=job.timeout_s
            )
    except ClusterError as failure:
        shown = execution.shown_node(read_permissions(content), node)
        return RequestPlanned([], b"", False, dump_json(execution.as_answer(failure, shown)))
    requests = [NodeRequest(name, write_text(encode_request(part), job.out)) for name, part in found.requests]
    merges = len(requests) != 1 or bool(found.allowed.failed)
    return RequestPlanned(requests, dump_json(found.allowed.wire()), merges)


def combine_answers(job: CombineAnswers, on_step: Callable[[], None]) -> FunctionDone:
    """One answer out of many."""
    request = parse_request(read_text(job.request))
    listing = load_json(job.allowed)
    assert isinstance(listing, WireResult)
    answers = []
    for text in job.answers:
        on_step()
        answers.append(_answer_of(text))
    try:
        answer = combine(request, Items.of_wire(listing), answers)
    except ClusterError as failure:  # an item that is none
        answer = WireException(1000, str(failure))
    on_step()
    return FunctionDone(write_pieces(pieces_of(answer), job.out))


def _answer_of(text: Text) -> Value:
    """A node's answer; one that is none counts as that node's failure, which is the whole answer's (dapi.md 4.3)."""
    try:
        return read_answer(map_text(text))
    except ClusterError as failure:
        return WireException(1000, str(failure))


def read_text(text: Text) -> bytes:
    """Its bytes."""
    if not text.path:
        return text.payload
    with open(text.path, "rb") as file:
        file.seek(text.offset)
        return file.read(text.size)


def map_text(text: Text) -> bytes | memoryview:
    """The same; of a file without reading it into memory of this process."""
    if not text.path or not text.size:
        return text.payload
    with open(text.path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), text.offset + text.size, access=mmap.ACCESS_READ)
    return memoryview(mapped)[text.offset :]


def write_pieces(pieces: Iterator[bytes | memoryview], out: str) -> Text:
    """Like write_text."""
    held, size = list[bytes | memoryview](), 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > INLINE_BYTES:
            break
    else:
        return Text(b"".join(held))
    with open(out, "ab") as file:
        offset = file.tell()
        file.writelines(held)
        file.writelines(pieces)
        return Text(b"", out, file.tell() - offset, offset)


def write_text(content: bytes, out: str) -> Text:
    """Inline, or at the end of the file `out`."""
    if len(content) <= INLINE_BYTES:
        return Text(content)
    with open(out, "ab") as file:
        offset = file.tell()
        file.write(content)
    return Text(b"", out, len(content), offset)

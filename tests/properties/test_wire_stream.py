"""Any cuts of a stream give the same events; any bytes give an event or a violation (wire.md 2.5, quirks.md R1 to
R3)."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.wire.connection import Connection, NoRoom, heap_sink
from clusterd.wire.events import (
    Discarded,
    Event,
    RequestReceived,
    ResponseReceived,
    SealedRequest,
    SealedResponse,
    Sink,
    Violation,
)
from clusterd.wire.frame import build_header
from clusterd.wire.seal import Sealer
from tests.wire.ends import opened_body

SEALER = Sealer(b"k" * 32)
INLINE = 400
WORDS = st.sampled_from(["echo", "ok", "err", "syn_i_w_m_p", "file_upd", "ok-m"])
EVENTS = (RequestReceived, SealedRequest, ResponseReceived, SealedResponse, Discarded, Violation)


def connection(sealed: bool, **options: Any) -> Connection:
    role, sealer = ("master", SEALER) if sealed else ("local-server", None)
    return Connection(role, sealer, counter_start=0, inline_limit=INLINE, **options)  # type: ignore[arg-type]


def content(end: Connection, event: Event) -> tuple[object, ...]:
    """Returns an event in a form that can be compared, with sealed bodies opened."""
    if isinstance(event, SealedRequest):
        return "request", event.counter, event.command, opened_body(end, event.bodies)
    if isinstance(event, SealedResponse):
        return "response", event.request_id, event.command, opened_body(end, event.bodies)
    if isinstance(event, RequestReceived):
        return "request", event.counter, event.command, event.payload
    if isinstance(event, ResponseReceived):
        return "response", event.request_id, event.command, event.payload
    return (event,)


@st.composite
def messages(draw: st.DrawFn, sealed: bool) -> tuple[list[bytes], list[tuple[int, str, bytes]]]:
    """Returns frames of several messages, each divided or not, in an order that keeps each message's pieces in order;
    and the messages in the order of their completion."""
    count = draw(st.integers(1, 6))
    queues = []
    for counter in range(100, 100 + count):
        command = draw(WORDS)
        payload = draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 30]))
        body = SEALER.seal(payload) if sealed else payload
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        edges = [0, *cuts, len(body)]
        parts = [body[start:stop] for start, stop in pairwise(edges)]
        frames = [build_header(counter, len(part), command, True) + part for part in parts[:-1]]
        frames.append(build_header(counter, len(parts[-1]), command, False if cuts else None) + parts[-1])
        queues.append(((counter, command, payload), frames))
    stream, order = [], []
    while queues:
        place = draw(st.integers(0, len(queues) - 1))
        message, frames = queues[place]
        stream.append(frames.pop(0))
        if not frames:
            order.append(message)
            queues.pop(place)
    return stream, order


def feed(end: Connection, data: bytes, sizes: list[int], by_transport: bool) -> list[Event]:
    """Feeds `data` in reads of these sizes (repeated), by `receive` or through `next_buffer`."""
    events: list[Event] = []
    position = turn = 0
    while position < len(data) and not end.dead:
        size = sizes[turn % len(sizes)]
        turn += 1
        if by_transport:
            room = end.next_buffer()
            size = min(size, len(room), len(data) - position)
            room[:size] = data[position : position + size]
            events += end.buffer_filled(size)
        else:
            events += end.receive(data[position : position + size])
        position += size
    return events


@pytest.mark.slow
@settings(deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_any_split_of_a_stream_gives_the_same_messages(
    data: st.DataObject, sealed: bool, by_transport: bool, sizes: list[int]
) -> None:
    frames, order = data.draw(messages(sealed))
    end = connection(sealed)
    events = feed(end, b"".join(frames), sizes, by_transport)
    assert [content(end, event) for event in events] == [("request", *message) for message in order]
    assert end.close() == []


@pytest.mark.slow
@settings(deadline=None)
@given(st.data(), st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_stalls_anywhere_change_nothing(data: st.DataObject, sizes: list[int]) -> None:
    frames, order = data.draw(messages(True))
    refusals = data.draw(st.lists(st.booleans(), max_size=20))

    def allocate(length: int) -> Sink | None:
        return None if refusals and refusals.pop() else heap_sink(length)

    end = connection(True, allocate=allocate)
    stream = b"".join(frames)
    events: list[Event] = []
    position = turn = 0
    while position < len(stream) or end.stalled:
        if end.stalled:
            events += end.retry_allocate()
            continue
        room = end.next_buffer()
        size = min(sizes[turn % len(sizes)], len(room), len(stream) - position)
        room[:size] = stream[position : position + size]
        events += end.buffer_filled(size)
        position += size
        turn += 1
    assert [content(end, event) for event in events] == [("request", *message) for message in order]


HEADERS = st.builds(
    lambda counter, length, field, body: counter.to_bytes(4) + length.to_bytes(4) + field + body,
    st.sampled_from([0, 1, 2, 2**32 - 1]),
    st.one_of(st.integers(0, 900), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(min_size=12, max_size=12), st.sampled_from([b"echo ------d", b"ok ---------", b"echo -------"])
    ),
    st.binary(max_size=900),
)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=100), HEADERS), max_size=12),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
)
def test_whatever_bytes_come_there_are_events_or_a_violation(
    parts: list[bytes], sealed: bool, by_transport: bool, sizes: list[int]
) -> None:
    given_out = 0

    def allocate(length: int) -> Sink:
        nonlocal given_out
        given_out += length
        return heap_sink(length)

    end = connection(sealed, allocate=allocate, body_limit=2000, divided_limit=5000)
    end.request("echo", b"", 0.0, 20)
    events = feed(end, b"".join(parts), sizes, by_transport)

    assert all(isinstance(event, EVENTS) for event in events)
    violations = [event for event in events if isinstance(event, Violation)]
    assert end.dead == bool(violations)
    assert all(event is events[-1] for event in violations)
    reported = sum(
        len(sink.view)
        for event in events
        if isinstance(event, SealedRequest | SealedResponse | Discarded)
        for sink in event.bodies
    )
    assert reported + sum(len(sink.view) for sink in end.close()) == given_out


@settings(deadline=None)
@given(st.binary(max_size=150), st.integers(0, 300), st.integers(0, 7), st.booleans())
def test_damaged_token_never_gives_another_payload(payload: bytes, place: int, change: int, cut: bool) -> None:
    token = bytearray(SEALER.seal(payload))
    if cut:
        del token[place % len(token) :]
    else:
        token[place % len(token)] ^= 1 << change
    end = connection(True)
    for event in end.receive(build_header(1, len(token), "echo") + token):
        # base64 has spare bits in its last character, so that a changed token may still say the same
        assert isinstance(event, Violation) or content(end, event) == ("request", 1, "echo", payload)


def test_stalled_connection_takes_nothing() -> None:
    end = connection(True, allocate=lambda length: None)
    end.receive(build_header(1, 1000, "file_upd"))
    for take in (lambda: end.receive(b"x"), end.next_buffer):
        try:
            take()
        except NoRoom:
            continue
        raise AssertionError("a stalled connection took bytes")

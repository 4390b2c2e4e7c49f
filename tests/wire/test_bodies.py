"""Large and divided bodies, and peers that abuse them (wire.md 2.4, quirks.md R1 to R3)."""

import struct

import pytest

from clusterd.wire.connection import MIN_PROGRESS, NoRoom
from clusterd.wire.divided import MAX_DIVIDED, MAX_SINKS
from clusterd.wire.events import Event, RequestReceived, ResponseReceived, SealedRequest, SealedResponse, Violation
from clusterd.wire.frame import PIECE_BYTES, build_header
from tests.wire.ends import (
    SEALER,
    Slabs,
    divided,
    local_server,
    master,
    opened,
    opened_body,
    read_as_a_transport_does,
    worker,
)

# ---- large bodies ----------------------------------------------------------------------------------------------------


def test_large_body_is_read_straight_into_its_sink() -> None:
    slabs = Slabs(1)
    connection = master(allocate=slabs)
    frame = b"".join(worker().respond(5, "file_upd", bytes(3_000_000)))

    connection.receive(frame[:100])
    room = connection.next_buffer()

    assert slabs.given == [len(frame) - 20]
    assert len(room) == len(frame) - 100
    room[:] = frame[100:]
    (event,) = connection.buffer_filled(len(room))
    assert isinstance(event, SealedRequest)
    assert event.bodies[0].view == frame[20:]


def test_body_at_the_inline_limit_needs_no_sink() -> None:
    slabs = Slabs(9)
    connection = local_server(allocate=slabs, inline_limit=100)
    connection.receive(b"".join(local_server().respond(5, "dapi", bytes(100))))
    assert slabs.given == []
    connection.receive(b"".join(local_server().respond(6, "dapi", bytes(101))))
    assert slabs.given == [101]


def test_sealed_body_of_elsewhere_is_sent_as_header_and_slices() -> None:
    body = SEALER.seal(bytes(6_000_000))
    asker, answerer = worker(), master()

    request_id, pieces = asker.request_sealed("echo", len(body), 0.0, 20)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, PIECE_BYTES), (PIECE_BYTES, len(body))]
    (event,) = answerer.receive(b"".join(piece.header + body[piece.start : piece.stop] for piece in pieces))

    assert opened(answerer, event) == (request_id, "echo", bytes(6_000_000))
    pieces = answerer.respond_sealed(request_id, "ok", len(body))
    (event,) = asker.receive(b"".join(piece.header + body[piece.start : piece.stop] for piece in pieces))
    assert isinstance(event, SealedResponse)
    assert opened_body(asker, event.bodies) == bytes(6_000_000)


def test_full_chunk_of_a_transfer_is_one_undivided_frame() -> None:
    _, pieces = worker().request_sealed("file_upd", 6990604, 0.0, 20)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 6990604)]


def test_without_room_the_connection_stalls_and_goes_on_where_it_was() -> None:
    slabs = Slabs(0)
    connection = master(allocate=slabs)
    stream = b"".join(worker().respond(1, "echo", b"before")) + b"".join(worker().respond(2, "echo", bytes(100_000)))
    stream += b"".join(worker().respond(3, "echo", b"after"))

    (before,) = connection.receive(stream)
    assert opened(connection, before) == (1, "echo", b"before")
    assert connection.stalled
    with pytest.raises(NoRoom):
        connection.next_buffer()
    with pytest.raises(NoRoom):
        connection.receive(b"x")
    assert connection.retry_allocate() == []
    assert connection.stalled

    slabs.free = 1
    events = connection.retry_allocate()
    assert not connection.stalled
    assert [opened(connection, event)[0] for event in events] == [2, 3]


def test_connection_that_stalls_right_after_a_header_loses_nothing() -> None:
    slabs = Slabs(0)
    connection = master(allocate=slabs)
    frame = b"".join(worker().respond(2, "echo", bytes(100_000)))
    assert connection.receive(frame[:20]) == []
    slabs.free = 1
    assert connection.retry_allocate() == []
    (event,) = read_as_a_transport_does(connection, frame[20:], 7000)
    assert opened(connection, event) == (2, "echo", bytes(100_000))


def test_small_frames_of_many_connections_share_one_buffer() -> None:
    scratch = memoryview(bytearray(65536))
    connections = [master(scratch=scratch) for _ in range(3)]
    frames = [b"".join(worker().respond(number, "echo", b"%d" % number)) for number in range(3)]
    events: list[Event] = []
    for position in range(0, 120, 7):
        for connection, frame in zip(connections, frames, strict=True):
            events += read_as_a_transport_does(connection, frame[position : position + 7], 7)
    assert [opened(connections[0], event) for event in events] == [(n, "echo", b"%d" % n) for n in range(3)]


# ---- divided messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        [0],
        [1, 1, 1],
        [70_000],
        [1, 70_000],
        [70_000, 1],
        [70_000, 1, 1, 70_000],
        [65_536, 1, 65_536],
        [30_000, 30_000, 30_000],
        [189_000],
        [189_432],
    ],
)
def test_pieces_of_any_size_make_one_message(sizes: list[int]) -> None:
    body = SEALER.seal(bytes(142_000))
    assert len(body) == 189_432  # the last case ends with an empty piece
    connection = master()
    frames = divided(5, body, sizes)

    events = [event for frame in frames for event in read_as_a_transport_does(connection, frame, 10_000)]

    assert [opened(connection, event) for event in events] == [(5, "echo", bytes(142_000))]
    assert connection.close() == []


def test_two_large_divided_messages_may_be_interleaved() -> None:
    first, second = SEALER.seal(b"1" * 200_000), SEALER.seal(b"2" * 200_000)
    connection = master()
    mixed = [
        frame
        for pair in zip(divided(1, first, [80_000] * 3), divided(2, second, [90_000] * 2 + [10]), strict=True)
        for frame in pair
    ]
    events = connection.receive(b"".join(mixed))
    assert [opened(connection, event) for event in events] == [
        (1, "echo", b"1" * 200_000),
        (2, "echo", b"2" * 200_000),
    ]


def test_last_piece_names_the_command() -> None:
    body = SEALER.seal(b"x")
    connection = master()
    frames = divided(1, body, [10], "first")[:1] + divided(1, body, [10], "second")[1:]
    assert connection.receive(b"".join(frames)) == [RequestReceived(1, "second", b"x")]


def test_divided_answer_is_an_answer() -> None:
    connection = worker()
    request_id, _ = connection.request("get_nodes", b"{}", 0.0, 20)
    (event,) = connection.receive(b"".join(divided(request_id, SEALER.seal(b"x"), [10, 20], "ok")))
    assert event == ResponseReceived(request_id, "ok", b"x")


# ---- hostile peers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2**32 - 1, 6990605])
def test_announced_length_above_the_limit_is_a_violation_before_anything_is_reserved(length: int) -> None:
    slabs = Slabs(9)
    connection = master(allocate=slabs)
    (violation,) = connection.receive(struct.pack("!II12s", 1, length, b"file_upd ---"))
    assert isinstance(violation, Violation)
    assert str(length) in violation.text
    assert slabs.given == []


def test_body_limit_may_be_small_before_hello() -> None:
    connection = master(body_limit=1000, divided_limit=0)
    (violation,) = connection.receive(build_header(1, 1001, "hello"))
    assert isinstance(violation, Violation)
    connection = master(body_limit=1000, divided_limit=0)
    (violation,) = connection.receive(build_header(1, 1, "hello", True))
    assert isinstance(violation, Violation)


def test_divided_messages_are_bounded_in_bytes_pieces_and_number() -> None:
    connection = local_server(divided_limit=300_000)
    connection.receive(divided(1, bytes(400_000), [200_000])[0])
    (violation,) = connection.receive(build_header(2, 100_001, "echo", True))
    assert isinstance(violation, Violation)
    assert len(connection.close()) == 1

    connection = local_server()
    events = connection.receive(b"".join(divided(1, bytes(2_000_000), [70_000] * MAX_SINKS)))
    assert [type(event) for event in events] == [Violation]
    assert len(connection.close()) == MAX_SINKS

    connection = local_server(divided_sinks=2, allocate=Slabs(2))
    (violation,) = connection.receive(b"".join(divided(1, bytes(300_000), [70_000] * 3)))
    assert isinstance(violation, Violation)
    assert not connection.stalled

    connection = local_server()
    opening = [build_header(number, 0, "echo", True) for number in range(MAX_DIVIDED + 1)]
    assert connection.receive(b"".join(opening[:-1])) == []
    (violation,) = connection.receive(opening[-1])
    assert isinstance(violation, Violation)


@pytest.mark.parametrize("counters", [[1], [1, 2, 3]], ids=["one message", "three messages"])
def test_small_pieces_count_against_the_limit_as_large_ones_do(counters: list[int]) -> None:
    """They are kept in the connection's own memory."""
    connection = local_server(divided_limit=30_000)
    pieces = [build_header(counter, 10_000, "echo", True) + bytes(10_000) for counter in (counters * 3)[:3]]
    assert connection.receive(b"".join(pieces)) == []
    (violation,) = connection.receive(build_header(1, 1, "echo", True))
    assert isinstance(violation, Violation)
    assert "30000" in violation.text


def test_last_piece_counts_against_the_limit_too() -> None:
    connection = local_server(divided_limit=300_000)
    connection.receive(divided(1, bytes(400_000), [200_000])[0])
    (violation,) = connection.receive(build_header(1, 200_000, "echo", False))
    assert isinstance(violation, Violation)


@pytest.mark.parametrize("begun", [b"\0\0\0", build_header(1, 500, "echo"), build_header(1, 90_000, "echo") + bytes(9)])
def test_frame_begun_and_not_continued_is_a_violation(begun: bytes) -> None:
    connection = master()
    connection.receive(begun)
    assert connection.check_progress(10.0, 60) is None
    assert connection.check_progress(69.9, 60) is None
    assert isinstance(connection.check_progress(70.0, 60), Violation)
    assert connection.dead


def test_divided_message_without_end_is_a_violation_whatever_passes_between() -> None:
    connection = local_server()
    connection.receive(divided(1, bytes(200), [100])[0])
    assert connection.check_progress(0.0, 60) is None
    for second in range(1, 60):
        connection.receive(b"".join(local_server().respond(9, "echo", b"alive")))
        assert connection.check_progress(second, 60) is None
    assert isinstance(connection.check_progress(60.0, 60), Violation)


def test_slow_large_body_is_left_alone_as_long_as_it_grows() -> None:
    connection = master()
    connection.receive(build_header(1, 6_000_000, "echo"))
    for period in range(10):
        assert connection.check_progress(period * 60.0, 60) is None
        connection.receive(bytes(MIN_PROGRESS))


def test_idle_connection_and_stalled_connection_are_not_stuck() -> None:
    connection = master(allocate=Slabs(0))
    assert [connection.check_progress(now, 60) for now in (0.0, 1e6)] == [None, None]
    connection.receive(build_header(1, 90_000, "echo"))
    assert [connection.check_progress(now, 60) for now in (2e6, 3e6)] == [None, None]


def test_sinks_of_what_was_unfinished_come_back_when_the_connection_ends() -> None:
    slabs = Slabs(5)
    connection = local_server(allocate=slabs)
    connection.receive(divided(1, bytes(400_000), [100_000, 100_000])[0])
    connection.receive(build_header(2, 90_000, "echo") + b"half")
    assert [len(sink.view) for sink in connection.close()] == [100_000, 90_000]
    assert connection.close() == []
    assert connection.receive(b"more") == []

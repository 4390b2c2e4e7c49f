"""A connection as its owner sees it: bytes in, events out, and the other way round (wire.md 2, 3)."""

import base64
import struct
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.wire.connection import MAX_DIVIDED, MAX_SINKS, MIN_PROGRESS, Connection, NoRoom, heap_sink
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
from clusterd.wire.frame import PIECE_BYTES, build_header, frames_of
from clusterd.wire.seal import Sealer
from tests.wire.vectors import body_of, load, plaintext_of, sealer_of

FRAMES = load("frames.json")
KEY = b"c98b62a9b6169ac5f67dae55ae4a9088"
SEALER = Sealer(KEY)


def master(**options: Any) -> Connection:
    return Connection("master", options.pop("sealer", SEALER), counter_start=1000, **options)


def worker(**options: Any) -> Connection:
    return Connection("worker", options.pop("sealer", SEALER), counter_start=2**31, **options)


def local_server(**options: Any) -> Connection:
    return Connection("local-server", None, counter_start=7, **options)


def of_key(key: str | None, **options: Any) -> Connection:
    return local_server(**options) if key is None else master(sealer=sealer_of(key), **options)


def opened(connection: Connection, event: Event) -> tuple[int, str, bytes]:
    """Counter, command and payload of a request, large or not."""
    if isinstance(event, SealedRequest):
        return event.counter, event.command, connection.open_bodies(event.bodies)
    assert isinstance(event, RequestReceived)
    return event.counter, event.command, event.payload


def read_as_a_transport_does(connection: Connection, data: bytes, chunk: int) -> list[Event]:
    """Through next_buffer and buffer_filled, at most `chunk` bytes a read."""
    events: list[Event] = []
    position = 0
    while position < len(data) and not connection.stalled:
        room = connection.next_buffer()
        taken = min(len(room), chunk, len(data) - position)
        room[:taken] = data[position : position + taken]
        position += taken
        events += connection.buffer_filled(taken)
    return events


class Slabs:
    """An allocator with few slabs, which remembers what it gave."""

    def __init__(self, count: int) -> None:
        self.free = count
        self.given: list[int] = []

    def __call__(self, length: int) -> Sink | None:
        if self.free == 0:
            return None
        self.free -= 1
        self.given.append(length)
        return heap_sink(length)


# ---- recorded frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", FRAMES["frames"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("way", ["whole", "as a transport", "with bytes behind it"])
def test_recorded_message_is_received(vector: dict[str, Any], way: str) -> None:
    connection = of_key(vector["key"])
    divide = vector["plaintext_len"] > FRAMES["request_chunk"]
    stream = b"".join(frames_of(vector["counter"], vector["command_argument"], body_of(vector), divide=divide))

    if way == "as a transport":
        events = read_as_a_transport_does(connection, stream, 262144)
    else:
        events = connection.receive(stream + b"behind" if way == "with bytes behind it" else stream)

    if vector["command_parsed"] in ("ok", "err", "ok-m"):
        # Nobody asked: a request under a response's name, as the original takes it too.
        assert isinstance(events[0], RequestReceived)
    assert [opened(connection, event) for event in events] == [
        (vector["counter"], vector["command_parsed"], plaintext_of(vector))
    ]


@pytest.mark.parametrize("vector", FRAMES["frames"], ids=lambda vector: vector["name"])
def test_what_we_build_has_the_recorded_headers_and_is_received(vector: dict[str, Any]) -> None:
    sender, receiver = of_key(vector["key"]), of_key(vector["key"])

    frames = sender.respond(vector["counter"], vector["command_argument"], plaintext_of(vector))

    assert [frame[:20].hex() for frame in frames] == [recorded["header_hex"] for recorded in vector["frames"]]
    events = receiver.receive(b"".join(frames))
    assert [opened(receiver, event)[2] for event in events] == [plaintext_of(vector)]


def test_small_pieces_are_joined_while_others_pass_between() -> None:
    case = FRAMES["interleaved"]
    connection = of_key(case["key"])
    events = [event for frame in case["frames_b64"] for event in connection.receive(base64.b64decode(frame))]
    assert [opened(connection, event) for event in events] == [
        (expected["counter"], expected["command"], expected["plaintext"].encode())
        for expected in case["expected_dispatch_order"]
    ]


def test_every_cut_of_the_recorded_stream_gives_the_same_messages() -> None:
    """Cut 20 puts a stock receiver out of step for good (wire.md 2.5, C1)."""
    case = FRAMES["partial_reads"]
    stream = base64.b64decode(case["stream_b64"])
    expected = [(item["counter"], item["command"], item["plaintext"].encode()) for item in case["expected"]]
    for cut in range(len(stream) + 1):
        connection = of_key(case["key"])
        events = connection.receive(stream[:cut]) + connection.receive(stream[cut:])
        assert [opened(connection, event) for event in events] == expected, f"cut at {cut}"
    byte_by_byte = of_key(case["key"])
    events = read_as_a_transport_does(byte_by_byte, stream, 1)
    assert [opened(byte_by_byte, event) for event in events] == expected


def test_body_under_another_key_ends_the_connection() -> None:
    case = next(case for case in FRAMES["negative"] if case["name"] == "wrong_key")
    connection = master(sealer=Sealer(b"another-key-of-the-cluster-here_"))

    (violation,) = connection.receive(base64.b64decode(case["frame_b64"]))

    assert violation == Violation(3025, case["receiver_error"]["message"])
    assert connection.dead
    assert connection.receive(b"more") == []


# ---- requests and responses --------------------------------------------------------------------------------------------


def test_request_is_answered() -> None:
    asker, answerer = worker(), master()

    request_id, frames = asker.request("hello", b"worker1 wazuh worker 4.14.1", now=0.0, timeout_s=20)
    (request,) = answerer.receive(b"".join(frames))
    assert request == RequestReceived(request_id, "hello", b"worker1 wazuh worker 4.14.1")
    (response,) = asker.receive(b"".join(answerer.respond(request_id, "ok", b"Client worker1 added")))

    assert response == ResponseReceived(request_id, "ok", b"Client worker1 added")
    assert asker.waiting == 0


def test_header_and_body_are_one_write() -> None:
    """A read that ends right after a header breaks a stock receiver (wire.md 2.5)."""
    _, frames = worker().request("echo", b"x" * 1000, 0.0, 20)
    assert len(frames) == 1


def test_answers_may_come_in_any_order() -> None:
    asker, answerer = worker(), master()
    ids = []
    for number in range(3):
        request_id, frames = asker.request("echo", str(number).encode(), 0.0, 20)
        answerer.receive(b"".join(frames))
        ids.append(request_id)
    stream = b"".join(b"".join(answerer.respond(request_id, "ok", b"")) for request_id in reversed(ids))
    assert [event.request_id for event in asker.receive(stream)] == ids[::-1]  # type: ignore[union-attr]


def test_first_request_carries_the_number_after_the_start_and_counting_wraps() -> None:
    connection = Connection("worker", SEALER, counter_start=2**32 - 2)
    assert [connection.request("echo", b"", 0.0, 20)[0] for _ in range(3)] == [2**32 - 1, 0, 1]


def test_request_of_the_peer_under_a_counter_of_ours_is_still_a_request() -> None:
    """Two counters share one number space; the command tells them apart (wire.md C2)."""
    connection = worker()
    request_id, _ = connection.request("syn_i_w_m", b"", 0.0, 20)

    events = connection.receive(b"".join(master().respond(request_id, "syn_m_c_ok", b"")))
    events += connection.receive(b"".join(master().respond(request_id, "ok", b"task")))

    assert events == [RequestReceived(request_id, "syn_m_c_ok", b""), ResponseReceived(request_id, "ok", b"task")]


def test_our_counters_keep_away_from_those_of_the_peer() -> None:
    connection = Connection("worker", SEALER, counter_start=499)
    connection.receive(b"".join(master().respond(510, "echo", b"")))
    ids = [connection.request("echo", b"", 0.0, 20)[0] for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(abs(request_id - 510) > 2**20 for request_id in ids)


def test_late_answer_is_dropped() -> None:
    connection = worker()
    early, _ = connection.request("echo", b"", now=100.0, timeout_s=20)
    later, _ = connection.request("echo", b"", now=101.0, timeout_s=20)
    assert connection.next_deadline() == 120.0
    assert connection.expire(119.9) == []
    assert connection.expire(120.0) == [early]
    assert connection.expire(120.0) == []

    events = connection.receive(b"".join(master().respond(early, "ok", b"") + master().respond(later, "ok", b"")))

    assert events == [ResponseReceived(later, "ok", b"")]


def test_late_large_answer_gives_its_sinks_back() -> None:
    connection = worker()
    request_id, _ = connection.request("echo", b"", 0.0, 20)
    connection.forget(request_id)
    (event,) = connection.receive(b"".join(master().respond(request_id, "ok", bytes(200_000))))
    assert isinstance(event, Discarded)
    assert len(event.bodies) == 1


def test_answer_to_nothing_is_a_request_with_an_odd_command() -> None:
    """So that it is answered `unknown command 'b'ok''`, as the original does."""
    (event,) = master().receive(b"".join(worker().respond(5, "ok", b"zz")))
    assert event == RequestReceived(5, "ok", b"zz")


def test_command_too_long_opens_no_request() -> None:
    connection = worker()
    with pytest.raises(ClusterError) as refusal:
        connection.request("sendsync_err", b"", 0.0, 20)
    with pytest.raises(ClusterError):
        connection.request_sealed("sendsync_err", 100, 0.0, 20)
    assert refusal.value.code == 3024
    assert connection.waiting == 0


def test_requests_that_wait_are_known_when_the_connection_ends() -> None:
    connection = worker()
    ids = [connection.request("echo", b"", 0.0, 20)[0] for _ in range(3)]
    assert connection.take_waiting() == ids
    assert connection.waiting == 0


def test_only_the_local_socket_is_without_a_sealer() -> None:
    with pytest.raises(ValueError):
        Connection("master", None, counter_start=0)
    with pytest.raises(ValueError):
        Connection("local-client", SEALER, counter_start=0)


# ---- large bodies ------------------------------------------------------------------------------------------------------


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
    assert asker.open_bodies(event.bodies) == bytes(6_000_000)


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


# ---- divided messages --------------------------------------------------------------------------------------------------


def divided(counter: int, body: bytes, sizes: list[int], command: str = "echo") -> list[bytes]:
    """Frames of these body sizes; the last takes what is left."""
    frames, position = [], 0
    for size in sizes:
        frames.append(build_header(counter, size, command, True) + body[position : position + size])
        position += size
    return [*frames, build_header(counter, len(body) - position, command, False) + body[position:]]


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


# ---- hostile peers -----------------------------------------------------------------------------------------------------


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
    events = connection.receive(b"".join(divided(1, bytes(2_000_000), [70_000] * (MAX_SINKS + 1))[:-1]))
    assert [type(event) for event in events] == [Violation]
    assert len(connection.close()) == MAX_SINKS + 1

    connection = local_server()
    opening = [build_header(number, 0, "echo", True) for number in range(MAX_DIVIDED + 1)]
    assert connection.receive(b"".join(opening[:-1])) == []
    (violation,) = connection.receive(opening[-1])
    assert isinstance(violation, Violation)


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

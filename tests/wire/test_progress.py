"""A connection between two reads: what it holds, counts and gives up, and what it no longer reads."""

import pytest

from clusterd.wire.connection import INLINE_LIMIT, MIN_PROGRESS, Connection
from clusterd.wire.events import Event, RequestReceived, SealedRequest, Sink, Violation
from clusterd.wire.frame import HEADER_BYTES, REQUEST_CHUNK, build_header, frames_of
from clusterd.wire.seal import Sealer
from clusterd.wire.token import sealed_length
from tests.wire.ends import SEALER, Slabs, local_server, master, opened, worker

LARGE = INLINE_LIMIT + 1


def frame(counter: int, payload: bytes) -> bytes:
    return b"".join(frames_of(counter, "echo", SEALER.seal(payload), divide=False))


def payloads(connection: Connection, events: list[Event]) -> list[bytes]:
    return [opened(connection, event)[2] for event in events]


# ---- cuts ------------------------------------------------------------------------------------------------------------


def test_frames_behind_a_cut_in_a_header_or_in_a_large_body_are_read_in_order() -> None:
    stream = frame(1, b"first") + frame(2, b"x" * LARGE) + frame(3, b"third") + frame(4, b"fourth")
    begin_of_large = len(frame(1, b"first"))
    begin_of_third = len(stream) - len(frame(3, b"third")) - len(frame(4, b"fourth"))
    for cut in (begin_of_large + 7, begin_of_large + HEADER_BYTES + 1000, begin_of_third + 7):
        connection = master()
        events = connection.receive(stream[:cut]) + connection.receive(stream[cut:])
        assert payloads(connection, events) == [b"first", b"x" * LARGE, b"third", b"fourth"], cut
        assert connection.frames_in == 4


def test_frames_are_counted_in_both_directions() -> None:
    connection = worker()
    connection.request("echo", b"", 0.0, 20)
    connection.respond(7, "ok", b"x" * (2 * REQUEST_CHUNK))
    before = connection.frames_out
    pieces = connection.respond_sealed(8, "ok", sealed_length(3 * REQUEST_CHUNK))
    assert len(pieces) > 2
    assert connection.frames_out == before + len(pieces)


# ---- room ------------------------------------------------------------------------------------------------------------


def test_large_body_without_a_slab_waits_and_is_received_with_the_bytes_after_it() -> None:
    landings: list[Sink | None] = []
    full: list[Sink] = []

    def land(sink: Sink) -> Sink | None:
        full.append(sink)
        return landings.pop(0)

    connection = master(land=land)
    landings.append(None)
    assert connection.receive(frame(1, b"x" * LARGE) + frame(2, b"behind")) == []
    assert connection.stalled
    assert connection.frames_in == 0
    landings.append(None)
    assert connection.retry_allocate() == []
    assert connection.stalled
    landings.append(full[0])
    events = connection.retry_allocate()
    assert payloads(connection, events) == [b"x" * LARGE, b"behind"]
    assert not connection.stalled
    assert connection.frames_in == 2
    assert isinstance(events[0], SealedRequest)
    assert events[0].bodies[0] is full[0]


def test_connection_that_ended_while_it_waited_for_room_reads_nothing_more() -> None:
    slabs = Slabs(0)
    connection = master(allocate=slabs)
    assert connection.receive(frame(1, b"x" * LARGE)) == []
    assert connection.stalled
    connection.close()
    slabs.free = 1
    assert connection.retry_allocate() == []
    assert slabs.given == []


def test_scratch_that_was_given_is_what_small_frames_are_read_to() -> None:
    shared = bytearray(1000)
    assert master(scratch=memoryview(shared)).next_buffer().obj is shared


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "limit"), [(local_server(), REQUEST_CHUNK), (master(), sealed_length(REQUEST_CHUNK))]
)
def test_nothing_is_read_after_a_frame_above_the_limit(connection: Connection, limit: int) -> None:
    assert connection.body_limit == limit
    (violation,) = connection.receive(build_header(1, limit + 1, "echo", False))
    assert isinstance(violation, Violation)
    assert violation.code == 0
    assert connection.dead
    assert connection.receive(frame(2, b"more")) == []


def test_nothing_is_read_after_the_end() -> None:
    connection = master()
    connection.close()
    assert connection.receive(frame(1, b"more")) == []
    assert connection.frames_in == 0


def test_request_whose_body_lies_elsewhere_waits_as_long_as_any_other() -> None:
    connection = worker()
    number, _ = connection.request_sealed("echo", 100, now=50.0, timeout_s=20)
    assert connection.next_deadline() == 70.0
    assert connection.expire(69.0) == []
    assert connection.expire(70.0) == [number]


# ---- progress --------------------------------------------------------------------------------------------------------

LIMIT_S = 10.0
T = 5000.0


def test_frame_that_stops_growing_ends_the_connection() -> None:
    connection = master()
    connection.receive(frame(1, b"x" * 1000)[:-1])
    assert connection.check_progress(T, LIMIT_S) is None
    assert connection.check_progress(T + 9.9, LIMIT_S) is None
    violation = connection.check_progress(T + 10, LIMIT_S)
    assert violation == Violation(0, "a message was begun and not continued for 10 seconds")
    assert connection.dead
    assert connection.check_progress(T + 30, LIMIT_S) is None, "it is said once"


def test_frame_that_grows_too_slowly_ends_the_connection_and_one_that_grows_does_not() -> None:
    stream = frame(1, bytes(REQUEST_CHUNK // 2))
    for step, dead in ((MIN_PROGRESS // 2 - 1, True), (MIN_PROGRESS, False)):
        connection = master()
        at = 0
        found = []
        for second in range(0, 40, 5):
            connection.receive(stream[at : at + step])
            at += step
            found.append(connection.check_progress(T + second, LIMIT_S))
        assert connection.dead is dead
        assert any(found) is dead


def test_peer_that_ends_each_frame_in_time_may_always_be_in_one() -> None:
    connection = master()
    stream = b"".join(frame(number, b"x") for number in range(10))
    size = len(frame(0, b"x"))
    connection.receive(stream[:5])
    for number in range(9):
        assert connection.check_progress(T + 6 * number, LIMIT_S) is None
        assert len(connection.receive(stream[5 + size * number : 5 + size * (number + 1)])) == 1


def test_divided_message_grows_by_the_piece_that_is_coming() -> None:
    connection = master()
    done = build_header(1, 4 * MIN_PROGRESS, "echo", True) + bytes(4 * MIN_PROGRESS)
    connection.receive(done)
    assert connection.check_progress(T, LIMIT_S) is None
    connection.receive(build_header(1, 4 * MIN_PROGRESS, "echo", True) + bytes(MIN_PROGRESS))
    assert connection.check_progress(T + 6, LIMIT_S) is None
    connection.receive(bytes(MIN_PROGRESS))
    assert connection.check_progress(T + 12, LIMIT_S) is None
    assert connection.check_progress(T + 21, LIMIT_S) is None
    assert connection.check_progress(T + 22, LIMIT_S) is not None


def test_message_that_is_whole_is_no_longer_looked_at() -> None:
    connection = master()
    (event,) = connection.receive(frame(1, b"whole"))
    assert isinstance(event, RequestReceived)
    for second in (0, 100):
        assert connection.check_progress(T + second, LIMIT_S) is None
    assert not connection.dead


def test_nothing_behind_a_body_that_does_not_open_is_handed_up() -> None:
    bad = b"".join(frames_of(1, "echo", Sealer(b"another-key-of-the-cluster-here_").seal(b"x"), divide=False))
    (violation,) = master().receive(bad + frame(2, b"behind"))
    assert isinstance(violation, Violation)

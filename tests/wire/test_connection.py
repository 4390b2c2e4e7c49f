"""A connection as its owner sees it: bytes in, events out, and the other way round (wire.md 2, 3)."""

import base64
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.wire.connection import Connection
from clusterd.wire.events import Discarded, RequestReceived, ResponseReceived, Violation
from clusterd.wire.frame import frames_of
from clusterd.wire.seal import Sealer
from tests.wire.ends import SEALER, master, of_key, opened, read_as_a_transport_does, worker
from tests.wire.vectors import body_of, load, plaintext_of

FRAMES = load("frames.json")

# ---- recorded frames -------------------------------------------------------------------------------------------------


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
        # It answers no request: it is a request with the name of a response, as the original reads it, too.
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


# ---- requests and responses ------------------------------------------------------------------------------------------


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
    """It is then answered `unknown command 'b'ok''`, as the original does."""
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

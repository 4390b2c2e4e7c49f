"""What waits to be sent to a peer: order, slices, slabs, and how long a request may wait for its response."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from clusterd.net.asking import AnswerTaker
from clusterd.net.outbox import Outbox
from clusterd.net.sent_requests import SentRequests
from clusterd.wire.connection import Connection, heap_sink
from clusterd.wire.frame import pieces_of


def body(outbox: Outbox, content: bytes, slab: int, counter: int = 1, *, views: int = 1) -> None:
    step = max(1, -(-len(content) // views))
    parts = [memoryview(content)[start : start + step] for start in range(0, len(content), step)]
    outbox.add_body(list(pieces_of(counter, "x", len(content), divide=False)), parts, [slab])


def write(outbox: Outbox) -> bytes:
    return b"".join(bytes(part) for part in outbox.next_write())


def write_all(outbox: Outbox) -> list[bytes]:
    out = []
    while piece := write(outbox):
        out.append(piece)
    return out


def test_a_body_goes_out_in_slices_and_its_header_with_the_first() -> None:
    outbox = Outbox(slice_bytes=100)
    body(outbox, bytes(250), slab=7)
    slices = write_all(outbox)
    assert [len(piece) for piece in slices] == [120, 100, 50]
    assert outbox.drained() == [7]
    assert outbox.waiting_bytes == 0
    assert not outbox


def test_a_slab_is_not_named_before_the_last_of_its_bytes_was_given() -> None:
    outbox = Outbox(slice_bytes=100)
    body(outbox, bytes(150), slab=7)
    write(outbox)
    assert outbox.drained() == []
    write(outbox)
    assert outbox.drained() == [7]
    assert outbox.drained() == []


def test_small_frames_share_a_write() -> None:
    outbox = Outbox(slice_bytes=100)
    outbox.add_first([b"a" * 30, b"b" * 30])
    outbox.add([b"c" * 20, b"d" * 10])
    assert write(outbox) == b"a" * 30 + b"b" * 30 + b"c" * 20 + b"d" * 10


def test_a_response_overtakes_bodies_but_not_the_frame_in_progress() -> None:
    outbox = Outbox(slice_bytes=100)
    body(outbox, b"1" * 150, slab=1)
    body(outbox, b"2" * 150, slab=2)
    first = write(outbox)
    outbox.add_first([b"R" * 10])
    rest = b"".join(write_all(outbox))
    assert (first + rest)[20:].startswith(b"1" * 150 + b"R" * 10)


def test_requests_keep_their_order() -> None:
    outbox = Outbox(slice_bytes=100)
    body(outbox, b"1" * 150, slab=1)
    outbox.add([b"end"])
    assert b"".join(write_all(outbox)).endswith(b"1end")


def test_responses_without_end_let_bodies_through() -> None:
    outbox = Outbox(slice_bytes=100)
    body(outbox, b"1" * 50, slab=1)
    for _ in range(10):
        outbox.add_first([b"R" * 60])
        if outbox.drained() == [1]:
            break
        write(outbox)
    assert outbox.drained() == [1] or not outbox.waiting_bytes - outbox.first_bytes


def test_a_large_frame_is_cut_too() -> None:
    outbox = Outbox(slice_bytes=100)
    outbox.add_first([b"z" * 350])
    assert [len(piece) for piece in write_all(outbox)] == [100, 100, 100, 50]
    assert outbox.first_bytes == 0


def test_a_message_without_a_waiting_asker_is_removed_unless_it_was_begun() -> None:
    outbox = Outbox(slice_bytes=100)
    pieces = list(pieces_of(1, "x", 150, divide=False))
    begun = outbox.add_body(pieces, [memoryview(bytes(150))], [1])
    request = outbox.add([b"request"])
    unsent = outbox.add_body(pieces, [memoryview(bytes(150))], [2])
    write(outbox)
    assert not outbox.withdraw(begun)
    assert outbox.withdraw(request)
    assert outbox.withdraw(unsent)
    assert not outbox.withdraw(unsent)
    write_all(outbox)
    assert outbox.drained() == [1]
    assert outbox.waiting_bytes == 0


class SlowLine:
    """A chunk of 300 bytes, the end of its file behind it, each to be answered within 20 s, and what is written of
    them. `late`: those whose time is over."""

    def __init__(self) -> None:
        self.outbox = Outbox(slice_bytes=100)
        connection = Connection("local-server", None, counter_start=1, allocate=heap_sink)
        self.sent = SentRequests(connection, self.outbox)
        number, pieces = connection.request_sealed("file_upd", 300, 0.0, 20.0)
        entry = self.outbox.add_body(pieces, [memoryview(bytes(300))], [7])
        self.sent.add(number, "file_upd", entry, cast(AnswerTaker, "chunk"), 20.0)
        number, frames = connection.request("file_end", bytes(10), 0.0, 20.0)
        self.sent.add(number, "file_end", self.outbox.add(frames), cast(AnswerTaker, "end"), 20.0)

    def late(self, now: float, taken_at: float) -> list[object]:
        return [(asker, why) for asker, _, why in self.sent.expire(now, taken_at)]


def test_the_time_of_a_request_begins_when_it_was_sent_and_so_does_that_of_one_behind_it() -> None:
    line = SlowLine()
    for seconds in (15.0, 30.0, 45.0):
        assert line.late(seconds, seconds) == []
        write(line.outbox)
    assert line.late(64.9, 64.9) == []
    write(line.outbox)
    assert not line.outbox
    assert line.late(65.0, 65.0) == [("chunk", "timeout")]
    assert line.late(84.9, 84.9) == [("end", "timeout")]


def test_a_peer_that_takes_nothing_has_no_more_time_than_any_other() -> None:
    line = SlowLine()
    write(line.outbox)
    assert line.late(24.0, 5.0) == []
    assert line.late(25.0, 5.0) == [("chunk", "timeout"), ("end", "unsent")], "the end of the file was not begun"


def test_a_link_that_ends_names_every_slab_that_waited() -> None:
    outbox = Outbox(slice_bytes=100)
    for slab in range(3):
        body(outbox, bytes(150), slab)
    write(outbox)
    write(outbox)
    assert sorted(outbox.clear()) == [0, 1, 2]
    assert not outbox
    assert outbox.waiting_bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["first", "then", "body"]), st.integers(0, 400), st.integers(1, 3)), max_size=20
    ),
    st.integers(1, 120),
)
def test_everything_is_written_once_and_each_message_whole(
    messages: list[tuple[str, int, int]], slice_bytes: int
) -> None:
    outbox = Outbox(slice_bytes)
    slabs, whole = [], []
    for number, (lane, size, views) in enumerate(messages):
        content = bytes([number]) * size
        if lane == "body":
            body(outbox, content, number, number, views=views)
            slabs.append(number)
            whole.append(b"".join(piece.header for piece in pieces_of(number, "x", size, divide=False)) + content)
        elif size:
            outbox.add_first([content]) if lane == "first" else outbox.add([content])
            whole.append(content)
    written = b"".join(write_all(outbox))
    assert len(written) == sum(map(len, whole))
    assert all(message in written for message in whole)
    assert sorted(outbox.drained()) == slabs
    assert outbox.waiting_bytes == outbox.first_bytes == 0

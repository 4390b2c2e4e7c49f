"""Headers, command fields and division against the recorded frames (wire.md 2.1, 2.2, 2.4)."""

import base64
import hashlib
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.wire.frame import (
    PIECE_BYTES,
    REQUEST_CHUNK,
    build_header,
    command_field,
    frames_of,
    parse_field,
    parse_header,
    pieces_of,
)
from tests.wire.vectors import body_of, load

FRAMES = load("frames.json")


@pytest.mark.parametrize("vector", FRAMES["frames"], ids=lambda vector: vector["name"])
def test_recorded_message_is_written_to_the_same_bytes(vector: dict[str, Any]) -> None:
    body = body_of(vector)
    divide = vector["plaintext_len"] > FRAMES["request_chunk"]

    frames = frames_of(vector["counter"], vector["command_argument"], body, divide=divide)

    assert len(frames) == len(vector["frames"])
    for frame, recorded in zip(frames, vector["frames"], strict=True):
        assert frame[:20].hex() == recorded["header_hex"]
        assert len(frame) == recorded["frame_len"]
        if "frame_b64" in recorded:
            assert frame == base64.b64decode(recorded["frame_b64"])
        else:
            assert hashlib.sha256(frame[20:]).hexdigest() == recorded["body_sha256"]
            assert hashlib.sha256(frame).hexdigest() == recorded["frame_sha256"]


@pytest.mark.parametrize("vector", FRAMES["frames"], ids=lambda vector: vector["name"])
def test_recorded_header_is_read(vector: dict[str, Any]) -> None:
    for recorded in vector["frames"]:
        header = parse_header(bytes.fromhex(recorded["header_hex"]))
        assert header.counter == vector["counter"]
        assert header.command == vector["command_parsed"]
        assert header.length == recorded["body_len"]
        assert header.divided == recorded["divided"]


@pytest.mark.parametrize("case", FRAMES["command_field_parsing"], ids=lambda case: repr(case["field"]))
def test_any_command_field_is_read_as_the_original_reads_it(case: dict[str, Any]) -> None:
    assert parse_field(bytes.fromhex(case["field_hex"])) == (case["command"], case["divided"])


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("ok", b"ok ---------"),
        ("err", b"err --------"),
        ("hello", b"hello ------"),
        ("syn_m_c_ok", b"syn_m_c_ok -"),
        ("syn_i_w_m_p", b"syn_i_w_m_p "),
        ("ok ", b"ok  --------"),
        ("ok-m ", b"ok-m  ------"),
    ],
)
def test_command_field_has_one_space_then_dashes(command: str, field: bytes) -> None:
    assert command_field(command) == field


def test_command_of_twelve_bytes_cannot_be_built() -> None:
    case = next(case for case in FRAMES["negative"] if case["name"] == "command_too_long")
    with pytest.raises(ClusterError) as refusal:
        build_header(1, 0, case["command"])
    assert refusal.value.code == case["sender_error"]["code"]
    assert str(refusal.value) == case["sender_error"]["message"]


def test_pieces_of_a_body_that_lies_elsewhere_cover_it_without_gap() -> None:
    length = 2 * PIECE_BYTES + 5

    pieces = list(pieces_of(9, "file_upd", length, divide=True))

    assert [(piece.start, piece.stop) for piece in pieces] == [
        (0, PIECE_BYTES),
        (PIECE_BYTES, 2 * PIECE_BYTES),
        (2 * PIECE_BYTES, length),
    ]
    assert [parse_header(piece.header).divided for piece in pieces] == [True, True, False]
    assert all(len(piece.header) + piece.stop - piece.start <= REQUEST_CHUNK for piece in pieces)

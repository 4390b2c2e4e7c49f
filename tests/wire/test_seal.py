"""Fernet over bodies (wire.md 1.2)."""

import base64
from typing import Any

import pytest

from clusterd.wire.seal import BadSeal, Sealer, largest_plain, sealed_length
from tests.wire.vectors import body_of, load, plaintext_of, sealer_of

FRAMES = load("frames.json")
SEALED = [vector for vector in FRAMES["frames"] if vector["key"] is not None]


@pytest.mark.parametrize("vector", SEALED, ids=lambda vector: vector["name"])
def test_recorded_token_opens(vector: dict[str, Any]) -> None:
    sealer = sealer_of(vector["key"])
    assert sealer is not None
    assert sealer.open(body_of(vector)) == plaintext_of(vector)


@pytest.mark.parametrize("size", FRAMES["token_sizes"], ids=lambda size: str(size["plaintext_len"]))
def test_length_of_a_token_is_known_beforehand(size: dict[str, int]) -> None:
    assert sealed_length(size["plaintext_len"]) == size["token_len"]
    assert largest_plain(size["token_len"]) >= size["plaintext_len"]


def test_largest_plain_is_the_turning_point_of_the_length() -> None:
    for length in (0, 15, 16, 1000, 65536, 5242880):
        largest = largest_plain(sealed_length(length))
        assert sealed_length(largest) == sealed_length(length) < sealed_length(largest + 1)
    assert largest_plain(99) == largest_plain(0) == -1


@pytest.mark.parametrize(
    "token", [b"", b"x", b"gAAAA", b"\xff\xfe" * 60, base64.urlsafe_b64encode(b"\x80" + bytes(72))]
)
def test_what_is_no_token_of_this_key_does_not_open(token: bytes) -> None:
    with pytest.raises(BadSeal):
        Sealer(b"k" * 32).open(token)


def test_token_of_another_key_does_not_open() -> None:
    with pytest.raises(BadSeal):
        Sealer(b"k" * 32).open(Sealer(b"l" * 32).seal(b"secret"))


def test_key_never_shows() -> None:
    sealer = Sealer(b"0123456789abcdef0123456789abcdef")
    assert "0123" not in repr(sealer)
    with pytest.raises(ValueError) as refusal:
        Sealer(b"too-short-secret")
    assert "secret" not in str(refusal.value)


def test_body_is_sealed_into_the_room_given() -> None:
    sealer = Sealer(b"k" * 32)
    room = memoryview(bytearray(500))
    length = sealer.seal_into(b"payload", room)
    assert length == sealed_length(7)
    assert sealer.open_parts([room[:50], room[50:length]]) == b"payload"
    with pytest.raises(ValueError):
        sealer.seal_into(b"x" * 400, room)

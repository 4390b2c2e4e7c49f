"""Fernet over bodies (wire.md 1.2)."""

import base64
from typing import Any

import pytest

from clusterd.wire.seal import Sealer
from clusterd.wire.token import BadSeal, sealed_length
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


@pytest.mark.parametrize(
    "token", [b"", b"x", b"gAAAA", b"\xff\xfe" * 60, base64.urlsafe_b64encode(b"\x80" + bytes(72))]
)
def test_what_is_no_token_of_this_key_does_not_open(token: bytes) -> None:
    with pytest.raises(BadSeal):
        Sealer(b"k" * 32).open(token)


def test_token_of_another_key_does_not_open() -> None:
    with pytest.raises(BadSeal):
        Sealer(b"k" * 32).open(Sealer(b"l" * 32).seal(b"secret"))


@pytest.mark.parametrize("place", [1, 8, 9, 24], ids=["first of time", "last of time", "first of iv", "last of iv"])
def test_what_is_not_signed_does_not_open(place: int) -> None:
    """A changed time or initialisation vector leaves the padding valid: only the signature shows it."""
    vector = next(vector for vector in SEALED if len(plaintext_of(vector)) > 40)
    sealer = sealer_of(vector["key"])
    assert sealer is not None
    raw = bytearray(base64.urlsafe_b64decode(body_of(vector)))
    raw[place] ^= 1
    with pytest.raises(BadSeal):
        sealer.open(base64.urlsafe_b64encode(raw))


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

"""The golden vectors of tests/vectors, in the form that the tests of the wire need (its README explains the fields)."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from clusterd.wire.seal import Sealer

DIRECTORY = Path(__file__).parent.parent / "vectors"


@cache
def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DIRECTORY / name).read_text())
    return loaded


@cache
def transcript() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DIRECTORY / "transcript.jsonl").read_text().splitlines()]


def payload_of(entry: dict[str, Any]) -> bytes:
    """Returns a payload that is given as `text` or `b64`."""
    return entry["text"].encode() if "text" in entry else base64.b64decode(entry["b64"])


@cache
def plaintext_by_rule(length: int) -> bytes:
    return (bytes((31 * i + 7) % 256 for i in range(256)) * (length // 256 + 1))[:length]


def plaintext_of(frame: dict[str, Any]) -> bytes:
    if "plaintext_b64" in frame:
        return base64.b64decode(frame["plaintext_b64"])
    plain = plaintext_by_rule(frame["plaintext_len"])
    assert hashlib.sha256(plain).hexdigest() == frame["plaintext_sha256"]
    return plain


def sealer_of(key: str | None) -> Sealer | None:
    return None if key is None else Sealer(key.encode())


def token_from_parts(key: str, plain: bytes, timestamp: int, iv: bytes) -> bytes:
    """Returns exactly the token that a recorded node made."""
    fernet = Fernet(base64.urlsafe_b64encode(key.encode()))
    token: bytes = fernet._encrypt_from_parts(plain, timestamp, iv)
    return token


def body_of(frame: dict[str, Any]) -> bytes:
    """Returns the body of a recorded message, all pieces joined."""
    plain = plaintext_of(frame)
    if frame["key"] is None:
        return plain
    fernet = frame["fernet"]
    return token_from_parts(frame["key"], plain, fernet["timestamp"], bytes.fromhex(fernet["iv_hex"]))

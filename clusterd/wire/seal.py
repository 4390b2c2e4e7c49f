"""Sealing and opening bodies: one Fernet token under the cluster's key (wire.md 1.2).

Time stamps in tokens are written and never checked, as peers do. On the local socket nothing is sealed: there the code
works with `None` in place of a Sealer.
"""

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken

KEY_BYTES = 32
_OVERHEAD = 57
_BLOCK = 16


class BadSeal(Exception):
    """A body does not open: another key, or damage. Says nothing about the body."""


def sealed_length(plain_length: int) -> int:
    """Length of the token for so many bytes: 0 gives 100, 5242880 gives 6990604."""
    return 4 * ((_OVERHEAD + _BLOCK * (plain_length // _BLOCK + 1) + 2) // 3)


def largest_plain(token_length: int) -> int:
    """The most bytes that a token of at most `token_length` bytes can hold; -1 when that is less than an empty token."""
    blocks = (token_length // 4 * 3 - _OVERHEAD) // _BLOCK
    return blocks * _BLOCK - 1 if blocks > 0 else -1


class Sealer:
    """Seals and opens under one key. `key`: the 32 bytes of the configured text. Never shows its key."""

    __slots__ = ("_fernet",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a cluster key has {KEY_BYTES} bytes, this one {len(key)}")
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def seal(self, plain: bytes) -> bytes:
        """The token for `plain`, `sealed_length(len(plain))` bytes."""
        return self._fernet.encrypt(plain)

    def open(self, token: bytes) -> bytes:
        """What was sealed. Raises BadSeal for anything that is not a token of this key."""
        try:
            return self._fernet.decrypt(token)
        except (InvalidToken, ValueError):
            raise BadSeal("Could not decrypt message") from None

    def seal_into(self, plain: bytes, room: memoryview) -> int:
        """Seal into the beginning of `room` and return the length. Raises ValueError when it does not fit."""
        token = self._fernet.encrypt(plain)
        room[: len(token)] = token
        return len(token)

    def open_parts(self, parts: Sequence[bytes | memoryview]) -> bytes:
        """Open a body that lies in several parts (a divided message). Raises BadSeal."""
        return self.open(b"".join(parts))

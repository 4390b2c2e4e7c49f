"""Sealing and opening bodies: one Fernet token under the cluster's key (wire.md 1.2).

Time stamps in tokens are written and never checked, as peers do. On the local socket nothing is sealed: there the code
works with `None` in place of a Sealer.

Opening takes a token apart itself instead of calling Fernet.decrypt, which spends two thirds of its time in binascii's
base64: for 5 MiB it takes 31 ms, this 16 ms. What is verified and in which order is the same; the primitives are the
library's.
"""

import base64
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.padding import PKCS7

KEY_BYTES = 32
_BLOCK = 16
_IV_AT = 9
_CIPHERTEXT_AT = _IV_AT + _BLOCK
_SIGNATURE = 32
_OVERHEAD = _CIPHERTEXT_AT + _SIGNATURE
_VERSION = 0x80

_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_BASE64 = msgspec.json.Decoder(bytes)  # JSON has base64 in a text: the fastest decoder at hand


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

    __slots__ = ("_cipher", "_fernet", "_signer")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a cluster key has {KEY_BYTES} bytes, this one {len(key)}")
        self._fernet = Fernet(base64.urlsafe_b64encode(key))
        self._signer = HMAC(key[:16], SHA256())
        self._cipher = algorithms.AES(key[16:])

    def seal(self, plain: bytes) -> bytes:
        """The token for `plain`, `sealed_length(len(plain))` bytes."""
        return self._fernet.encrypt(plain)

    def seal_into(self, plain: bytes, room: memoryview) -> int:
        """Seal into the beginning of `room` and return the length. Raises ValueError when it does not fit."""
        token = self._fernet.encrypt(plain)
        room[: len(token)] = token
        return len(token)

    def open(self, token: bytes | memoryview) -> bytes:
        """What was sealed. Raises BadSeal for anything that is not a token of this key."""
        return self.open_parts((token,))

    def open_parts(self, parts: Sequence[bytes | memoryview]) -> bytes:
        """Open a body that lies in several parts (a divided message). Raises BadSeal."""
        try:
            return self._open(_BASE64.decode(b"".join((b'"', *parts, b'"')).translate(_TO_STANDARD)))
        except (InvalidSignature, ValueError, msgspec.MsgspecError):
            raise BadSeal("Could not decrypt message") from None

    def _open(self, raw: bytes) -> bytes:
        """`raw`: the token without its base64."""
        if len(raw) < _OVERHEAD + _BLOCK or raw[0] != _VERSION:
            raise ValueError("no Fernet token")
        view = memoryview(raw)
        signer = self._signer.copy()
        signer.update(view[:-_SIGNATURE])
        signer.verify(raw[-_SIGNATURE:])
        decryptor = Cipher(self._cipher, modes.CBC(raw[_IV_AT:_CIPHERTEXT_AT])).decryptor()
        padded = decryptor.update(view[_CIPHERTEXT_AT:-_SIGNATURE]) + decryptor.finalize()
        unpadder = PKCS7(8 * _BLOCK).unpadder()
        last = unpadder.update(padded[-_BLOCK:]) + unpadder.finalize()
        return padded[:-_BLOCK] + last

"""Seals and opens bodies: one Fernet token with the cluster key (wire.md 1.2).

Time stamps in tokens are written and never checked, as in stock. Nothing is sealed on the local socket: there the code
passes `None` in place of a Sealer.

Tokens are assembled and parsed here, not by the library's Fernet, which spends most of its time in binascii's base64
and in copies: 22 to 36 ms for 5 MiB, against 7.6 ms here. What is signed and verified, and in which order, is the same;
the primitives are the libraries'.
"""

import os
import time
from collections.abc import Sequence

import pybase64
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from clusterd.wire.token import BLOCK, CIPHERTEXT_AT, OVERHEAD, SIGNATURE, BadSeal

KEY_BYTES = 32
_IV_AT = 9
_VERSION = 0x80

_ALPHABET = b"-_"
_PADDING = tuple(bytes((count,)) * count for count in range(BLOCK + 1))


class Sealer:
    """Seals and opens with one key. `key`: the 32 bytes of the configured text. Never shows its key."""

    __slots__ = ("_cipher", "_signer")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a cluster key has {KEY_BYTES} bytes, this one {len(key)}")
        self._signer = HMAC(key[:16], SHA256())
        self._cipher = algorithms.AES(key[16:])

    def seal(self, plain: bytes | bytearray) -> bytes:
        """The token for `plain`, `sealed_length(len(plain))` bytes."""
        whole = len(plain) // BLOCK * BLOCK
        # The cipher needs room for one block more than it writes; the place of the signature is as large.
        raw = bytearray(OVERHEAD + whole + BLOCK)
        iv = os.urandom(BLOCK)
        raw[0] = _VERSION
        raw[1:_IV_AT] = int(time.time()).to_bytes(_IV_AT - 1, "big")
        raw[_IV_AT:CIPHERTEXT_AT] = iv
        encryptor = Cipher(self._cipher, modes.CBC(iv)).encryptor()
        rest = len(plain) - whole
        with memoryview(plain) as source, memoryview(raw) as room:
            encryptor.update_into(source[:whole], room[CIPHERTEXT_AT:])
            last = encryptor.update(bytes(source[whole:]) + _PADDING[BLOCK - rest]) + encryptor.finalize()
            room[CIPHERTEXT_AT + whole : -SIGNATURE] = last
            signer = self._signer.copy()
            signer.update(room[:-SIGNATURE])
            room[-SIGNATURE:] = signer.finalize()
        return pybase64.b64encode(raw, altchars=_ALPHABET)

    def seal_into(self, plain: bytes | bytearray, room: memoryview) -> int:
        """Seals into the beginning of `room` and returns the length. Raises ValueError if it does not fit."""
        token = self.seal(plain)
        room[: len(token)] = token
        return len(token)

    def open(self, token: bytes | memoryview) -> bytes:
        """Opens a token. Raises BadSeal for anything that is no token of this key."""
        return self.open_parts((token,))

    def open_parts(self, parts: Sequence[bytes | memoryview]) -> bytes:
        """Opens a body in several parts (a divided message). Raises BadSeal."""
        token = b"".join(parts)
        try:
            if b"+" in token or b"/" in token:  # the standard alphabet: the decoder takes it, with a warning
                raise ValueError("no Fernet token")
            return self._open(pybase64.b64decode(token, altchars=_ALPHABET, validate=True))
        except (InvalidSignature, ValueError):
            raise BadSeal("Could not decrypt message") from None

    def _open(self, raw: bytes) -> bytes:
        """`raw`: the token without its base64."""
        if len(raw) < OVERHEAD + BLOCK or raw[0] != _VERSION:
            raise ValueError("no Fernet token")
        view = memoryview(raw)
        signer = self._signer.copy()
        signer.update(view[:-SIGNATURE])
        signer.verify(raw[-SIGNATURE:])
        decryptor = Cipher(self._cipher, modes.CBC(raw[_IV_AT:CIPHERTEXT_AT])).decryptor()
        padded = decryptor.update(view[CIPHERTEXT_AT:-SIGNATURE]) + decryptor.finalize()
        fill = padded[-1]
        if not 1 <= fill <= BLOCK or not padded.endswith(_PADDING[fill]):
            raise ValueError("no Fernet token")
        return padded[:-fill]

"""The visible properties of a sealed body: its length, and the error for one that does not open (wire.md 1.2).

Separate from seal.py, so that programs on the local socket, where nothing is sealed, need no cryptography.
"""

BLOCK = 16
CIPHERTEXT_AT = 9 + BLOCK
"""Version, time stamp and initialisation vector come before it."""
SIGNATURE = 32
OVERHEAD = CIPHERTEXT_AT + SIGNATURE


class BadSeal(Exception):
    """A body does not open: another key, or damage. The error reveals nothing of the body."""


def sealed_length(plain_length: int) -> int:
    """Length of the token for that many plain bytes: 0 gives 100, 5242880 gives 6990604."""
    return 4 * ((OVERHEAD + BLOCK * (plain_length // BLOCK + 1) + 2) // 3)

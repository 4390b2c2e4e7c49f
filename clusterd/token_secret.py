"""The secret that signs the tokens of a node's REST API: a file, so that tokens outlive the process that issued them
and become void when the file is replaced."""

import os
import secrets
import stat
from pathlib import Path

from clusterd.errors import StartFailure
from clusterd.settings import Secret
from hashing.atomic import FileOps
from hashing.write import write_atomic

SECRET_FILE = "etc/clusterd-api-token.key"
SECRET_BYTES = 64


def load_secret(root: str) -> Secret:
    """Reads the secret of this node's tokens, or creates it. Raises StartFailure that says what to do."""
    path = Path(root, SECRET_FILE)
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as failure:
        raise StartFailure(f"the secret of the API's tokens {path} cannot be read: {failure.strerror}") from None
    try:
        _write(path)
        return _read(path)
    except OSError as failure:
        text = f"the secret of the API's tokens {path} cannot be made: {failure.strerror}"
        raise StartFailure(f"{text}; give the daemon's user the right to write in etc") from None


def replace_secret(root: str) -> bool:
    """Makes every token of this node void; False if it has never issued one. Raises OSError."""
    path = Path(root, SECRET_FILE)
    if not os.path.lexists(path):
        return False
    _write(path)
    return True


class SecretFile:
    """The current secret; the file is read again only after it changed."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._identity: tuple[int, ...] | None = None
        self._secret = Secret(b"")

    def secret(self) -> Secret:
        """Raises StartFailure."""
        identity = self._looked_at()
        if identity is None or identity != self._identity:
            self._secret = load_secret(self._root)
            self._identity = self._looked_at() if identity is None else identity
        return self._secret

    def _looked_at(self) -> tuple[int, ...] | None:
        try:
            found = os.lstat(Path(self._root, SECRET_FILE))
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _write(path: Path) -> None:
    write_atomic(FileOps(), str(path), secrets.token_hex(SECRET_BYTES).encode(), 0o600)


def _read(path: Path) -> Secret:
    """Raises OSError, and StartFailure for a file that is no secret of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
            raise StartFailure(f"{path} must be a file that only its owner may read: chmod 600")
        text = file.read(4 * SECRET_BYTES).strip()
    if len(text) < 2 * SECRET_BYTES:
        raise StartFailure(f"{path} is damaged; remove it, and callers will have to log in again")
    return Secret(text)

"""The files of the REST API that a candidate keeps for the day on which it leads, so that logins survive. They are
secret: nothing of them is ever logged, and they travel inside sealed bodies only."""

import contextlib
import os
from hashlib import blake2b
from pathlib import Path

import msgspec

from clusterd.errors import ClusterError
from clusterd.messages.replica import ApiFiles
from clusterd.rundir import API_FILES
from clusterd.settings import Settings
from clusterd.token_secret import SECRET_FILE
from clusterd.users import USERS_FILE
from hashing.atomic import FileOps
from hashing.write import write_atomic

MOST_FILE_BYTES = 2 * 1024 * 1024
PIECE_BYTES = 24 * 1024
NAMES = ("certificate.pem", "key.pem", "token.key", "users.json")
NOTHING = ""
"""The digest of no files."""


def sources(settings: Settings) -> dict[str, Path]:
    """Where a node with a REST API has these files, by the name under which a candidate keeps them."""
    api, root = settings.clusterd.api, Path(settings.root)
    paths = (root / api.cert, root / api.key, root / SECRET_FILE, root / USERS_FILE)
    return dict(zip(NAMES, paths, strict=True))


class ApiSource:
    """A master's files, read again when one of them has changed."""

    def __init__(self, settings: Settings) -> None:
        self._sources = sources(settings) if settings.clusterd.api.enabled else {}
        self._seen: dict[str, tuple[int, ...] | None] | None = None
        self._content = b""
        self._digest = NOTHING

    def digest(self) -> str:
        """Blocking. Raises OSError."""
        seen = {name: _identity(path) for name, path in self._sources.items()}
        if seen != self._seen:
            files = {name: _read(self._sources[name]) for name, identity in seen.items() if identity is not None}
            self._content, self._digest = _encoded(files)
            self._seen = seen
        return self._digest

    def piece(self, digest: str, offset: int) -> bytes:
        """Of the files with this digest; shorter than PIECE_BYTES at the end. Raises ClusterError when they have
        changed."""
        if digest != self._digest or offset < 0:
            raise ClusterError(1000, "the files of the REST API have changed meanwhile")
        return self._content[offset : offset + PIECE_BYTES]


class ApiCopy:
    """A candidate's copies, in a directory that only the daemon's user may read."""

    def __init__(self, root: str) -> None:
        self._directory = Path(root) / API_FILES
        self._digest: str | None = None

    def digest(self) -> str:
        """Of what is there. Blocking. Raises OSError."""
        if self._digest is None:
            found = {name: self._directory / name for name in NAMES}
            files = {name: _read(path) for name, path in found.items() if path.is_file()}
            self._digest = _encoded(files)[1]
        return self._digest

    def store(self, content: bytes, digest: str) -> None:
        """Replaces all of them. Blocking. Raises OSError, ClusterError for what is not what the digest says."""
        try:
            files = msgspec.msgpack.decode(content, type=ApiFiles).files if digest != NOTHING else {}
        except msgspec.MsgspecError:
            raise ClusterError(1000, "the files of the REST API came damaged") from None
        if _encoded(files)[1] != digest or not set(files) <= set(NAMES):
            raise ClusterError(1000, "the files of the REST API came damaged")
        self._digest = None
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self._directory, 0o700)
        for name in NAMES:
            path = self._directory / name
            if name in files:
                write_atomic(FileOps(), str(path), files[name], 0o600)
            else:
                path.unlink(missing_ok=True)
        self._digest = digest

    def shown(self) -> int:
        """How many there are."""
        with contextlib.suppress(OSError):
            return sum(name in NAMES for name in os.listdir(self._directory))
        return 0


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        content = file.read(MOST_FILE_BYTES + 1)
    if len(content) > MOST_FILE_BYTES:
        raise OSError(f"{path} has more than {MOST_FILE_BYTES} bytes")
    return content


def _encoded(files: dict[str, bytes]) -> tuple[bytes, str]:
    if not files:
        return b"", NOTHING
    content = msgspec.msgpack.encode(ApiFiles(dict(sorted(files.items()))))
    return content, blake2b(content, digest_size=16).hexdigest()

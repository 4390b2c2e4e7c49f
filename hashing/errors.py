"""What can go wrong with one file or one package. Errors of the operating system (disk full, no permission) stay
OSError; the caller that can name the file and continue with the next one catches them."""

import msgspec


class HashingError(Exception):
    """Base. `path` is the file, entry or package concerned, as it was named; `text` says to a person what happened."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.text = text


class FileVanished(HashingError):
    """The file was there a moment ago and is gone. Not a failure: the next scan or check knows."""


class LinkToNothing(FileVanished):
    """The target of a link that may be followed is gone, perhaps on a disk that is not mounted. The link itself is
    still there."""


class UnsafePath(HashingError):
    """A path that leads, or could be made to lead, outside of what may be read or written. Nothing was touched."""


class DigestMismatch(HashingError):
    """The content is not what its metadata says. Nothing was put in place."""


class MalformedPackage(HashingError):
    """Bytes that are not a package, metadata or state file; the whole of it is refused."""


class PackageTooLarge(HashingError):
    """A bound on size, count or ratio was reached before the end."""


class Note(msgspec.Struct, frozen=True):
    """A message for people about one file; the work on the other files continued. `level`: "DEBUG2", "DEBUG",
    "WARNING" or "ERROR"; `path` relative to the root; `text` is the log text (wire.md section 5 where it has one);
    `why` is the bare reason for status, empty when it is not shown there."""

    level: str
    path: str
    text: str
    why: str = ""

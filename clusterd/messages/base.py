"""Base classes of messages."""

from typing import Any, ClassVar, Generic, TypeVar, get_args

import msgspec

INLINE_BYTES = 65536
"""Largest payload that travels inside a message; larger ones are sealed bodies in the arena or files in the spool."""


class Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of every message."""


class Result(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of the results."""


R_co = TypeVar("R_co", bound=Result, covariant=True)


class Job(msgspec.Struct, Generic[R_co], frozen=True, tag=True, omit_defaults=True):
    """Base of the jobs. Paths are absolute. A job is safe to run twice, unless it says otherwise. `makes`: those of its
    fields that name files which it makes and its caller removes."""

    makes: ClassVar[tuple[str, ...]] = ()

    @property
    def may_run_again(self) -> bool:
        """Whether another process runs it once more when its process dies."""
        return True

    @classmethod
    def result_type(cls) -> type[Any]:
        """Returns the Result that `Job[...]` of its definition names."""
        found: type[Any] = get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
        return found


class Text(msgspec.Struct, frozen=True, array_like=True):
    """JSON of the distributed API: `payload`, at most INLINE_BYTES, or `size` bytes at `offset` of the spool file
    `path`."""

    payload: bytes = b""
    path: str = ""
    size: int = 0
    offset: int = 0

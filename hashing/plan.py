"""The plan by which a received package is applied: what each of its ranges must yield, what is to be deleted.

A file of the spool, made by open_package, read by the jobs that follow. Layout, numbers of 8 bytes big-endian:

    plan = magic (8 bytes) count, count * bytes-unpacked, length of index, index, count * section

Each unpack job decodes only its own section. It writes the number of bytes that it has unpacked to its own place in the
head, where the other jobs read it: so all jobs together keep to one bound.
"""

import os
import struct
from typing import Self, TypeVar

import msgspec

from hashing.errors import MalformedPackage, PackageTooLarge

_MAGIC = b"cdplan02"
_NUMBER = struct.Struct(">Q")
_HEAD = len(_MAGIC) + _NUMBER.size
_T = TypeVar("_T")
_LOOK_BYTES = 16 * 1024 * 1024


class Target(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file to be written: `digest` (BLAKE2b) of its content, final `mode`, `is_new` if the group is missing, else
    shared. `merged`: it is split too if it turns out to be a merged file; `only_parts`: it has no place of its own."""

    path: str
    digest: bytes
    mode: int
    is_new: bool
    merged: bool = False
    only_parts: bool = False

    @property
    def group(self) -> str:
        return "missing" if self.is_new else "shared"


class Written(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A verified file that waits beside `path`, known by its `inode` and size. For a target with `only_parts` there
    is no such file, and both are 0. `above`: it waits in this directory instead, because a file that is to be deleted
    stands in the place of one of its own."""

    path: str
    inode: int = 0
    size: int = 0
    above: str | None = None

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0] if self.above is None else self.above

    @property
    def named_for(self) -> str:
        """What its temporary name is made of."""
        return self.path.rpartition("/")[2] if self.above is None else self.path


class PlanSection(msgspec.Struct, frozen=True, array_like=True):
    """Entries that begin from byte `start` of the package on and before `stop`."""

    start: int
    stop: int
    targets: list[Target]


class Index(msgspec.Struct, frozen=True, array_like=True):
    """`owner`: a word of this plan only. `sections`: length of each in bytes. `extra`: path and item of what is to
    be deleted. The counts are the files of each group that were already refused."""

    owner: str
    sections: list[int]
    extra: list[tuple[str, str]]
    refused_missing: int
    refused_shared: int
    refused_extra: int


class PlanFile:
    """An open plan file; close it, or use it as a context manager."""

    def __init__(self, path: str) -> None:
        """Raises MalformedPackage when it is not a whole plan, OSError as it comes."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            head = os.pread(self._fd, _HEAD, 0)
            if len(head) != _HEAD or not head.startswith(_MAGIC):
                raise MalformedPackage(path, "is not a plan")
            self.count = _NUMBER.unpack_from(head, len(_MAGIC))[0]
            at = _HEAD + self.count * _NUMBER.size
            length = _NUMBER.unpack(self._read(at, _NUMBER.size))[0]
            at += _NUMBER.size
            self.index = _decode(path, self._read(at, length), Index)
            self._sections_at = at + length
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def section(self, number: int) -> PlanSection:
        """Raises MalformedPackage."""
        start = self._sections_at + sum(self.index.sections[:number])
        return _decode(self.path, self._read(start, self.index.sections[number]), PlanSection)

    def owner_of(self, number: int) -> str:
        """The owner of the temporary files of section `number` (atomic.py): no other section or plan has it, so that
        parts of merged files that two sections hold do not meet either."""
        return f"{self.index.owner}-{number}"

    def unpacked_bytes(self) -> int:
        """Raw bytes that all sections together have reported so far."""
        numbers = self._read(_HEAD, self.count * _NUMBER.size)
        return sum(number for (number,) in _NUMBER.iter_unpack(numbers))

    def tell_unpacked(self, number: int, raw: int) -> None:
        """Note that section `number` has yielded `raw` bytes."""
        os.pwrite(self._fd, _NUMBER.pack(raw), _HEAD + number * _NUMBER.size)

    def _read(self, at: int, length: int) -> bytes:
        data = os.pread(self._fd, length, at)
        if len(data) != length:
            raise MalformedPackage(self.path, "is cut short")
        return data


class Budget:
    """Raw bytes that section `number` may still yield, of `limit` for all sections of the plan together."""

    def __init__(self, plan: PlanFile, number: int, limit: int) -> None:
        self._plan = plan
        self._number = number
        self._limit = limit
        self._own = 0
        self._next_look = 0
        self._is_spent = False
        # A job that is run again starts anew.
        plan.tell_unpacked(number, 0)

    def spend(self, path: str, raw: int) -> None:
        """Raises PackageTooLarge once the bound is reached. Each running job notices that at most 16 MiB later."""
        self._own += raw
        if self._own >= self._next_look:
            self._next_look = self._own + _LOOK_BYTES
            self.tell()
            self._is_spent = self._is_spent or self._plan.unpacked_bytes() > self._limit
        if self._is_spent or self._own > self._limit:
            raise PackageTooLarge(path, f"the package has more than {self._limit} bytes in all")

    def tell(self) -> None:
        """Report what this section has yielded to the others. Call it at the end of the section."""
        self._plan.tell_unpacked(self._number, self._own)


def save_plan(
    path: str, sections: list[PlanSection], extra: list[tuple[str, str]], refused: tuple[int, int, int]
) -> None:
    """Write a plan, replacing what was there. `refused`: counts of missing, shared, extra. OSError as it comes."""
    encode = msgspec.msgpack.Encoder().encode
    bodies = [encode(section) for section in sections]
    index = encode(Index(f"plan{os.urandom(8).hex()}", [len(body) for body in bodies], extra, *refused))
    with open(path, "wb") as file:
        file.write(_MAGIC + _NUMBER.pack(len(bodies)) + bytes(len(bodies) * _NUMBER.size))
        file.write(_NUMBER.pack(len(index)) + index)
        file.writelines(bodies)


def _decode(path: str, data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise MalformedPackage(path, f"does not decode: {error}") from error

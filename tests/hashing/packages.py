"""Trees, differences and packages for the tests of pack, unpack and apply."""

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

from hashing.apply import AppliedPlan, apply_plan
from hashing.atomic import FileOps
from hashing.compare import Difference, save_difference
from hashing.manifest import FileMeta
from hashing.metadata_json import WireMeta
from hashing.opening import OpenedPackage, open_package
from hashing.pack import FinishedPackage, PackedPart, finish_package, pack_part
from hashing.package import FILE_SEP, PATH_SEP, PackageReader
from hashing.plan import Written
from hashing.rules import ItemRule, Rules, item_of
from hashing.unpack import UnpackedRange, unpack_range

GIB = 1 << 30
RULES = Rules(
    items=(
        ItemRule("etc/", ("client.keys",), False, 0o640),
        ItemRule("etc/shared/", ("all",), True, 0o660, remove_subdirs_if_empty=True),
        ItemRule("var/multigroups/", ("merged.mg",), True, 0o660, remove_subdirs_if_empty=True),
        ItemRule("etc/rules/", ("all",), True, 0o660),
        ItemRule("etc/decoders/", ("all",), True, 0o660),
        ItemRule("etc/lists/", ("all",), True, 0o660),
    )
)


def step() -> None:
    """A heartbeat that does nothing."""


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    root.mkdir(exist_ok=True)
    for path, data in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def read_tree(root: Path) -> dict[str, bytes]:
    """Returns every file below `root`, also temporary ones."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def meta_of(
    path: str, data: bytes = b"x", item: str | None = None, mtime_ns: int = 1_700_000_000_000_000_000
) -> FileMeta:
    if item is None:
        rule = item_of(RULES, path)
        item = rule.key if rule is not None else "etc/rules/"
    return FileMeta(path, item, blake2b(data).digest(), len(data), mtime_ns)


def wire_of(path: str, data: bytes = b"", item: str | None = None, **more: object) -> WireMeta:
    row = meta_of(path, data, item)
    return WireMeta(row.item, row.digest.hex(), 1.0, **more)  # type: ignore[arg-type]


def difference_of(
    missing: Mapping[str, bytes], shared: Mapping[str, bytes] | None = None, extra: Iterable[str] = ()
) -> Difference:
    return Difference(
        [meta_of(path, data) for path, data in sorted(missing.items())],
        [meta_of(path, data) for path, data in sorted((shared or {}).items())],
        [(path, wire_of(path)) for path in sorted(extra)],
    )


def save(spool: Path, difference: Difference) -> str:
    path = str(spool / "difference")
    save_difference(FileOps(), path, difference)
    return path


def pack(
    root: Path,
    spool: Path,
    difference: Difference,
    *,
    limit: int = GIB,
    level: int = 1,
    part_files: int = 1000,
    **how: bool,
) -> tuple[list[PackedPart], FinishedPackage]:
    """Packs in parts of `part_files` and finishes, as the master does."""
    saved = save(spool, difference)
    count = len(difference.missing) + len(difference.shared)
    parts = [
        pack_part(str(root), saved, at, at + part_files, limit, level, str(spool / f"part-{at}"), False, step)
        for at in range(0, count, part_files)
    ]
    return parts, finish_package(saved, parts, limit, level, str(spool / "metadata"), step, **how)


def joined(package: FinishedPackage) -> bytes:
    """Returns the bytes that are sent to the worker."""
    pieces = []
    for segment in package.segments:
        with open(segment.path, "rb") as file:
            file.seek(segment.offset)
            pieces.append(file.read(segment.length))
    return b"".join(pieces)


def split_as_stock(package: bytes) -> list[tuple[str, bytes]]:
    """Reads the format a second way: cuts at every separator, as a stock receiver does (wire.md 5.4)."""
    entries = []
    for part in package.split(FILE_SEP):
        path, stream = part.split(PATH_SEP, 1)
        entries.append((path.decode(), zlib.decompress(stream)))
    return entries


def build_as_stock(entries: Iterable[tuple[str, bytes]], level: int = 1) -> bytes:
    """Returns a package as a stock node makes it, whatever the data contain."""
    return FILE_SEP.join(path.encode() + PATH_SEP + zlib.compress(data, level) for path, data in entries)


class Receiver:
    """A worker's side: one package opened, unpacked and applied below `root`, with its spool in `spool`."""

    def __init__(self, root: Path, spool: Path, package: bytes, ops: FileOps | None = None) -> None:
        root.mkdir(exist_ok=True)
        self.root = str(root)
        self.package = str(spool / "package")
        self.plan = str(spool / "plan")
        self.ops = ops or FileOps()
        self.range_bytes = 4 << 20
        self.max_file = 16 * GIB
        self.max_total = 16 * GIB
        self.owner: tuple[int, int] | None = None
        self.rules = RULES
        Path(self.package).write_bytes(package)

    def open(self) -> OpenedPackage:
        return open_package(
            self.package,
            self.root,
            self.rules,
            self.plan,
            self.max_file,
            self.max_total,
            step,
            range_bytes=self.range_bytes,
        )

    def unpack(self, index: int) -> UnpackedRange:
        return unpack_range(
            self.package,
            self.root,
            self.plan,
            index,
            self.max_file,
            self.max_total,
            self.ops,
            self.owner,
            step,
            self.rules,
        )

    def apply(self, unpacked: Iterable[Iterable[Written]], *, delete: bool = True) -> AppliedPlan:
        return apply_plan(self.root, self.rules, self.plan, unpacked, self.ops, step, delete=delete)

    def run(self, *, delete: bool = True) -> tuple[OpenedPackage, list[UnpackedRange], AppliedPlan]:
        opened = self.open()
        ranges = [self.unpack(index) for index in range(opened.ranges)]
        applied = self.apply([part.written for part in ranges], delete=delete)
        return opened, ranges, applied


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def iter_entries(fd: int, size: int, limit: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields all entries of an open package in order: path and content in pieces (read each to its end), `limit` raw
    bytes each.

    Raises MalformedPackage, PackageTooLarge.
    """
    reader = PackageReader(fd, size)
    while reader.expects_entry:
        path = reader.read_path()
        yield path, reader.content(path, limit)


def build_merged(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Returns a merged file of (name, modification time in ns, content)."""
    pieces = []
    for name, mtime_ns, data in files:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=mtime_ns // 1000)
        pieces += [f"{len(data)} {name} {time}\n".encode(), data]
    return b"".join(pieces)

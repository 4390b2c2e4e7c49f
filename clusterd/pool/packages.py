"""Jobs on packages: pack, finish, open, unpack, apply, sweep. Thin: the work is hashing's."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import astuple

from clusterd.agent_keys import KEY_FILE
from clusterd.messages.manifest import SweepTemporary, Swept
from clusterd.messages.packages import (
    Applied,
    ApplyPlan,
    FinishPackage,
    OpenPackage,
    PackageFinished,
    PackageOpened,
    PackPart,
    PartPacked,
    RangeUnpacked,
    UnpackRange,
)
from clusterd.pool.keys import may_be_sent
from clusterd.settings import Settings
from hashing.apply import apply_plan, sweep_temporary
from hashing.atomic import FileOps
from hashing.compare import Difference, load_difference
from hashing.opening import open_package
from hashing.pack import PackedPart, finish_package, pack_part
from hashing.unpack import unpack_range

OnStep = Callable[[], None]


class Differences:
    """The difference file read last: the parts of one package are packed one after the other. A file in the spool is
    never written again under the same name."""

    def __init__(self) -> None:
        self._path = ""
        self._found: Difference | None = None

    def load(self, path: str) -> Difference:
        """Raises FileNotFoundError, MalformedPackage, OSError."""
        if self._found is None or path != self._path:
            self._found = load_difference(path)
            self._path = path
        return self._found

    def forget(self) -> None:
        self._found = None


def pack(job: PackPart, settings: Settings, differences: Differences, on_step: OnStep) -> PartPacked:
    level = settings.communication.compress_level
    found = pack_part(
        job.root,
        job.difference,
        job.start,
        job.stop,
        job.limit,
        level,
        job.out,
        job.oversize,
        on_step,
        differences.load,
        job.method,
        settings.rules,
    )
    Path(job.index).write_bytes(msgspec.msgpack.encode(found))
    packed = sum(entry.length for entry in found.entries)
    is_as_listed = not (
        found.vanished
        or any(number not in found.oversize for number in found.dropped)
        or any(entry.digest for entry in found.entries)
    )
    return PartPacked(packed, found.oversize, is_as_listed, found.notes)


def finish(job: FinishPackage, settings: Settings, differences: Differences, on_step: OnStep) -> PackageFinished:
    parts = [msgspec.msgpack.decode(Path(index).read_bytes(), type=PackedPart) for index in job.indexes]
    level = settings.communication.compress_level
    # With protection against mass deletion, files that vanish while they are packed are judged with all others.
    found = finish_package(
        job.difference,
        parts,
        job.limit,
        level,
        job.out,
        on_step,
        differences.load,
        job.method,
        delete_vanished=settings.clusterd.max_delete_share >= 1,
        believes=lambda path, digest: path != KEY_FILE or may_be_sent(settings, digest),
    )
    differences.forget()
    return PackageFinished(*astuple(found))


def open_received(job: OpenPackage, settings: Settings, on_step: OnStep) -> PackageOpened:
    found = open_package(
        job.package, job.root, settings.rules, job.plan, job.max_file_bytes, job.max_total_bytes, on_step
    )
    return PackageOpened(*astuple(found))


def unpack(job: UnpackRange, settings: Settings, on_step: OnStep) -> RangeUnpacked:
    found = unpack_range(
        job.package,
        job.root,
        job.plan,
        job.index,
        job.max_file_bytes,
        job.max_total_bytes,
        FileOps(),
        None,
        on_step,
        settings.rules,
    )
    return RangeUnpacked(*astuple(found))


def apply(job: ApplyPlan, settings: Settings, on_step: OnStep) -> Applied:
    found = apply_plan(job.root, settings.rules, job.plan, job.unpacked, FileOps(), on_step, delete=job.delete)
    return Applied(*astuple(found))


def sweep(job: SweepTemporary, settings: Settings) -> Swept:
    return Swept(sweep_temporary(job.root, settings.rules, FileOps(), job.more))

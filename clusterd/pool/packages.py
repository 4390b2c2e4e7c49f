"""Jobs on packages: pack, finish, open, unpack, apply, sweep. Thin: the work is hashing's, the shapes are ipc's."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from clusterd.settings import Settings
from hashing.apply import apply_plan, sweep_temporary
from hashing.atomic import FileOps
from hashing.pack import PackedPart, finish_package, pack_part
from hashing.unpack import open_package, unpack_range
from ipc.messages import (
    Applied,
    ApplyPlan,
    FinishPackage,
    OpenPackage,
    PackageFinished,
    PackageOpened,
    PackPart,
    PartPacked,
    RangeUnpacked,
    SweepTemporary,
    Swept,
    UnpackRange,
)

OnStep = Callable[[], None]
R = TypeVar("R")


def _as(shape: type[R], found: object) -> R:
    """hashing's value as the message of the same fields: neither package knows the other."""
    return msgspec.convert(found, shape, from_attributes=True)


def pack(job: PackPart, settings: Settings, on_step: OnStep) -> PartPacked:
    level = settings.communication.compress_level
    found = pack_part(job.root, job.difference, job.start, job.stop, job.limit, level, job.out, job.oversize, on_step)
    return _as(PartPacked, found)


def finish(job: FinishPackage, settings: Settings, on_step: OnStep) -> PackageFinished:
    parts = [_as(PackedPart, part) for part in job.parts]
    level = settings.communication.compress_level
    return _as(PackageFinished, finish_package(job.difference, parts, job.limit, level, job.out, on_step))


def open_received(job: OpenPackage, settings: Settings, on_step: OnStep) -> PackageOpened:
    found = open_package(
        job.package, job.root, settings.rules, job.plan, job.max_file_bytes, job.max_total_bytes, on_step
    )
    return _as(PackageOpened, found)


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
    )
    return _as(RangeUnpacked, found)


def apply(job: ApplyPlan, settings: Settings, on_step: OnStep) -> Applied:
    found = apply_plan(job.root, settings.rules, job.plan, job.unpacked, FileOps(), on_step, delete=job.delete)
    return _as(Applied, found)


def sweep(job: SweepTemporary, settings: Settings) -> Swept:
    return Swept(sweep_temporary(job.root, settings.rules, FileOps()))

"""Jobs on differences and packages: compare, pack, open, unpack, apply. Where a job returns a result of hashing, its
result is hashing's struct with a tag."""

from clusterd.messages.base import Job, Result
from clusterd.messages.manifest import Packed
from hashing.apply import AppliedPlan
from hashing.errors import Note
from hashing.opening import OpenedPackage
from hashing.pack import FinishedPackage
from hashing.plan import Written
from hashing.unpack import UnpackedRange
from ipc.descriptor import Descriptor


class PackMetadata(Job[Packed], frozen=True, tag="pack-metadata"):
    """A worker's check package: the manifest `root_digest` as the only entry. `method`: as in PackPart."""

    makes = ("out",)

    state_dir: str
    root_digest: str
    out: str
    method: str = "zlib"


class Compared(Result, frozen=True, tag="compared"):
    """`received`: files in the worker's metadata. `raw_sizes`: of the missing and shared files in the order of their
    paths. `content` identifies what must be sent (paths and digests), `whole` the difference. `dry`: the worker only
    asked for the differences; `against`: the content digest of ours that the worker assumed. `unknown`: items of the
    worker that this node does not synchronise."""

    received: int
    missing: int
    shared: int
    extra: int
    raw_sizes: list[int]
    content: bytes = b""
    whole: bytes = b""
    dry: bool = False
    against: str = ""
    unknown: tuple[str, ...] = ()


class ComparePackage(Job[Compared], frozen=True, tag="compare"):
    """Read a worker's check package and compare it to our manifest; write the difference to `out`."""

    makes = ("out",)

    package: str
    state_dir: str
    root_digest: str
    out: str


class BucketsPicked(Result, frozen=True, tag="buckets-picked"):
    """`size` bytes, which contain `rows` files: in `payload`, or in the job's `out` when that is empty."""

    size: int
    rows: int
    payload: bytes = b""


class PickBuckets(Job[BucketsPicked], frozen=True, tag="pick-buckets"):
    """Select what a worker sends about the buckets whose digests differ: `ours` of its manifest `root_digest`, `theirs`
    of the master's with the content digest `master`. A large result is written to `out`."""

    makes = ("out",)

    state_dir: str
    root_digest: str
    ours: bytes
    theirs: bytes
    master: str
    dry: bool
    out: str


class CompareBuckets(Job[Compared], frozen=True, tag="compare-buckets"):
    """Compare what a worker sent (`body` sealed in net's slabs, or `payload`) to our manifest; write the difference to
    `out`. Result: Compared, or JobFailed "bad-seal", "bad-package", "too-large"."""

    makes = ("out",)

    state_dir: str
    root_digest: str
    out: str
    payload: bytes = b""
    body: list[Descriptor] | None = None


class CompareManifests(Job[Compared], frozen=True, tag="compare-manifests"):
    """Compute what a node with the files of manifest `before` needs to have those of `root_digest`; both are of this
    node, each with the digests of its buckets. Writes the difference to `out`. Result: Compared, or JobFailed
    "vanished", "bad-package"."""

    makes = ("out",)

    state_dir: str
    before: str
    before_buckets: bytes
    root_digest: str
    buckets: bytes
    out: str


class DifferenceListed(Result, frozen=True, tag="difference-listed"):
    """The first paths of each group, up to the size of an answer."""

    missing: list[str]
    shared: list[str]
    extra: list[str]


class ListDifference(Job[DifferenceListed], frozen=True, tag="list-difference"):
    """List the paths of a difference file, for a person."""

    difference: str


class Fitted(Result, frozen=True, tag="fitted"):
    """The part of the difference that is sent, as in Compared; `left` files of `left_bytes` are not sent."""

    missing: int
    shared: int
    raw_sizes: list[int]
    content: bytes
    whole: bytes
    left: int
    left_bytes: int


class FitDifference(Job[Fitted], frozen=True, tag="fit-difference"):
    """Write the part of a difference that has at most `most` bytes of files to `out`: the smallest files first, and all
    deletions."""

    makes = ("out",)

    difference: str
    out: str
    most: int


class PartPacked(Result, frozen=True, tag="part-packed"):
    """`packed`: bytes of all entries. `oversize`: numbers of files that are larger than the limit by themselves.
    `is_as_listed`: every other file is in it, in the state that the difference names, or did not fit."""

    packed: int
    oversize: list[int]
    is_as_listed: bool
    notes: list[Note]


class PackPart(Job[PartPacked], frozen=True, tag="pack-part"):
    """Compress missing and shared files number `start` to `stop` (excluded; numbered in the order of their paths) of a
    difference file to `out`, at most `limit` bytes raw per file unless `oversize`, which packs one single large file.
    The positions of entries are written to the file `index`. `method`: "zlib", or "lz4" for a peer that reads it."""

    makes = ("out", "index")

    root: str
    difference: str
    start: int
    stop: int
    limit: int
    out: str
    index: str
    oversize: bool = False
    method: str = "zlib"


class PackageFinished(FinishedPackage, Result, frozen=True, tag="package-finished"):
    """hashing's FinishedPackage as a Result."""


class FinishPackage(Job[PackageFinished], frozen=True, tag="finish-package"):
    """Drop what exceeds `limit` (wire.md 5.6, C12), move vanished files to `extra`, write the metadata entry to `out`.
    `indexes` are those of the parts in order."""

    makes = ("out",)

    difference: str
    indexes: list[str]
    limit: int
    out: str
    method: str = "zlib"


class PackageOpened(OpenedPackage, Result, frozen=True, tag="package-opened"):
    """hashing's OpenedPackage as a Result."""


class OpenPackage(Job[PackageOpened], frozen=True, tag="open-package"):
    """Index a received package, read its metadata and check all paths against the rules. Writes the plan of application
    to `plan`."""

    makes = ("plan",)

    package: str
    root: str
    plan: str
    max_file_bytes: int
    max_total_bytes: int


class RangeUnpacked(UnpackedRange, Result, frozen=True, tag="range-unpacked"):
    """hashing's UnpackedRange as a Result."""


class UnpackRange(Job[RangeUnpacked], frozen=True, tag="unpack"):
    """Decompress the entries of range `index` of the plan, verify each digest, write each beside its target under a
    temporary name with final mode and owner."""

    package: str
    root: str
    plan: str
    index: int
    max_file_bytes: int
    max_total_bytes: int


class Applied(AppliedPlan, Result, frozen=True, tag="applied"):
    """hashing's AppliedPlan as a Result."""


class ApplyPlan(Job[Applied], frozen=True, tag="apply"):
    """Sync, rename the unpacked files of each range of the plan over their targets, delete extras (unless `delete` is
    false), remove emptied directories, sync. One at a time on a node."""

    root: str
    plan: str
    unpacked: list[list[Written]]
    delete: bool = True

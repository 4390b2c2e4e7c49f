"""Every message between our own processes. Reading this module is reading the system.

All are small frozen tagged structs; sizes are in bytes, times in seconds (wall clock where the name ends in `_at`). No
bulk: bodies above INLINE_BYTES travel as Descriptors (arena) or as paths of spool files. Direction is said at each.
"""

import msgspec

from ipc.descriptor import Descriptor

INLINE_BYTES = 65536
"""Largest payload that travels inside a message; larger ones are sealed bodies in the arena or files in the spool."""


class Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of every message."""


# ---- net -> sync: what happens on links -----------------------------------------------------------------------------


class LinkInfo(msgspec.Struct, frozen=True):
    """One established link. `kind`: "worker" (inbound, on a master), "master" (outbound, on a worker), "local"
    (a program on the local socket). `name` is the peer's node name, for kind "master" the master's address text, for
    kind "local" the client number. `incarnation` of the link never repeats within a life of net. `uid`, `pid`: the user
    and the process of a local client, -1 and 0 for other kinds."""

    link: int
    kind: str
    name: str
    node_type: str = ""
    version: str = ""
    address: str = ""
    connected_at: float = 0.0
    keepalive_at: float = 0.0
    uid: int = -1
    pid: int = 0


class OpenTask(msgspec.Struct, frozen=True):
    """A task this node was sending when sync last said so; a new sync tells the peer that it is gone (TaskNote)."""

    link: int
    command: str
    task_id: str


class NetHello(Message, frozen=True, tag="net-hello"):
    """First message of a net process on the channel, and its answer to SyncHello: everything a sync process needs.

    `sending_slabs` names a slab of sync's once for each message that net still sends from it."""

    incarnation: int
    links: list[LinkInfo]
    sending_slabs: list[int]
    open_tasks: list[OpenTask]
    serving: str = ""
    away: str = ""


class LinkUp(Message, frozen=True, tag="link-up"):
    """A peer has said hello and was accepted, or a local client connected."""

    info: LinkInfo


class LinkDown(Message, frozen=True, tag="link-down"):
    """A link of a LinkUp has ended. Every request to it that is not answered yet has failed."""

    link: int
    reason: str


class MasterAway(Message, frozen=True, tag="master-away"):
    """A worker has no link to its master, and why not; said again whenever the reason is another one."""

    reason: str


class KeepaliveSeen(Message, frozen=True, tag="keepalive"):
    """The peer's `echo-c` arrived (master), or the master answered ours (worker)."""

    link: int
    keepalive_at: float


class PeerRequest(Message, frozen=True, tag="peer-request"):
    """A request that net does not answer itself. sync answers each with one Reply naming `serial`, in any order.

    Either `payload` (already opened, at most INLINE_BYTES) or `body`: the sealed body, still in net's slabs, one
    descriptor per fragment of a divided request. sync gives those slabs back with Release (or with Reply.body)."""

    link: int
    serial: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None


class Answered(Message, frozen=True, tag="answered"):
    """The response to our Request `id`: the response's command word and payload, or the sealed body when large."""

    id: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None


class Unanswered(Message, frozen=True, tag="unanswered"):
    """Our Request `id` ended without a response. `why`: "timeout", "closed" (link gone) or "refused" (bad request of ours);
    "string": see GiveString."""

    id: int
    why: str
    text: str = ""


class SlabsReturned(Message, frozen=True, tag="slabs-returned"):
    """net has written a message from each of these slabs of sync's (or dropped it with its link). One that is sent to several
    links comes back once for each."""

    slabs: list[int]


# ---- sync -> net -----------------------------------------------------------------------------------------------------


class SyncHello(Message, frozen=True, tag="sync-hello"):
    """First message of a sync process. net fails whatever it had with an earlier one and answers with NetHello."""

    incarnation: int


class Reply(Message, frozen=True, tag="reply"):
    """The response to PeerRequest `serial`. `body`: an already sealed body (of net's or sync's slabs) sent as it is.
    `log`: the text of net's ERROR line `Internal error processing request ...` (wire.md 3.2), none when empty.

    With `more` the request stays open (and counts as unanswered): what follows comes as Requests of ours. An empty command
    ends a request without any response, as `sendsync` on the local socket has it. Should sync die before, net tells the
    asker `err`: as the response, or as a request of ours when there was one."""

    link: int
    serial: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None
    log: str = ""
    more: bool = False


class Request(Message, frozen=True, tag="request"):
    """Send a request to a peer or local client; net picks the counter and answers with Answered or Unanswered.
    Either `payload` (net seals it) or `body`, sealed already, in sync's slabs, which come back with SlabsReturned."""

    link: int
    id: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None
    timeout_s: float = 20.0


class GiveString(Message, frozen=True, tag="give-string"):
    """Give a peer or local client `content` (at most INLINE_BYTES) as a long string, `new_str` and `str_upd`, then send `command`
    with `word` (none when empty) and the id that it chose. Ends as a Request does: Answered is the response to `command`;
    "string" in Unanswered: it did not take the string. `timeout_s` is that of each request."""

    link: int
    id: int
    command: str
    word: str
    content: bytes
    timeout_s: float = 20.0


class CloseLink(Message, frozen=True, tag="close-link"):
    """Close this link; `reason` goes to the log."""

    link: int
    reason: str


class Release(Message, frozen=True, tag="release"):
    """These slabs of net's are free again."""

    slabs: list[int]


class TaskNote(Message, frozen=True, tag="task-note"):
    """Remember (`open`) or forget that this node sends `task_id` under `command` on this link, across lives of sync. With `caps`
    as command: that it agreed with this worker to the capabilities `task_id`, joined by commas."""

    link: int
    command: str
    task_id: str
    open: bool


class WriteLog(Message, frozen=True, tag="write-log"):
    """A line for subtag `Main`, which only net writes (one writer per subtag keeps the order of lines)."""

    level: str
    tag: str
    text: str


# ---- pool <-> sync: credits, jobs, results ---------------------------------------------------------------------------


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """`length` bytes at `offset` of the file `path` (absolute)."""

    path: str
    offset: int
    length: int


class ChunkTarget(msgspec.Struct, frozen=True):
    """Where the data of a chunk goes: `name` is the word before the first space of the payload (a path or a string id),
    `path` the spool file, `offset` where to write, `limit` the largest size the file may reach. With `truncate`, bytes
    beyond `limit` are dropped silently (long strings, wire.md 4.4); else they are "too-large"."""

    name: str
    path: str
    offset: int
    limit: int
    truncate: bool = False


class Note(msgspec.Struct, frozen=True):
    """Something a person should know of one file. `level`: "DEBUG2", "DEBUG", "WARNING", "ERROR". `text` is the stock
    text where wire.md has one; `why` is the bare reason for status (empty: not shown there)."""

    level: str
    path: str
    text: str
    why: str = ""


class PoolHello(Message, frozen=True, tag="pool-hello"):
    """A pool process is free. A new incarnation of a slot means that the earlier one is dead. `at`: when it said so, seconds of
    CLOCK_MONOTONIC, which all processes share; 0: it does not matter."""

    slot: int
    incarnation: int
    at: float = 0.0


class Job(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of the jobs. Paths are absolute. A job is safe to run twice."""


class ScanShard(Job, frozen=True, tag="scan"):
    """Walk and hash shard `shard` of `shards` (files whose path hashes to it), reusing and rewriting the digest cache in
    `state_dir`. `ignore_cache` reads every file again. `gives_way`: it ends as "gave-way" as soon as sync's counter `hurry`
    is another one; -1: never. Result: ShardScanned."""

    root: str
    state_dir: str
    shard: int
    shards: int
    ignore_cache: bool = False
    gives_way: int = -1


class BuildManifest(Job, frozen=True, tag="manifest"):
    """Merge the shard files of the last scan into the manifest file of `state_dir`. Result: ManifestBuilt.

    `published`: root digest of the manifest that peers have been told of last; of what has vanished since, more than
    `max_delete_share` is withheld (hashing/protection.py). If its file is gone, and if it is empty, nothing is. `lost_before`:
    files that were lost just before it. `max_key_loss_share`, `key_loss_from`: the same for the keys in client.keys below `root`
    (clusterd/key_guard.py)."""

    root: str
    state_dir: str
    shards: int
    published: str = ""
    max_delete_share: float = 1.0
    lost_before: int = 0
    max_key_loss_share: float = 1.0
    key_loss_from: int = 3


class PatchManifest(Job, frozen=True, tag="patch-manifest"):
    """Look again at `paths` and `directories` (hashing/rescan.py) and make the manifest `root_digest` the present one.
    `base`: digest of the other file that its file needs (as ManifestBuilt has it). `shards`: of the last scan.
    `max_delete_share`, `lost_before`, `max_key_loss_share`, `key_loss_from` as in BuildManifest; `judge`: decide now about what is settling; `allow_delete`: withhold
    nothing.
    Result: ManifestBuilt."""

    root: str
    state_dir: str
    root_digest: str
    base: str
    shards: int
    paths: list[str]
    directories: list[str]
    max_delete_share: float = 1.0
    lost_before: int = 0
    judge: bool = False
    allow_delete: bool = False
    max_key_loss_share: float = 1.0
    key_loss_from: int = 3


class PackMetadata(Job, frozen=True, tag="pack-metadata"):
    """A worker's check package: the manifest `root_digest` as the only entry. `method`: as in PackPart. Result: Packed."""

    state_dir: str
    root_digest: str
    out: str
    method: str = "zlib"


class ComparePackage(Job, frozen=True, tag="compare"):
    """Read a worker's check package and compare it to our manifest; write the difference to `out`. Result: Compared."""

    package: str
    state_dir: str
    root_digest: str
    out: str


class PickBuckets(Job, frozen=True, tag="pick-buckets"):
    """What a worker tells of the buckets whose digests differ: `ours` of its manifest `root_digest`, `theirs` of the master's
    with the content digest `master`. A large one goes to `out`. Result: BucketsPicked."""

    state_dir: str
    root_digest: str
    ours: bytes
    theirs: bytes
    master: str
    dry: bool
    out: str


class CompareBuckets(Job, frozen=True, tag="compare-buckets"):
    """Compare what a worker told (`body` sealed in net's slabs, or `payload`) to our manifest; write the difference to `out`.
    Result: Compared, or JobFailed "bad-seal", "bad-package", "too-large"."""

    state_dir: str
    root_digest: str
    out: str
    payload: bytes = b""
    body: list[Descriptor] | None = None


class CompareManifests(Job, frozen=True, tag="compare-manifests"):
    """What who has the files of manifest `before` needs for those of `root_digest`; both of this node, each with the digests of its
    buckets. Writes the difference to `out`. Result: Compared, or JobFailed "vanished", "bad-package"."""

    state_dir: str
    before: str
    before_buckets: bytes
    root_digest: str
    buckets: bytes
    out: str


class FitDifference(Job, frozen=True, tag="fit-difference"):
    """Write to `out` what of a difference is at most `most` bytes of files, the smallest first, with all that is to be deleted.
    Result: Fitted."""

    difference: str
    out: str
    most: int


class ListDifference(Job, frozen=True, tag="list-difference"):
    """The paths of a difference file, for a person. Result: DifferenceListed."""

    difference: str


class PackPart(Job, frozen=True, tag="pack-part"):
    """Compress missing and shared files number `start` to `stop` (excluded; numbered in the order of their paths) of a
    difference file to `out`, at most `limit` bytes raw per file unless `oversize`, which packs one single large file. What lies
    where is written to the file `index`. `method`: "zlib", or "lz4" for a peer that reads it. Result: PartPacked."""

    root: str
    difference: str
    start: int
    stop: int
    limit: int
    out: str
    index: str
    oversize: bool = False
    method: str = "zlib"


class FinishPackage(Job, frozen=True, tag="finish-package"):
    """Drop what exceeds `limit` (wire.md 5.6, C12), move vanished files to `extra`, write the metadata entry to `out`.
    `indexes` are those of the parts in order. Result: PackageFinished."""

    difference: str
    indexes: list[str]
    limit: int
    out: str
    method: str = "zlib"


class SealChunk(Job, frozen=True, tag="seal"):
    """Seal `prefix` + the bytes of `segments` into slab `slab` (sync's). Result: Sealed."""

    prefix: bytes
    segments: list[Segment]
    slab: int


class StoreChunk(Job, frozen=True, tag="store-chunk"):
    """Open a chunk (`body` sealed in net's slabs, or `payload` open already), find its target by the word before the first
    space and write the data. Result: ChunkStored, or JobFailed "unknown-name", "too-large", "bad-seal", "disk"."""

    targets: list[ChunkTarget]
    payload: bytes = b""
    body: list[Descriptor] | None = None


class OpenBody(Job, frozen=True, tag="open"):
    """Open a sealed body of at most `limit` plain bytes. Result: Opened. With `check_only` nothing comes back but `size`.
    Bodies of the local socket are not `sealed`."""

    body: list[Descriptor]
    limit: int
    check_only: bool = False
    sealed: bool = True


class DigestSegments(Job, frozen=True, tag="sha256"):
    """SHA-256 over these bytes, in order. Result: Digested."""

    segments: list[Segment]


class OpenPackage(Job, frozen=True, tag="open-package"):
    """Index a received package, read its metadata and check all paths against the rules. Writes the plan of application to
    `plan`. Result: PackageOpened."""

    package: str
    root: str
    plan: str
    max_file_bytes: int
    max_total_bytes: int


class UnpackRange(Job, frozen=True, tag="unpack"):
    """Decompress the entries of range `index` of the plan, verify each digest, write each beside its target under a
    temporary name with final mode and owner. Result: RangeUnpacked."""

    package: str
    root: str
    plan: str
    index: int
    max_file_bytes: int
    max_total_bytes: int


class Written(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A verified file that waits beside `path`: its inode and size, by which it is known again before it is renamed."""

    path: str
    inode: int = 0
    size: int = 0


class ApplyPlan(Job, frozen=True, tag="apply"):
    """Sync, rename what each range of the plan has unpacked over its targets, delete extras (unless `delete` is false), remove
    emptied directories, sync. One at a time on a node. Result: Applied."""

    root: str
    plan: str
    unpacked: list[list[Written]]
    delete: bool = True


class SweepTemporary(Job, frozen=True, tag="sweep"):
    """Remove temporary files that killed processes left beside targets, and in the directories `more`. Result: Swept."""

    root: str
    more: list[str] = []


class RulesetHashes(Job, frozen=True, tag="ruleset-hashes"):
    """JSON of path to BLAKE2b for etc/rules/, etc/decoders/, etc/lists/ (dapi.md 1.8) written to `out`. Result: Packed."""

    state_dir: str
    root_digest: str
    out: str


class RotateLog(Job, frozen=True, tag="rotate-log"):
    """Move cluster.log to logs/cluster/{year}/{Mon}/cluster.log-{dd}.gz (wire.md 9.1). Result: Swept."""

    root: str
    day: str


class OpenReport(Job, frozen=True, tag="open-report"):
    """A worker's agent-info, a long string of `size` bytes at `path`: write the value of its `chunks` to `out`.
    Result: ReportOpened, or JobFailed "bad-json"."""

    path: str
    size: int
    out: str


class OpenGroups(Job, frozen=True, tag="open-groups"):
    """A master's agent-groups, a long string of `size` bytes at `path`: write the requests for the agent database to `out`,
    one behind the other. Result: GroupsOpened, or JobFailed "bad-json"."""

    path: str
    size: int
    out: str


class Text(msgspec.Struct, frozen=True, array_like=True):
    """JSON of the distributed API: `payload`, at most INLINE_BYTES, or `size` bytes at `offset` of the spool file `path`."""

    payload: bytes = b""
    path: str = ""
    size: int = 0
    offset: int = 0


class RunFunction(Job, frozen=True, tag="run-function"):
    """Run the function that an API request names, on this node. `serves_store`: whether our own store serves the agent
    database here. A large answer goes to `out`. Result: FunctionDone, whatever the function says."""

    root: str
    request: Text
    out: str
    serves_store: bool


class PlanRequest(Job, frozen=True, tag="plan-request"):
    """Which nodes solve a distributed API request, and what each is asked; `connected` are the master (first) and its workers.
    Large requests go to the file `out`, one behind the other. Result: RequestPlanned."""

    root: str
    request: Text
    connected: list[str]
    timeout_s: float
    out: str


class CombineAnswers(Job, frozen=True, tag="combine-answers"):
    """The answers of the nodes of a plan as one; `allowed` as RequestPlanned has it. A large one goes to `out`.
    Result: FunctionDone."""

    request: Text
    allowed: bytes
    answers: list[Text]
    out: str


class Result(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of the results."""


class NodeRequest(msgspec.Struct, frozen=True, array_like=True):
    """What one node of a plan is asked."""

    node: str
    request: Text


class FunctionDone(Result, frozen=True, tag="function-done"):
    """`answer`: an encoded result or exception (dapi.md 4)."""

    answer: Text


class RequestPlanned(Result, frozen=True, tag="request-planned"):
    """`requests`: in the order in which the answers are merged. `allowed`: the listing of the nodes (encoded);
    `merges`: whether the answers must be combined, or the only one is the answer. With `failure` (encoded) there is no plan."""

    requests: list[NodeRequest]
    allowed: bytes
    merges: bool
    failure: bytes = b""


class ShardScanned(Result, frozen=True, tag="scanned"):
    """`failed`: the shard could not be scanned at all; what could not be read is in `notes` and kept as it was.
    `digest` changes when any row of the shard changes, so an unchanged shard needs no new manifest. `again`: directories to
    look at again from time to time, as no event may tell when they have changed (with a trailing slash: with all below)."""

    files: int
    hashed: int
    reused: int
    hashed_bytes: int
    digest: str
    failed: bool
    notes: list[Note]
    again: list[str] = []


class ManifestBuilt(Result, frozen=True, tag="manifest-built"):
    """`root_digest` names this state of the manifest; `content_digest` (32 hex digits) is that of its files alone, equal on
    nodes with equal files; `buckets`: the 1,024 digests of 16 bytes that it is made of.

    `base`: digest of another manifest whose file the file of this one needs. `vanished`: files lost since the manifest before;
    `withheld`, `settling`: files that are gone and kept in the manifest (hashing/protection.py). `doubt`: why client.keys is one
    of them. Of a patch also what ShardScanned has, and `trees`: those of its paths that are directories."""

    root_digest: str
    content_digest: str
    buckets: bytes
    files: int
    total_bytes: int
    base: str = ""
    vanished: int = 0
    withheld: int = 0
    settling: int = 0
    doubt: str = ""
    hashed: int = 0
    reused: int = 0
    hashed_bytes: int = 0
    notes: list[Note] = []
    again: list[str] = []
    trees: list[str] = []


class Packed(Result, frozen=True, tag="packed"):
    size: int
    files: int = 0


class Compared(Result, frozen=True, tag="compared"):
    """`received`: files in the worker's metadata. `raw_sizes`: of the missing and shared files in the order of their paths.
    `content` identifies what is to be sent (paths and digests), `whole` the difference. `dry`: the worker only asked what
    differs; `against`: the content digest of ours that the worker had in mind."""

    received: int
    missing: int
    shared: int
    extra: int
    raw_sizes: list[int]
    content: bytes = b""
    whole: bytes = b""
    dry: bool = False
    against: str = ""


class Fitted(Result, frozen=True, tag="fitted"):
    """Of what goes as in Compared; `left` files of `left_bytes` do not."""

    missing: int
    shared: int
    raw_sizes: list[int]
    content: bytes
    whole: bytes
    left: int
    left_bytes: int


class BucketsPicked(Result, frozen=True, tag="buckets-picked"):
    """`size` bytes, `rows` of them files: in `payload`, or in the job's `out` when that is empty."""

    size: int
    rows: int
    payload: bytes = b""


class DifferenceListed(Result, frozen=True, tag="difference-listed"):
    """The first paths of each group, as many as an answer holds."""

    missing: list[str]
    shared: list[str]
    extra: list[str]


class PartPacked(Result, frozen=True, tag="part-packed"):
    """`packed`: bytes of all entries. `oversize`: numbers of files that are larger than the limit by themselves.
    `is_as_listed`: every other file is in it or did not fit, in the state that the difference names."""

    packed: int
    oversize: list[int]
    is_as_listed: bool
    notes: list[Note]


class PackageFinished(Result, frozen=True, tag="package-finished"):
    """The package is the concatenation of `segments`, `size` bytes, with SHA-256 `sha256`; the last `metadata_size` bytes are
    the metadata entry. `sent`: files in it; `dropped`: how many wait for a later round."""

    segments: list[Segment]
    size: int
    metadata_size: int
    sha256: bytes
    sent: int
    dropped: int
    notes: list[Note]


class Sealed(Result, frozen=True, tag="sealed"):
    body: Descriptor


class ChunkStored(Result, frozen=True, tag="chunk-stored"):
    """`size` bytes were written for target `name`; none when its file does not take them, which `problem` says."""

    name: str
    size: int
    problem: str = ""


class Opened(Result, frozen=True, tag="opened"):
    payload: bytes
    size: int


class Digested(Result, frozen=True, tag="digested"):
    sha256: bytes


class PackageOpened(Result, frozen=True, tag="package-opened"):
    """Counts of the metadata and the number of ranges to unpack. `refused`: paths that may not be touched, with reasons.
    `extra_digest` identifies the set of paths to delete."""

    missing: int
    shared: int
    extra: int
    ranges: int
    extra_digest: str
    refused: list[Note]


class RangeUnpacked(Result, frozen=True, tag="range-unpacked"):
    """`written`: entries verified and waiting beside their targets."""

    written: list[Written]
    notes: list[Note]


class Applied(Result, frozen=True, tag="applied"):
    created: int
    updated: int
    deleted: int
    overwrite_errors: int
    create_errors: int
    remove_errors: int
    notes: list[Note]
    removed: list[str] = []
    """Paths that were deleted."""
    in_place: list[str] = []
    """Paths that are mount points and were written by copy."""


class Swept(Result, frozen=True, tag="swept"):
    count: int


class ReportOpened(Result, frozen=True, tag="report-opened"):
    """`lists`: keys of `chunks`; `size`: bytes of its JSON. `offset_us`: what is to be added to the moments in it, None from a
    node that sends none."""

    lists: int
    size: int
    offset_us: int | None = None


class ChunkRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request of `size` bytes for the agent database; the number of the chunk it comes from, from 1."""

    size: int
    chunk: int


class GroupsOpened(Result, frozen=True, tag="groups-opened"):
    """`chunks`: how many there were. `requests`: those in `out`, in order. `bad`: texts of chunks that cannot be read. `has_hash`: whether the last chunk says what the master's `hash` is."""

    chunks: int
    requests: list[ChunkRequest]
    bad: list[str]
    has_hash: bool
    hash: str | None = None


class JobFailed(Result, frozen=True, tag="job-failed"):
    """`kind` is a word a program tests ("disk", "bad-seal", "bad-package", "bad-json", "unknown-name", "too-large", "vanished",
    "gave-way", "unwanted", "busy", "bug"); `text` says to a person what happened and to which file; for "bug" it holds the
    stack."""

    kind: str
    text: str


AnyJob = (
    ScanShard
    | BuildManifest
    | PatchManifest
    | PackMetadata
    | ComparePackage
    | PickBuckets
    | CompareBuckets
    | CompareManifests
    | FitDifference
    | ListDifference
    | PackPart
    | FinishPackage
    | SealChunk
    | StoreChunk
    | OpenBody
    | DigestSegments
    | OpenPackage
    | UnpackRange
    | ApplyPlan
    | SweepTemporary
    | RulesetHashes
    | RotateLog
    | OpenReport
    | OpenGroups
    | RunFunction
    | PlanRequest
    | CombineAnswers
)
AnyResult = (
    ShardScanned
    | ManifestBuilt
    | Packed
    | Compared
    | Fitted
    | BucketsPicked
    | DifferenceListed
    | PartPacked
    | PackageFinished
    | Sealed
    | ChunkStored
    | Opened
    | Digested
    | PackageOpened
    | RangeUnpacked
    | Applied
    | Swept
    | ReportOpened
    | GroupsOpened
    | FunctionDone
    | RequestPlanned
    | JobFailed
)


class StartJob(Message, frozen=True, tag="start-job"):
    """sync -> pool: run this job. Sent only to a process that is free."""

    id: int
    job: AnyJob


class JobDone(Message, frozen=True, tag="job-done"):
    """pool -> sync: the job's result; the process is free again."""

    id: int
    result: AnyResult


NetToSync = (
    NetHello | LinkUp | LinkDown | MasterAway | KeepaliveSeen | PeerRequest | Answered | Unanswered | SlabsReturned
)
SyncToNet = SyncHello | Reply | Request | GiveString | CloseLink | Release | TaskNote | WriteLog
PoolToSync = PoolHello | JobDone
SyncToPool = StartJob

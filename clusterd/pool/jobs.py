"""Job type to function, and every way a job can fail to a JobFailed. The functions are in tree, packages, bodies,
rotate."""

from collections.abc import Callable

from clusterd import stacks
from clusterd.leadership import Leadership
from clusterd.messages.agents import OpenGroups, OpenReport
from clusterd.messages.api import CombineAnswers, PlanRequest, RunFunction
from clusterd.messages.bodies import DigestSegments, OpenBody, SealChunk, StoreChunk
from clusterd.messages.manifest import (
    BuildManifest,
    PatchManifest,
    RotateLog,
    RulesetHashes,
    ScanShard,
    SweepTemporary,
    Swept,
)
from clusterd.messages.packages import (
    ApplyPlan,
    CompareBuckets,
    CompareManifests,
    ComparePackage,
    FinishPackage,
    FitDifference,
    ListDifference,
    OpenPackage,
    PackMetadata,
    PackPart,
    PickBuckets,
    UnpackRange,
)
from clusterd.messages.pool import AnyJob, AnyResult, JobFailed
from clusterd.pool import agents, api, bodies, buckets, packages, tree
from clusterd.pool.failure import Failure
from clusterd.pool.rotate import rotate_log
from clusterd.pool.wanted import while_there
from clusterd.settings import Settings
from clusterd.wire.seal import Sealer
from hashing.errors import FileVanished, HashingError, PackageTooLarge
from ipc.arena import Arena


class JobRunner:
    """Runs jobs, one at a time. `settings` is replaced by a reload. `on_step` is called often during long jobs.
    `hurry`: sync's counter of calls for those jobs that give way. `leadership`: of a master in an election. `on_bug`
    gets the stack of what a job did not expect."""

    def __init__(
        self,
        settings: Settings,
        arena: Arena,
        on_step: Callable[[], None],
        hurry: Callable[[], int] = lambda: 0,
        leadership: Leadership | None = None,
        on_bug: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.settings = settings
        self._leadership = leadership
        self._arena = arena
        self._on_step = on_step
        self._on_bug = on_bug
        self._hurry = hurry
        self._sealer = Sealer(settings.cluster.key.value)
        self._memory = tree.Memory()
        self._differences = packages.Differences()

    def do(self, job: AnyJob) -> AnyResult:
        """The job's result, or a JobFailed of the kind that clusterd/messages lists. Never raises an Exception."""
        try:
            return self._do(job)
        except Failure as failure:
            return JobFailed(failure.kind, str(failure))
        except FileVanished as gone:
            return JobFailed("vanished", str(gone))
        except PackageTooLarge as bound:
            return JobFailed("too-large", str(bound))
        except HashingError as bad:
            return JobFailed("bad-package", str(bad))
        except OSError as refusal:
            where = refusal.filename or _written_by(job)
            return JobFailed("disk", f"{type(job).__name__}: {refusal.strerror or refusal}{where and f': {where}'}")
        except Exception:
            # The text may reach whoever asked, on another node, too: the stack is for this node's log alone.
            self._on_bug(f"{type(job).__name__} met a bug:\n{stacks.told()}")
            return JobFailed("bug", f"{type(job).__name__} met a bug, which the log of this node tells")

    def _do(self, job: AnyJob) -> AnyResult:
        settings, memory, on_step = self.settings, self._memory, self._on_step
        match job:
            case StoreChunk():
                return bodies.store_chunk(job, self._sealer, self._arena)
            case SealChunk():
                return bodies.seal_chunk(job, self._sealer, self._arena)
            case OpenBody():
                return bodies.open_body(job, self._sealer, self._arena)
            case DigestSegments():
                return bodies.digest_segments(job, on_step)
            case ScanShard():
                return tree.scan(job, settings, memory, self._giving_way(job))
            case BuildManifest():
                return tree.make_manifest(job, settings, memory, on_step)
            case PatchManifest():
                return tree.patch_manifest(job, settings, memory, on_step)
            case PackMetadata():
                return tree.pack_metadata(job, settings, memory, on_step)
            case ComparePackage():
                return tree.compare_package(job, settings, memory, on_step)
            case PickBuckets():
                return buckets.pick_buckets(job, memory)
            case CompareBuckets():
                return buckets.compare_buckets(job, settings, memory, self._sealer, self._arena, on_step)
            case CompareManifests():
                return buckets.compare_manifests(job, settings, memory)
            case FitDifference():
                return tree.fit(job)
            case ListDifference():
                return buckets.list_difference(job)
            case RulesetHashes():
                return tree.ruleset_hashes(job, memory)
            case PackPart():
                return packages.pack(job, settings, self._differences, on_step)
            case FinishPackage():
                return packages.finish(job, settings, self._differences, on_step)
            case OpenPackage():
                return packages.open_received(job, settings, while_there(job.package, on_step))
            case UnpackRange():
                return packages.unpack(job, settings, while_there(job.package, on_step))
            case ApplyPlan():
                return packages.apply(job, settings, on_step)
            case SweepTemporary():
                return packages.sweep(job, settings)
            case RotateLog():
                return Swept(rotate_log(job.root, job.day, on_step))
            case OpenReport():
                return agents.open_report(job)
            case OpenGroups():
                return agents.open_groups(job)
            case RunFunction():
                return api.run_function(job, settings, on_step, self._leadership)
            case PlanRequest():
                return api.plan_request(job, settings, on_step)
            case CombineAnswers():
                return api.combine_answers(job, on_step)
        raise TypeError(f"no function does {type(job).__name__}")

    def _giving_way(self, job: ScanShard) -> Callable[[], None]:
        """A step of a scan; of one in the background the last one as soon as somebody waits for it."""
        if job.gives_way < 0:
            return self._on_step

        def step() -> None:
            self._on_step()
            if self._hurry() != job.gives_way:
                raise Failure("gave-way", "somebody waits for it")

        return step


def _written_by(job: AnyJob) -> str:
    """The files that a job writes, for failures that name none, like a full disk."""
    return ", ".join(path for path in (getattr(job, name) for name in job.makes) if path)

"""The node's manifest: local scans in the pool, patches where files have changed, and which result is current (wire.md 5.1).

The rows stay in files of the state directory, written and read by pool processes; sync keeps the summary. Two ways lead to a
new manifest. A *walk* looks at every file. A *patch* looks at the places that file events, `touch` or an earlier note name;
it needs events that can be relied on (watcher.py). The first scan is a walk, and one every `full_walk_s`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

import msgspec

from clusterd.agent_keys import KEY_FILE
from clusterd.clock import Clock
from clusterd.key_guard import KeyRules
from clusterd.messages.base import Note
from clusterd.messages.manifest import BuildManifest, ManifestBuilt, PatchManifest, ScanShard
from clusterd.settings import Clusterd
from clusterd.sync.manifest.confirming import RETRY_S, Confirming
from clusterd.sync.manifest.files import ManifestFiles
from clusterd.sync.manifest.watcher import LAG_S, CannotWatch, MakeNotify, Watcher, watch_recursively
from clusterd.sync.ports.journal import Journal
from clusterd.sync.ports.pool_port import GAVE_WAY, JobError, PoolPort, all_of
from clusterd.sync.ports.troubles import Troubles, round_survives
from hashing.manifest import Rules
from hashing.protection import LEAST_FILES
from ipc.job_queue import Lane

PUBLISH_EVERY_S = 0.1
"""While files keep changing, how long until the next change is looked at; the first one is at once."""
QUIET_S = 1.0
SHORT_QUIET_S = 0.25
LONGEST_QUIET_S = 10.0
"""Files that vanish together are judged once nothing more has vanished for this time, the short one while they are fewer than
50; at the latest after the longest."""
MOST_PENDING = 1000
"""Places to look at; with more a walk over all processes is quicker."""
LOOK_TWICE_S = 1.0
"""When a new directory is looked at again: files may have been put there before it was watched."""
MOST_NOTES = 400
SUBJECT = "files of this node"

EVERYTHING = KeyRules(share=1.0)
"""A worker believes its master whatever keys go."""
VANISHED, KEYS = "files that have vanished", "agent keys"
"""Subjects of `problems` in the status."""


class Scan(msgspec.Struct, frozen=True):
    """One complete local scan; digests as ManifestBuilt has them. Times: `ended_at` wall clock, `duration_s` seconds.
    `files` and the digests count those that are `withheld` or `settling` (hashing/protection.py)."""

    root_digest: str
    content_digest: str
    buckets: bytes
    files: int
    total_bytes: int
    hashed: int
    reused: int
    hashed_bytes: int
    duration_s: float
    ended_at: float
    notes: list[Note]
    withheld: int = 0
    settling: int = 0


class _GaveWay(Exception):
    """A walk in the background ended early, because somebody waits for the manifest."""


class ScanFailed(Exception):
    """The tree could not be scanned as a whole; what was current stays so."""


class ManifestKeeper:
    """Owner of the current manifest. `current` is None until a scan was complete.

    `changed`: called with each new scan whose digests are not those of the one before.
    """

    def __init__(
        self,
        root: str,
        state_dir: str,
        shards: int,
        jobs: PoolPort,
        clock: Clock,
        full_walk_s: float,
        *,
        rules: Rules | None = None,
        max_delete_share: float = 1.0,
        key_rules: KeyRules = EVERYTHING,
        journal: Journal | None = None,
        troubles: Troubles | None = None,
        make_notify: MakeNotify = watch_recursively,
    ) -> None:
        """Without `rules` nothing is watched. `max_delete_share`, and that of `key_rules`: 1 on a worker. `journal`: for warnings."""
        self._root = root
        self._state_dir = state_dir
        self._files = ManifestFiles(state_dir)
        self._shards = shards
        self._jobs = jobs
        self._clock = clock
        self._rules = rules
        self._max_delete_share = max_delete_share
        self._key_rules = key_rules
        self._journal = journal
        self._troubles = troubles or Troubles()
        self._confirming = Confirming(full_walk_s)
        self.current: Scan | None = None
        self.changed: list[Callable[[Scan], None]] = []
        self.failure = ""
        self.failing_since: float | None = None
        """Since when (wall clock) `current` may be out of date, because the files cannot be looked at; `failure` says why."""
        self.scanning = False
        self.unwatched = "" if rules is not None else "switched off"
        """Why files are not watched; empty while they are, and before the first scan."""
        self._watcher = Watcher(root, self.touch, self._watch_lost, make_notify)
        self._pending: set[str] = set()
        self._later: dict[str, float] = {}
        self._again: set[str] = set()
        self._must_walk = True
        self._wake = asyncio.Event()
        self._state: ManifestBuilt | None = None
        self._built_from: tuple[str, ...] = ()
        self._watch_again_at = 0.0
        self._told = ""
        self._settling_since: float | None = None
        self._lost_since = 0.0
        self._lost_at = 0.0
        self._present_before = 0
        self._present_at_first = 0
        self._lock = asyncio.Lock()
        self._aside = 0
        self._blind = 0

    # ---- asking --------------------------------------------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        return self._watcher.is_watching

    async def walk(self) -> Scan:
        """Like `scan`, but look at every file (known digests are kept), whatever events have said. Raises ScanFailed."""
        self._must_walk = True
        return await self.scan()

    async def scan(self, *, fresh: bool = False) -> Scan:
        """The manifest as it is now, published as `current`. Raises ScanFailed; `current` is then as before.

        While events can be relied on this looks where something has changed, and costs nothing where nothing has; else it
        walks over all shards. Every `full_walk_s` the digest cache is left aside and every file is read; while files are
        watched, `run` does that, in the background. `fresh`: also wait
        for the events of what was changed just now."""
        if fresh and self.watching:
            await asyncio.sleep(LAG_S)
        return await self._guarded(self._scan)

    async def allow_delete(self) -> Scan:
        """Publish the manifest without what is withheld or settling. Raises ScanFailed."""
        return await self._guarded(self._allow_delete)

    # ---- telling -------------------------------------------------------------------------------------------------------

    def touch(self, paths: Iterable[str]) -> None:
        """These files or directories (relative to the root; "" for all) have changed: look at them soon, see `run`."""
        self._pending.update(paths)
        self._must_walk = self._must_walk or "" in self._pending
        self._wake.set()
        self._hurry()

    @contextlib.asynccontextmanager
    async def aside(self, files: int) -> AsyncIterator[None]:
        """While this node itself changes so many of its files: what events say waits until it has done so. With very many files
        nothing is watched meanwhile, since a walk comes afterwards anyway, and it would be several."""
        is_much = files > MOST_PENDING
        self._aside += 1
        self._blind += is_much
        try:
            if is_much:
                self._hurry()
                async with self._lock:
                    await self._watcher.stop()
            yield
        finally:
            self._aside -= 1
            self._blind -= is_much
            if is_much:
                self._must_walk = True  # the watch begins before it
                self._pending.clear()
            self._wake.set()

    def adopt(self, settings: Clusterd, rules: Rules, *, is_master: bool) -> None:
        """The settings of a reload."""
        self._confirming.full_walk_s = settings.full_walk_s
        watched = rules if settings.watch else None
        share = settings.max_delete_share if is_master else 1.0
        key_rules = KeyRules(settings.max_key_loss_share, settings.key_loss_from) if is_master else EVERYTHING
        if (watched, share, key_rules) != (self._rules, self._max_delete_share, self._key_rules):
            self._rules, self._max_delete_share, self._key_rules = watched, share, key_rules
            self._must_walk = True
            self._watch_again_at = 0.0
            self._wake.set()

    async def run(self) -> None:
        """Publish soon after something has changed, and look at everything now and then, for ever. Spawned once, on either role."""
        while True:
            with round_survives(self._journal, self._troubles, "following changes of files"):
                is_quiet = await self._wait_for_work()
                if self.current is not None and not self._aside:  # else a scan finds it
                    try:
                        if self.watching and self._confirming.is_due(self._clock.monotonic(), is_quiet=is_quiet):
                            await self._confirm(is_quiet=is_quiet)
                        else:
                            await self._guarded(self._follow)
                    except ScanFailed:
                        # `failure` says it; whoever comes next walks.
                        await asyncio.sleep(RETRY_S)
            await asyncio.sleep(PUBLISH_EVERY_S)

    async def _confirm(self, *, is_quiet: bool) -> None:
        """Walk over all shards to confirm what events have said. Raises ScanFailed."""
        confirming, clock = self._confirming, self._clock

        async def work() -> Scan:
            confirming.begin(clock.monotonic(), is_quiet=is_quiet)
            return await self._walk(full=confirming.is_full_due(clock.monotonic()))

        gave_way = failed = False
        try:
            await self._guarded(work)
        except _GaveWay:
            gave_way = True
        except ScanFailed:
            failed = True
            raise
        finally:
            confirming.end(clock.monotonic(), gave_way=gave_way, failed=failed)

    def _hurry(self) -> None:
        if self._confirming.is_in_background:
            self._jobs.hurry()

    async def _wait_for_work(self) -> bool:
        """True when there is none but to confirm what is known."""
        moments = list(self._later.values())
        if self.watching and self.current is not None:
            moments.append(self._confirming.due_at())
        if self._settling_since is not None:
            moments.append(self._judge_at())
        if self._rules is not None and not self.watching and self.current is not None:
            moments.append(self._watch_again_at)
        timeout = max(0.0, min(moments) - self._clock.monotonic()) if moments else None
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            now = self._clock.monotonic()
            is_settled = self._settling_since is None or self._judge_at() > now
            return is_settled and not self._must_walk and not any(due <= now for due in self._later.values())
        self._wake.clear()
        return False

    async def close(self) -> None:
        """Stop watching; no thread is left."""
        await self._watcher.stop()

    # ---- the two ways --------------------------------------------------------------------------------------------------

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, Scan]]) -> Scan:
        """Do one piece of work at a time and publish what it gives."""
        self._hurry()
        async with self._lock:
            self.scanning = True
            try:
                scan = await work()
                self._publish(scan)
            except (JobError, OSError) as failure:
                if isinstance(failure, JobError) and failure.kind == GAVE_WAY:
                    raise _GaveWay from None
                self._failed(str(failure))
                raise ScanFailed(str(failure)) from failure
            except BaseException:
                self._must_walk = True  # cancelled: what waited was perhaps not looked at
                raise
            finally:
                self.scanning = False
            self.failure, self.failing_since = "", None
            self._troubles.end(SUBJECT, "The files of this node can be looked at again.", self._journal)
            return scan

    def _failed(self, why: str) -> None:
        self.failure = why
        self._must_walk = True
        if self.failing_since is None:
            self.failing_since = self._clock.wall()
        text = f"The files of this node cannot be looked at, changes are not carried to any node meanwhile: {why}"
        self._troubles.begin(SUBJECT, text, self._journal, "ERROR")

    async def _scan(self) -> Scan:
        """What a periodic scan does."""
        await self._care_for_watch()
        is_much = len(self._pending) + len(self._again) > MOST_PENDING
        if self.current is None or self._must_walk or is_much or not self.watching:
            return await self._walk(full=self._confirming.is_full_due(self._clock.monotonic()))
        return await self._patch(self.current, self._again)

    async def _follow(self) -> Scan:
        """What an event asks for."""
        await self._care_for_watch()
        is_much = len(self._pending) > MOST_PENDING or (
            "" in self._later and self._later[""] <= self._clock.monotonic()
        )
        must_see = self._settling_since is not None and not self.watching
        if self.current is None or self._must_walk or is_much or must_see:
            return await self._walk(full=False)
        return await self._patch(self.current, set())

    async def _allow_delete(self) -> Scan:
        scan = self.current
        if scan is None or not self.watching:
            scan = await self._walk(full=False)
        return await self._patch(scan, set(), allow_delete=True)

    async def _walk(self, *, full: bool) -> Scan:
        started = self._clock.monotonic()
        self._confirming.walk_begins(started)
        # The walk finds what an event has named before it; what comes meanwhile waits. New directories that so many events
        # may have named are looked at twice.
        self._later.pop("", None)
        if len(self._pending) > MOST_PENDING:
            self._later[""] = started + LOOK_TWICE_S
        taken, self._pending = self._pending, set()
        self._must_walk = False  # here already: what is lost from now on asks for the next one
        is_in_background = self._confirming.is_in_background
        lane: Lane = "background" if is_in_background else "bulk"
        gives_way = self._jobs.hurries if is_in_background else -1
        try:
            shards = await all_of(
                self._jobs.run(
                    ScanShard(self._root, self._state_dir, shard, self._shards, full, gives_way),
                    lane=lane,
                )
                for shard in range(self._shards)
            )
        except JobError:
            self._pending |= taken
            raise
        notes = list(dict.fromkeys(note for shard in shards for note in shard.notes))
        if any(shard.failed for shard in shards):
            raise JobError("disk", "; ".join(note.why or note.text for note in notes) or "a part could not be walked")
        self._confirming.walk_ended(started, full=full)
        self._again = {path for shard in shards for path in shard.again}
        digests = tuple(shard.digest for shard in shards)
        state = self._state
        if state is None or digests != self._built_from:
            published = self._files.published if self.current is None else self.current.root_digest
            job = BuildManifest(
                self._root,
                self._state_dir,
                self._shards,
                published if self._is_protected else "",
                self._max_delete_share,
                self._lost_just_now(),
                self._key_rules.share,
                self._key_rules.least,
            )
            state = self._accept(await self._jobs.run(job))
            self._built_from = digests
        else:
            state = msgspec.structs.replace(state, vanished=0)
        hashed, hashed_bytes = sum(shard.hashed for shard in shards), sum(shard.hashed_bytes for shard in shards)
        reused = sum(shard.reused for shard in shards)
        return await self._judged(self._summary(state, started, notes, hashed, reused, hashed_bytes), state.vanished)

    async def _patch(self, before: Scan, again: set[str], *, allow_delete: bool = False) -> Scan:
        """Look at what waits, and at these places again."""
        started = self._clock.monotonic()
        late = {path for path, due in self._later.items() if due <= started}
        paths = self._pending | late | {path.rstrip("/") for path in again if path.endswith("/")}
        directories = {path for path in again if not path.endswith("/")}
        if not (paths or directories or allow_delete):
            scan = msgspec.structs.replace(
                before,
                ended_at=self._clock.wall(),
                duration_s=self._clock.monotonic() - started,
                hashed=0,
                reused=before.files,
                hashed_bytes=0,
                notes=[note for note in before.notes if note.why],
            )
            return await self._judged(scan, 0)
        named, self._pending = self._pending | late, set()
        state = await self._run_patch(paths, directories, allow_delete=allow_delete)
        self._again = {path for path in self._again if not _is_seen(path.rstrip("/"), paths, directories)}
        self._again.update(state.again)
        self._look_twice(named, late, state, is_changed=state.root_digest != before.root_digest)
        notes = [
            note for note in before.notes if note.why and not _is_seen(note.path, paths, directories)
        ] + state.notes
        scan = self._summary(state, started, notes, state.hashed, state.files - state.hashed, state.hashed_bytes)
        return await self._judged(scan, state.vanished)

    async def _run_patch(
        self, paths: Iterable[str], directories: Iterable[str], *, judge: bool = False, allow_delete: bool = False
    ) -> ManifestBuilt:
        assert self._state is not None
        job = PatchManifest(
            self._root,
            self._state_dir,
            self._state.root_digest,
            self._state.base,
            self._shards,
            sorted(paths),
            sorted(directories),
            self._max_delete_share,
            self._lost_just_now(),
            judge,
            allow_delete,
            self._key_rules.share,
            self._key_rules.least,
        )
        return self._accept(await self._jobs.run(job, urgent=True))

    def _tell(self, text: str) -> None:
        if self._journal is not None:
            self._journal.warning(text)

    def _accept(self, built: ManifestBuilt) -> ManifestBuilt:
        """What a job made is what the next one goes on from."""
        before, self._state = self._state, built
        self._present_before = _present(before or built)
        if before is None or built.root_digest != before.root_digest:
            self._built_from = ()  # the last walk is not where this state comes from
        withheld = _files_withheld(built)
        if withheld > (_files_withheld(before) if before is not None else 0):
            text = (
                f"{withheld} of {built.files} files have vanished from this master at once. The workers keep theirs: "
                'put the files back, or run "clusterd sync --allow-delete" to have them deleted there, too.'
            )
            self._troubles.begin(VANISHED, text)
            self._tell(text)
        if not withheld:
            self._troubles.end(VANISHED)
        if built.doubt:
            self._troubles.begin(KEYS, f"{built.doubt}. Until then the workers keep theirs.", self._journal)
        else:
            self._troubles.end(KEYS, f"{KEY_FILE} is synchronised again.", self._journal)
        return built

    def _look_twice(self, named: set[str], late: set[str], state: ManifestBuilt, *, is_changed: bool) -> None:
        """What was put into a new directory before it was watched, no event names."""
        for path in late:
            del self._later[path]
        if self.watching:
            due = self._clock.monotonic() + LOOK_TWICE_S
            self._later |= {path: due for path in state.trees if path in named and (is_changed or path not in late)}
            if len(self._later) > MOST_PENDING:
                self._later = {"": due}

    def _summary(
        self, state: ManifestBuilt, started: float, notes: list[Note], hashed: int, reused: int, hashed_bytes: int
    ) -> Scan:
        return Scan(
            root_digest=state.root_digest,
            content_digest=state.content_digest,
            buckets=state.buckets,
            files=state.files,
            total_bytes=state.total_bytes,
            hashed=hashed,
            reused=reused,
            hashed_bytes=hashed_bytes,
            duration_s=self._clock.monotonic() - started,
            ended_at=self._clock.wall(),
            notes=notes,
            withheld=state.withheld,
            settling=state.settling,
        )

    def _publish(self, scan: Scan) -> None:
        assert self._state is not None
        is_new = self.current is None or self.current.root_digest != scan.root_digest
        if is_new:
            self._files.publish(scan.root_digest, self._state.base, self._clock.monotonic(), lasting=self._is_protected)
        self.current = scan
        if is_new:
            for listener in self.changed:
                # The manifest is current whatever a listener trips over, and the next one hears of it.
                with round_survives(self._journal, self._troubles, "telling of changed files"):
                    listener(scan)
        if self._pending or self._later or self._settling_since is not None:
            self._wake.set()

    # ---- files that vanish ---------------------------------------------------------------------------------------------

    async def _judged(self, scan: Scan, vanished: int) -> Scan:
        """Decide about files that have vanished in great numbers, once it is time to."""
        now = self._clock.monotonic()
        if vanished:
            if not self._is_losing():
                self._lost_since, self._present_at_first = now, self._present_before
            self._lost_at = now
        if not scan.settling:
            self._settling_since = None
            return scan
        if self._settling_since is None:
            self._settling_since = now
        if now < self._judge_at():
            return scan
        state = await self._run_patch((), (), judge=True)
        self._settling_since = None
        return self._summary(state, now, scan.notes, scan.hashed, scan.reused, scan.hashed_bytes)

    @property
    def _is_protected(self) -> bool:
        """Whether what was published last decides about what comes."""
        return self._max_delete_share < 1 or self._key_rules.is_on

    def _is_losing(self) -> bool:
        """Whether a deletion goes on: what vanishes now is part of it."""
        if self._settling_since is not None:
            return True
        now = self._clock.monotonic()
        return now - self._lost_at <= QUIET_S and now - self._lost_since <= LONGEST_QUIET_S

    def _lost_just_now(self) -> int:
        """How many files fewer there are than before the deletion that goes on."""
        if self._state is None or not self._is_losing():
            return 0
        return max(0, self._present_at_first - _present(self._state))

    def _judge_at(self) -> float:
        since = self._lost_at if self._settling_since is None else self._settling_since
        is_much = self._state is not None and self._state.settling >= LEAST_FILES
        quiet = QUIET_S if is_much else SHORT_QUIET_S
        return min(max(self._lost_at, since) + quiet, since + LONGEST_QUIET_S)

    # ---- watching ------------------------------------------------------------------------------------------------------

    async def _care_for_watch(self) -> None:
        """Watch if it should be, anew where what is watched has been replaced; the walk that follows finds what was missed."""
        if self._rules is None:
            await self._watcher.stop()
            self.unwatched = "switched off"
            return
        if self.watching and self._watcher.rules == self._rules and not self._watcher.is_stale():
            return
        if self._blind or (not self.watching and self._clock.monotonic() < self._watch_again_at):
            return
        self._must_walk = True
        try:
            await self._watcher.start(self._rules)
        except CannotWatch as refusal:
            self._watch_lost(str(refusal), False)
            return
        self.unwatched = self._told = ""

    def _watch_lost(self, reason: str, is_passing: bool) -> None:
        """No events any more, until the next full walk; where the reason `is_passing`, until soon."""
        self.unwatched = reason
        self._must_walk = True
        pause = RETRY_S if is_passing else self._confirming.pause_s
        self._watch_again_at = self._clock.monotonic() + pause
        self._wake.set()
        if not is_passing and reason != self._told:
            self._told = reason
            self._tell(f"Files are not watched, but looked at from time to time: {reason}.")


def _files_withheld(state: ManifestBuilt) -> int:
    return state.withheld - bool(state.doubt)


def _present(state: ManifestBuilt) -> int:
    """Files that are there, or were until just now."""
    return state.files - state.withheld


def _is_seen(path: str, paths: set[str], directories: set[str]) -> bool:
    """True if one that looks at these paths and directories looks at this one."""
    if path in paths or path in directories or path.rpartition("/")[0] in directories or "" in paths or path == "...":
        return True
    at = path.find("/")
    while at >= 0:
        if path[:at] in paths:
            return True
        at = path.find("/", at + 1)
    return False

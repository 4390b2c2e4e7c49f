"""The node's manifest: local scans in the pool, patches where files have changed, and which result is current (wire.md
5.1).

The rows stay in files of the state directory, written and read by pool processes; sync keeps the summary. Two ways lead
to a new manifest. A *walk* looks at every file. A *patch* looks at the places that file events, `touch` or an earlier
note name; it needs events that can be relied on (watcher.py). The first scan is a walk, and one every `full_walk_s`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

import msgspec

from clusterd.clock import Clock
from clusterd.key_guard import KeyRules
from clusterd.messages.manifest import ManifestBuilt
from clusterd.settings import Clusterd
from clusterd.sync.manifest.builder import ManifestBuilder, weigh_below
from clusterd.sync.manifest.change_events import ChangeEvents
from clusterd.sync.manifest.confirming import RETRY_S, Confirming
from clusterd.sync.manifest.deletion_guard import EVERYTHING, DeletionGuard
from clusterd.sync.manifest.files import ManifestFiles
from clusterd.sync.manifest.places import LOOK_TWICE_S, MOST_PENDING, Places
from clusterd.sync.manifest.scan import Scan, ScanFailed, summary
from clusterd.sync.manifest.watch_policy import WatchPolicy
from clusterd.sync.manifest.watcher import LAG_S, MakeNotify, watch_recursively
from clusterd.sync.ports.pool_port import GAVE_WAY, JobError, PoolPort
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles, round_survives
from hashing.errors import Note
from hashing.rules import Rules

FEW_NEW, MANY_NEW = 2000, 20000
"""A directory that was moved here with more than FEW_NEW files, and with as many as there are (or MANY_NEW), is left to
a walk: all processes look at it, and only once, since a walk keeps the digests for the second look. Looking at a known
file takes them a fifth of the time of a new one."""
PUBLISH_EVERY_S = 0.1
"""While files keep changing: the delay until the next change is looked at. The first change has no delay."""
SUBJECT = "files of this node"
NOTE = "note of what is published"


class _GaveWay(Exception):
    """A walk in the background ended early, because something waits for the manifest."""


class ManifestKeeper:
    """Owns the current manifest. `current` is None until a scan was complete.

    `changed`: called with each new scan whose digests differ from those of the one before.
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
        log: TagLog | None = None,
        troubles: Troubles | None = None,
        make_notify: MakeNotify = watch_recursively,
        events: ChangeEvents | None = None,
    ) -> None:
        """Without `rules` nothing is watched. `max_delete_share`, and that of `key_rules`: 1 on a worker. `log`: for
        warnings. `events`: tells the journal; without it jobs are not asked for the changes."""
        self._root = root
        self._files = ManifestFiles(state_dir)
        self._events = events
        self._clock = clock
        self._log = log
        self._troubles = troubles or Troubles()
        self._confirming = Confirming(full_walk_s)
        self._guard = DeletionGuard(clock, log, self._troubles, max_delete_share, key_rules)
        self._builder = ManifestBuilder(root, state_dir, shards, jobs, self._guard, events)
        self.current: Scan | None = None
        self.changed: list[Callable[[Scan], None]] = []
        self.failure = ""
        self.failing_since: float | None = None
        """Since when (monotonic) `current` may be out of date, because the files cannot be read; `failure` says why."""
        self.scanning = False
        self._places = Places()
        self._must_walk = True
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._own_changes = 0
        self._watch = WatchPolicy(
            root, rules, clock, self._confirming, log, self.touch, self._walk_next, self._wake.set, make_notify
        )

    # ---- asking ------------------------------------------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        return self._watch.is_watching

    @property
    def unwatched(self) -> str:
        """Why files are not watched; empty while they are, and before the first scan."""
        return self._watch.unwatched

    async def walk(self) -> Scan:
        """Works like `scan`, but looks at every file (known digests are kept), whatever events have reported. Raises
        ScanFailed."""
        self._must_walk = True
        return await self.scan()

    async def scan(self, *, fresh: bool = False) -> Scan:
        """Returns the manifest as it is now, published as `current`. Raises ScanFailed; `current` is then unchanged.

        While events are reliable this looks only at places that have changed, and costs nothing where none has;
        otherwise it walks over all shards. Every `full_walk_s` the digest cache is ignored and every file is read;
        while files are watched, `run` does that, in the background. `fresh`: also wait for the events of changes made a
        moment ago."""
        if fresh and self.watching:
            await asyncio.sleep(LAG_S)
        return await self._guarded(self._scan)

    async def allow_delete(self) -> Scan:
        """Publishes the manifest without the files that are withheld or settling. Raises ScanFailed."""
        return await self._guarded(self._allow_delete)

    # ---- telling -----------------------------------------------------------------------------------------------------

    def touch(self, paths: Iterable[str]) -> None:
        """Tells that these files or directories (relative to the root; "" for all) have changed; `run` looks at them
        soon."""
        self._places.pending.update(paths)
        self._must_walk = self._must_walk or "" in self._places.pending
        self._wake.set()
        self._hurry()

    @contextlib.asynccontextmanager
    async def own_changes(self, files: int) -> AsyncIterator[None]:
        """Surrounds changes that this node itself makes to this many files: events are looked at afterwards. With very
        many files nothing is watched meanwhile; a walk follows anyway, and following the events would cost several."""
        is_much = files > MOST_PENDING
        self._own_changes += 1
        if is_much:
            self._watch.pause()
        try:
            if is_much:
                self._hurry()
                async with self._lock:
                    await self._watch.stop()
            yield
        finally:
            self._own_changes -= 1
            if is_much:
                self._watch.resume()
                self._must_walk = True  # the watch begins before it
                self._places.pending.clear()
            self._wake.set()

    def adopt(self, settings: Clusterd, rules: Rules, *, is_master: bool) -> None:
        """Takes the settings of a reload."""
        self._confirming.full_walk_s = settings.full_walk_s
        watched = rules if settings.watch else None
        share = settings.max_delete_share if is_master else 1.0
        key_rules = KeyRules(settings.max_key_loss_share, settings.key_loss_from) if is_master else EVERYTHING
        guard = self._guard
        is_other = (watched, share, key_rules) != (self._watch.rules, guard.max_delete_share, guard.key_rules)
        if (
            is_other or self._watch.try_again_at is not None
        ):  # whoever has raised a limit of the system reloads the node
            guard.max_delete_share, guard.key_rules = share, key_rules
            self._watch.adopt(watched)
            self._must_walk = True
            self._wake.set()

    async def run(self) -> None:
        """Publishes soon after each change, and looks at everything from time to time, for ever. Spawned once, on
        either role."""
        while True:
            with round_survives(self._log, self._troubles, "following changes of files"):
                is_quiet = await self._wait_for_work()
                if self.current is not None and not self._own_changes:  # else a scan finds it
                    try:
                        if self.watching and self._confirming.is_due(self._clock.monotonic(), is_quiet=is_quiet):
                            await self._confirm(is_quiet=is_quiet)
                        else:
                            await self._guarded(self._follow)
                    except ScanFailed:
                        # `failure` has the reason; the next caller of `scan` walks.
                        await asyncio.sleep(RETRY_S)
            await asyncio.sleep(PUBLISH_EVERY_S)

    async def _confirm(self, *, is_quiet: bool) -> None:
        """Walks over all shards to confirm what events have reported. Raises ScanFailed."""
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

    def _walk_next(self) -> None:
        self._must_walk = True

    def _hurry(self) -> None:
        if self._confirming.is_in_background:
            self._builder.jobs.hurry()

    async def _wait_for_work(self) -> bool:
        """Returns True when there is no work but confirming what is known."""
        moments = self._places.moments()
        if self.watching and self.current is not None:
            moments.append(self._confirming.due_at())
        if self._guard.is_settling:
            moments.append(self._guard.judge_at())
        if self._watch.try_again_at is not None and self.current is not None:
            moments.append(self._watch.try_again_at)
        timeout = max(0.0, min(moments) - self._clock.monotonic()) if moments else None
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            now = self._clock.monotonic()
            is_settled = not self._guard.is_settling or self._guard.judge_at() > now
            return is_settled and not self._must_walk and not self._places.is_late(now)
        self._wake.clear()
        return False

    async def close(self) -> None:
        """Stops watching and ends its threads."""
        await self._watch.stop()

    # ---- the two ways ------------------------------------------------------------------------------------------------

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, Scan]]) -> Scan:
        """Does one piece of work at a time and publishes its result."""
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
            self._troubles.end(SUBJECT, "The files of this node can be looked at again.", self._log)
            return scan

    def _failed(self, why: str) -> None:
        self.failure = why
        self._must_walk = True
        if self.failing_since is None:
            self.failing_since = self._clock.monotonic()
        text = f"The files of this node cannot be looked at, changes are not carried to any node meanwhile: {why}"
        self._troubles.begin(SUBJECT, text, self._log, "ERROR")

    async def _scan(self) -> Scan:
        """The work of a periodic scan."""
        await self._watch.care()
        if self.current is None or self._must_walk or self._places.is_much() or not self.watching:
            return await self._walk(full=self._confirming.is_full_due(self._clock.monotonic()))
        return await self._patch(self.current, is_periodic=True)

    async def _follow(self) -> Scan:
        """The work after an event."""
        await self._watch.care()
        is_much = self._places.is_much(self._clock.monotonic())
        must_see = self._guard.is_settling and not self.watching
        if self.current is None or self._must_walk or is_much or must_see:
            return await self._walk(full=False)
        return await self._patch(self.current)

    async def _allow_delete(self) -> Scan:
        scan = self.current
        if scan is None or not self.watching:
            scan = await self._walk(full=False)
        return await self._patch(scan, allow_delete=True)

    async def _walk(self, *, full: bool, twice: Iterable[str] = ()) -> Scan:
        """`twice`: places to look at again afterwards."""
        started = self._clock.monotonic()
        self._confirming.walk_begins(started)
        taken = self._places.take_all(started)
        self._must_walk = False  # here already: what is lost from now on asks for the next one
        try:
            shards = await self._builder.walk(full=full, in_background=self._confirming.is_in_background)
        except JobError:
            self._places.put_back(taken)
            raise
        notes = list(dict.fromkeys(note for shard in shards for note in shard.notes))
        if any(shard.failed for shard in shards):
            raise JobError("disk", "; ".join(note.why or note.text for note in notes) or "a part could not be walked")
        self._confirming.walk_ended(started, full=full)
        self._places.walked((path for shard in shards for path in shard.again), twice, self._twice_at())
        published = self._files.published_digest if self.current is None else self.current.root_digest
        is_compared = self._guard.is_on or (self._events is not None and self.current is not None)
        state = await self._builder.build(shards, published if is_compared else "")
        hashed, hashed_bytes = sum(shard.hashed for shard in shards), sum(shard.hashed_bytes for shard in shards)
        reused = sum(shard.reused for shard in shards)
        return await self._judged(self._summary(state, started, notes, hashed, reused, hashed_bytes), state.vanished)

    async def _patch(self, before: Scan, *, is_periodic: bool = False, allow_delete: bool = False) -> Scan:
        """Looks at the places that wait; a periodic scan also looks at places whose changes cause no events."""
        started = self._clock.monotonic()
        look = self._places.take(started, is_periodic=is_periodic)
        if not (look or allow_delete):
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
        most = min(max(FEW_NEW, before.files), MANY_NEW)
        weight = await asyncio.to_thread(weigh_below, self._root, look.new, most)
        if weight >= most and not allow_delete:
            self._places.not_looked(look)
            return await self._walk(full=False, twice=look.new)
        has_trees = weight > 0 or look.paths != look.new
        state = await self._builder.patch(look.paths, look.directories, has_trees=has_trees, allow_delete=allow_delete)
        is_changed = state.root_digest != before.root_digest
        self._places.looked(look, state.again, state.trees, self._twice_at(), is_changed=is_changed)
        notes = [note for note in before.notes if note.why and not look.covers(note.path)] + state.notes
        scan = self._summary(state, started, notes, state.hashed, state.files - state.hashed, state.hashed_bytes)
        return await self._judged(scan, state.vanished)

    def _twice_at(self) -> float | None:
        return self._clock.monotonic() + LOOK_TWICE_S if self.watching else None

    def _summary(
        self, state: ManifestBuilt, started: float, notes: list[Note], hashed: int, reused: int, hashed_bytes: int
    ) -> Scan:
        clock = self._clock
        return summary(state, notes, hashed, reused, hashed_bytes, clock.monotonic() - started, clock.wall())

    async def _judged(self, scan: Scan, vanished: int) -> Scan:
        """Decides about files that have vanished in great numbers, when the time has come."""
        if not self._guard.is_due(vanished, scan.settling):
            return scan
        now = self._clock.monotonic()
        state = await self._builder.patch((), (), judge=True)
        self._guard.judged()
        return self._summary(state, now, scan.notes, scan.hashed, scan.reused, scan.hashed_bytes)

    def _publish(self, scan: Scan) -> None:
        built = self._builder.newest
        assert built is not None
        is_new = self.current is None or self.current.root_digest != scan.root_digest
        if is_new:
            self._files.publish(scan.root_digest, built.base, self._clock.monotonic())
        if self._guard.is_on:
            self._note()
        if is_new:
            self._files.tidy(self._clock.monotonic(), keeps_noted=self._guard.is_on)
        self.current = scan
        if is_new:
            if self._events is not None:
                self._events.published(scan.content_digest, self._builder.source, scan.duration_s)
            for listener in self.changed:
                # The manifest stays current even if a listener fails, and the next listener is called.
                with round_survives(self._log, self._troubles, "telling of changed files"):
                    listener(scan)
        if self._places.has_any() or self._guard.is_settling:
            self._wake.set()

    def _note(self) -> None:
        """Notes on the disk which manifest is published. Workers get it even if that fails: only the next process needs
        the note."""
        try:
            self._files.note()
        except OSError as failure:
            text = (
                f"What this node publishes cannot be noted in {self._files.note_path}: {failure.strerror or failure}. "
                "Files reach the workers all the same, but after a restart those that have vanished are looked for in "
                "an older state. It is tried again with each scan."
            )
            self._troubles.begin(NOTE, text, self._log, "ERROR")
        else:
            self._troubles.end(NOTE, "What this node publishes is noted again.", self._log)

"""The master's decisions in checks by digest: who is answered what, what is remembered, what is freed when a link
ends."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkInfo
from clusterd.messages.packages import CompareBuckets, Compared, DifferenceListed
from clusterd.settings import Settings
from clusterd.sync.integrity.digest_master import MOST_SPREAD_MS, SPREAD_MS, DigestMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.incoming import SealViolation
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.roster import Roster
from clusterd.sync.links.tags import worker_tag
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.ports.troubles import Troubles
from clusterd.wire.payloads import parse_differs, parse_listed
from tests.fakes.events import Events
from tests.sync.rounds_bench import EVERYTHING, A, B, C, TagLog, listed, run, scan_of, settle

EQUAL = Compared(3, 0, 0, 0, [], against=A)
DIFFERS = Compared(3, 1, 2, 1, [1, 2, 3], against=A)
DRY = Compared(3, 1, 2, 1, [1, 2, 3], dry=True, against=A)


class Integrity(IntegrityMaster):
    """The real one, but that a package takes until `gate` opens."""

    gate: asyncio.Event
    sent = 0

    async def sync(self, peer: Peer, compared: Compared, difference: str, scan: Any, *, ahead: bool = False) -> None:
        self.record(peer.name).digest = ""
        self.sent += 1
        await self.gate.wait()


class Worker:
    """A link to a worker. `answer`: what it says to our requests."""

    def __init__(self, link: int, name: str, capabilities: frozenset[str] = EVERYTHING) -> None:
        self.info = LinkInfo(link, "worker", name)
        self.link, self.name, self.capabilities = link, name, capabilities
        self.tag = worker_tag(name)
        self.asked: list[tuple[str, bytes]] = []
        self.answer: Callable[[str, bytes], Any] = lambda command, payload: b"Thanks"
        self.told: list[str] = []
        self.tasks = Tasks(self.told.append)

    def spawn(self, work: Any) -> None:
        self.tasks.spawn(work)

    async def request(self, command: str, payload: bytes = b"", **_: Any) -> bytes:
        self.asked.append((command, payload))
        answer = self.answer(command, payload)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Future):
            await answer
            return b"Thanks"
        return cast(bytes, answer)


class Bench:
    """`result`: what the pool answers to a comparison, or raises."""

    def __init__(self, *names: str) -> None:
        self.lines: list[tuple[str, str]] = []
        self.result: Compared | Exception = DIFFERS
        self.held: asyncio.Event | None = None
        self.made: list[str] = []
        self.removed: list[str] = []
        self.now = 100.0
        self.manifests = SimpleNamespace(current=scan_of(A))
        context: Any = SimpleNamespace(
            settings=Settings("/"),
            tag_log=lambda tag, subtag: TagLog(self.lines),
            clock=SimpleNamespace(wall=lambda: self.now, monotonic=lambda: self.now),
            manifests=self.manifests,
            roster=Roster(),
            troubles=Troubles(),
            events=Events(),
            jobs=SimpleNamespace(run=self._run),
            spool=SimpleNamespace(state_dir="/", new_path=self._new, remove=self._remove),
        )
        self.integrity = Integrity(context)
        self.integrity.gate = asyncio.Event()
        self._roster = context.roster
        self.workers = [Worker(number, name) for number, name in enumerate(names or ("w",), 1)]
        self.digest = DigestMaster(context, self.integrity)

    @property
    def workers(self) -> list[Worker]:
        return cast("list[Worker]", self._roster.workers())

    @workers.setter
    def workers(self, workers: list[Worker]) -> None:
        for peer in self._roster.all():
            self._roster.remove(peer.link)
        for worker in workers:
            self._roster.add(cast(Peer, worker))

    @property
    def worker(self) -> Worker:
        return self.workers[0]

    @property
    def record(self) -> Any:
        return self.integrity.record("w")

    def _new(self, kind: str) -> str:
        self.made.append(f"/{kind}-{len(self.made)}")
        return self.made[-1]

    def _remove(self, *paths: str) -> None:
        self.removed += paths

    async def _run(self, job: Any, **_: Any) -> Any:
        if not isinstance(job, CompareBuckets):
            return DifferenceListed(["etc/new"], ["etc/changed"], [])
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def check(self, digest: str = A, worker: Worker | None = None, *, dry: bool = False) -> bytes:
        payload = digest.encode() + (b" dry" if dry else b"")
        return self.digest.check(cast(Peer, worker or self.worker), payload)

    async def compare(self, worker: Worker | None = None) -> bytes:
        return await self.digest.compare(cast(Peer, worker or self.worker), b"told", None)

    def publish(self, digest: str) -> None:
        scan: Scan = scan_of(digest)
        self.manifests.current = scan
        self.integrity.manifest_changed(scan)
        self.digest.manifest_changed(scan)

    async def unlink(self, worker: Worker | None = None) -> None:
        """As core does it."""
        gone = worker or self.worker
        await gone.tasks.close()
        self.integrity.forget(cast(Peer, gone))
        self.digest.forget(cast(Peer, gone))

    def is_clean(self) -> bool:
        return self.made == [path for path in self.made if path in self.removed] and self.integrity.is_free("w")


# ---- checks ----------------------------------------------------------------------------------------------------------


def test_equal_worker_is_told_so_and_remembered() -> None:
    bench = Bench()
    assert bench.check() == b"equal"
    record = bench.record
    assert (record.digest, record.equal_at, record.behind_since, record.result) == (A, 100.0, None, "equal")
    assert [text for _, text in bench.lines] == [
        f"The worker has files of content digest {A}; those of this node have {A}.",
        "Starting.",
        "Received file from worker: 'syn_digest'",
        "Finished in 0.000s. Received metadata of 3 files. Sync not required.",
    ]


def test_other_worker_gets_the_digests_and_lags_from_then_on() -> None:
    bench = Bench()
    assert parse_differs(bench.check(B)) == (A, scan_of(A).buckets)
    bench.now = 200.0
    bench.check(C)
    assert (bench.record.digest, bench.record.behind_since, bench.record.behind_files) == (C, 100.0, None)


def test_question_without_consequences_has_none() -> None:
    bench = Bench()
    assert bench.check(A, dry=True) == b"equal"
    assert bench.check(B, dry=True).startswith(b"differs ")
    assert (bench.record.digest, bench.record.behind_since, bench.lines) == ("", None, [])


def test_nobody_is_checked_before_the_first_scan() -> None:
    async def story() -> None:
        bench = Bench()
        bench.manifests.current = cast(Any, None)
        assert bench.check() == bench.check(dry=True) == await bench.compare() == b"wait"

    run(story())


@pytest.mark.parametrize("payload", [b"", b"x", A.upper().encode(), f"{A} ".encode(), f"{A} dry dry".encode()])
def test_digest_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(ClusterError, match="32 hexadecimal digits"):
        Bench().digest.check(cast(Peer, Bench().worker), payload)


@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"push", "agents"})])
def test_worker_that_has_not_agreed_cannot_be_asked(capabilities: frozenset[str]) -> None:
    async def story() -> None:
        bench = Bench()
        with pytest.raises(ClusterError, match="s cannot be asked"):
            await bench.digest.difference(cast(Peer, Worker(9, "s", capabilities)))
        assert bench.made == []

    run(story())


def test_package_follows_and_the_worker_waits_meanwhile() -> None:
    async def story() -> None:
        bench = Bench()
        bench.check(B)
        assert await bench.compare() == b"sync 4"
        await settle()
        assert (bench.integrity.sent, bench.record.behind_files) == (1, 4)
        assert bench.check() == await bench.compare() == b"wait"
        assert bench.check(dry=True) == b"equal"
        bench.integrity.gate.set()
        await settle()
        assert bench.is_clean()
        assert bench.check() == b"equal"

    run(story())


def test_comparison_that_finds_nothing_makes_equal() -> None:
    """Files that may be extra on a worker are in its digest, and no difference."""

    async def story() -> None:
        bench = Bench()
        bench.check(B)
        bench.result = EQUAL
        assert await bench.compare() == b"equal"
        assert (bench.record.result, bench.record.digest, bench.record.behind_since) == ("equal", A, None)
        assert bench.is_clean()

    run(story())


def test_worker_that_told_of_buckets_of_an_earlier_manifest_is_not_called_equal() -> None:
    """Other buckets may differ now: it told nothing of them."""

    async def story() -> None:
        bench = Bench()
        bench.check(B)
        bench.publish(C)
        bench.result = EQUAL
        assert await bench.compare() == b"wait"
        assert bench.record.behind_since is not None
        assert bench.record.result == ""
        assert bench.is_clean()

    run(story())


def test_manifest_that_changes_during_a_comparison_leaves_the_worker_behind() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result, bench.held = EQUAL, asyncio.Event()
        comparing = asyncio.ensure_future(bench.compare())
        await settle()
        bench.publish(B)
        bench.held.set()
        assert await comparing == b"equal"
        assert bench.record.behind_since is not None
        assert bench.record.digest == A

    run(story())


def test_dry_comparison_lists_what_differs_and_sends_nothing() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result = DRY
        found = parse_listed(await bench.compare())
        assert (found.counts.missing, found.counts.shared, found.counts.extra) == (1, 2, 1)
        assert (found.missing, found.shared) == (["etc/new"], ["etc/changed"])
        assert (bench.integrity.sent, bench.record.behind_since) == (0, None)
        assert bench.is_clean()

    run(story())


def test_flood_of_comparisons_is_one_at_a_time() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result, bench.held = EQUAL, asyncio.Event()
        flood = [asyncio.ensure_future(bench.compare()) for _ in range(50)]
        await settle()
        assert len(bench.made) == 1
        bench.held.set()
        assert sorted(await asyncio.gather(*flood)) == [b"equal", *[b"wait"] * 49]
        assert bench.is_clean()

    run(story())


@pytest.mark.parametrize("kind", ["bad-package", "too-large", "crashed"])
def test_comparison_that_fails_is_said_and_frees_the_worker(kind: str) -> None:
    async def story() -> None:
        bench = Bench()
        bench.result = JobError(kind, "why")
        with pytest.raises(JobError):
            await bench.compare()
        assert (bench.record.result, bench.record.detail) == ("failed", "why")
        assert bench.is_clean()

    run(story())


def test_body_that_is_not_sealed_closes_the_link() -> None:
    async def story() -> None:
        bench = Bench()
        bench.result = JobError("bad-seal", "why")
        with pytest.raises(SealViolation):
            await bench.compare()
        assert bench.is_clean()

    run(story())


@pytest.mark.parametrize("steps", [0, 1, 2, 50])
def test_link_that_ends_after_the_promise_of_a_package_leaves_nothing(steps: int) -> None:
    """Also when the task that was to send it had not begun."""

    async def story() -> None:
        bench = Bench()
        assert await bench.compare() == b"sync 4"
        for _ in range(steps):
            await asyncio.sleep(0)
        await bench.unlink()
        assert bench.is_clean()
        assert bench.check() == b"equal"

    run(story())


def test_old_link_that_ends_late_frees_no_check_of_the_new_one() -> None:
    async def story() -> None:
        bench = Bench()
        bench.held = asyncio.Event()
        old = asyncio.ensure_future(bench.compare())
        await settle()
        await bench.unlink()
        new = Worker(2, "w")
        assert bench.integrity.is_free("w")
        again = asyncio.ensure_future(bench.compare(new))
        await settle()
        bench.result = EQUAL
        bench.held.set()
        await asyncio.gather(old, again)
        assert bench.is_clean()

    run(story())


# ---- telling ---------------------------------------------------------------------------------------------------------


def test_workers_that_understand_it_are_told_of_a_change_and_no_others() -> None:
    async def story() -> None:
        bench = Bench("equal", "w", "stock")
        bench.workers[2].capabilities = frozenset({"digest"})
        bench.check(B, bench.workers[0])
        bench.publish(B)
        await settle()
        expected = [("syn_changed", f"{B} {2 * SPREAD_MS}".encode())]
        assert [worker.asked for worker in bench.workers] == [[], expected, []]
        assert bench.integrity.record("equal").behind_since is None

    run(story())


def test_spread_is_bounded_whatever_the_number_of_workers() -> None:
    async def story() -> None:
        bench = Bench(*(f"w{number}" for number in range(400)))
        bench.publish(B)
        await settle()
        assert {payload for worker in bench.workers for _, payload in worker.asked} == {
            f"{B} {MOST_SPREAD_MS}".encode()
        }

    run(story())


def test_worker_that_is_slow_to_answer_hears_of_the_newest_change_next() -> None:
    async def story() -> None:
        bench = Bench()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bench.worker.answer = lambda command, payload: gate
        for digest in (B, C, A, B, C):
            bench.publish(digest)
        await settle()
        assert len(bench.worker.asked) == 1
        gate.set_result(None)
        bench.worker.answer = lambda command, payload: b"Thanks"
        await settle()
        assert [payload[:32].decode() for _, payload in bench.worker.asked][-1] == C
        assert len(bench.worker.asked) <= 2

    run(story())


@pytest.mark.parametrize("failure", [ClusterError(3020, "x"), LinkClosed("x"), ClusterError(3000, "unknown")], ids=str)
def test_worker_that_could_not_be_told_is_told_of_the_next_change(failure: Exception) -> None:
    async def story() -> None:
        bench = Bench()
        bench.worker.answer = lambda command, payload: failure
        bench.publish(B)
        await settle()
        bench.worker.answer = lambda command, payload: b"Thanks"
        bench.publish(C)
        await settle()
        assert len(bench.worker.asked) == 2
        assert bench.worker.told == []

    run(story())


@pytest.mark.parametrize("steps", [0, 1, 50])
def test_link_of_the_same_number_is_told_after_one_that_ended_while_it_was_told(steps: int) -> None:
    """A new net counts its links from one again."""

    async def story() -> None:
        bench = Bench()
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bench.worker.answer = lambda command, payload: gate
        bench.publish(B)
        for _ in range(steps):
            await asyncio.sleep(0)
        await bench.unlink()
        bench.workers = [Worker(1, "w")]
        bench.publish(C)
        await settle()
        assert len(bench.worker.asked) == 1

    run(story())


def test_worker_whose_sync_is_under_way_is_told_even_of_what_it_had_before() -> None:
    """It had A, is being sent B, and the master is back at A."""

    async def story() -> None:
        bench = Bench()
        bench.check(A)
        bench.publish(B)
        bench.check(A)
        bench.result = Compared(3, 1, 2, 1, [], against=B)
        await bench.compare()
        await settle()
        told = len(bench.worker.asked)
        bench.publish(A)
        await settle()
        assert len(bench.worker.asked) == told + 1
        assert bench.record.behind_since is not None
        bench.integrity.gate.set()
        await settle()

    run(story())


def test_worker_that_kept_what_the_master_returns_to_is_equal_without_a_word() -> None:
    async def story() -> None:
        bench = Bench()
        bench.check(A)
        bench.publish(B)
        await settle()
        bench.publish(A)
        await settle()
        assert (bench.record.behind_since, bench.record.digest) == (None, A)

    run(story())


# ---- diff ------------------------------------------------------------------------------------------------------------


def test_difference_of_a_worker_carries_its_real_name() -> None:
    async def story() -> None:
        bench = Bench()
        bench.worker.answer = lambda command, payload: b'{"node": "another", ' + listed(missing=2)[1:]
        found = await bench.digest.difference(cast(Peer, bench.worker))
        assert found.startswith(b'{"node": "w", "counts": {"missing": 2, ')

    run(story())


@pytest.mark.parametrize(
    "answer", [b"", b"wait", b"[]", b'{"counts": {}}', listed(missing=-1), b'{"extra": [{}]}', b"[" * 50_000], ids=len
)
def test_worker_that_answers_no_list_is_refused(answer: bytes) -> None:
    async def story() -> None:
        bench = Bench()
        bench.worker.answer = lambda command, payload: answer
        with pytest.raises(ClusterError):
            await bench.digest.difference(cast(Peer, bench.worker))

    run(story())

"""A master's side of a worker's check: what is compared, sent, logged and recorded (wire.md 4.6, 4.7, 5.8, 9.3)."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.journal import SyncEvent
from clusterd.messages.links import WriteLog
from clusterd.messages.packages import Compared, ComparePackage
from clusterd.sync.integrity import master
from clusterd.sync.links.peer import Peer
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire.payloads import build_task_failure
from clusterd.wire.transfer import IncomingFile
from hashing.errors import Note
from tests.sync.rounds_bench import A, B, scan_of
from tests.sync.scripted_node import WORKER, Node, on

EQUAL = Compared(7, 0, 0, 0, [])
DIFFERS = Compared(7, 1, 2, 4, [10, 20, 30])


class Master:
    """A master whose manifest is A. `compared`: the result of a comparison; `made`: why no package can be made; `sent`:
    why it cannot be sent. `dropped`, `notes`: of the package."""

    def __init__(self, root: Path) -> None:
        self.node = node = Node(root, "master", caps=(), pool=True)
        self.integrity = node.side._integrity
        node.context.manifests.current = scan_of(A)
        self.compared: Compared | JobError = DIFFERS
        self.made: Exception | None = None
        self.sent: Exception | None = None
        self.dropped, self.notes = 0, list[Note]()
        self.packed, self.sendings, self.kept = list[Any](), list[Any](), 0
        node.pool.answers = {ComparePackage: self._compare}
        self.integrity._packages = self
        node.context.sender = cast(Any, SimpleNamespace(send=self._send))

    def _compare(self, job: ComparePackage) -> Compared:
        if isinstance(self.compared, JobError):
            raise self.compared
        Path(job.out).write_text("difference")
        return self.compared

    async def package(self, difference: str, compared: Compared, manifest: str, *_: Any) -> Any:
        assert Path(difference).read_text() == "difference"
        self.packed.append((compared, manifest, [(one.total_bytes, one.step) for one in self.node.context.progress]))
        if self.made is not None:
            raise self.made
        self.kept += 1
        return SimpleNamespace(package=SimpleNamespace(size=77), dropped=self.dropped, notes=self.notes)

    def release(self, built: Any) -> None:
        self.kept -= 1

    async def _send(self, peer: Peer, name: str, command: str, package: Any, *_: Any) -> None:
        self.sendings.append((name, command, package.size))
        if self.sent is not None:
            raise self.sent

    async def check(self, peer: Peer, number: int = 0) -> None:
        """The worker does one check; `number`: of its metadata."""
        spool = self.node.context.spool
        task = (await self.node.reply(await self.node.ask(WORKER, "syn_i_w_m"))).payload.decode()
        awaited = peer.incoming.awaited(task)
        assert awaited is not None
        assert not self.integrity.is_free("w1")
        place = spool.create("package")
        awaited.file.set_result(IncomingFile("/queue/cluster/w1/a.zip", place, 9, digest=bytes([number]) * 32))
        if self.compared == EQUAL:
            await self.node.says(await self.node.request(WORKER.link, "syn_m_c_ok"))
        await self.node.until(lambda: self.integrity.is_free("w1"))
        assert peer.incoming.awaited(task) is None
        assert (self.node.context.progress, self.kept) == ([], 0)

    def story(self, story: Callable[[Peer], Awaitable[None]]) -> None:
        async def begun() -> None:
            await story(await self.node.up(WORKER))

        on(self.node, begun())

    @property
    def record(self) -> Any:
        return self.integrity.record("w1")

    def lines(self, subtag: str) -> list[str]:
        found = [f"{level} {text}" for level, _, where, text in self.node.log.written if where == subtag]
        self.node.log.written = [line for line in self.node.log.written if line[2] != subtag]
        return [re.sub(r"\d+\.\d{3}s", "Ts", line) for line in found]

    def told(self) -> list[SyncEvent]:
        return [event for event in cast(Any, self.node.context.events).told if isinstance(event, SyncEvent)]

    def files(self) -> list[str]:
        return sorted(path.name.rpartition("-")[2] for path in Path(self.node.context.spool.directory).iterdir())


@pytest.fixture
def at(tmp_path: Path) -> Master:
    return Master(tmp_path)


def test_worker_that_is_equal_hears_so_and_is_recorded_as_equal(at: Master) -> None:
    async def story(peer: Peer) -> None:
        at.compared = EQUAL
        at.node.context.troubles.begin("files for w1", "x")
        at.node.clock.move(5.0)
        await at.check(peer)
        now = at.node.clock.wall()
        assert (at.record.result, at.record.digest, at.record.check_ended_at, at.record.equal_at) == (
            "equal",
            A,
            now,
            now,
        )
        assert (at.sendings, at.files(), at.node.context.troubles.shown()) == ([], [], {})

    at.story(story)
    assert at.lines("Integrity check") == [
        "INFO Starting.",
        f"DEBUG Received file from worker: '{at.node.context.settings.root}/queue/cluster/w1/a.zip'",
        "INFO Finished in Ts. Received metadata of 7 files. Sync not required.",
    ]


def test_worker_that_differs_is_sent_a_package(at: Master) -> None:
    async def story(peer: Peer) -> None:
        at.notes = [Note("ERROR", "etc/x", "Error with x", "why")]
        await at.check(peer)
        assert at.packed == [(DIFFERS, A, [(60, "packing")])]
        assert at.sendings == [("w1", "syn_m_c", 77)]
        record = at.record
        assert (record.result, record.detail, record.behind, record.digest) == ("synced", "", 0, "")
        assert (record.missing, record.shared, record.extra, record.behind_files) == (1, 2, 4, 7)
        assert (record.sent_bytes, record.problems, record.synced_once) == (77, {"etc/x": "why"}, True)
        assert record.sync_started_at == record.sync_ended_at == at.node.clock.wall()
        assert at.files() == ["compared"], "the result of the comparison is kept"

    at.story(story)
    assert at.lines("Integrity check")[-1] == "INFO Finished in Ts. Received metadata of 7 files. Sync required."
    assert at.lines("Integrity sync") == [
        "INFO Starting.",
        "INFO Files to create in worker: 1 | Files to update in worker: 2 | Files to delete in worker: 4",
        "DEBUG Compressing files and 'files_metadata.json' of 7 files.",
        "ERROR {'etc/x': ['Error with x']}",
        "INFO Finished in Ts.",
    ]
    (told,) = at.told()
    assert (told.worker, told.what, told.files, told.bytes, told.result) == ("w1", "files", 7, 77, "partial")


def test_what_does_not_fit_into_the_package_waits_for_the_next_round(at: Master) -> None:
    async def story(peer: Peer) -> None:
        at.dropped = 3
        await at.check(peer)
        assert (at.record.result, at.record.behind) == ("partly", 3)
        assert at.record.detail == "3 files wait for the next round"

    at.story(story)


def test_package_that_the_worker_refuses_is_recorded_and_the_next_one_is_smaller(at: Master) -> None:
    async def story(peer: Peer) -> None:
        at.compared = Compared(7, 1, 0, 0, [36 << 20])
        at.sent = ClusterError(3000, "[Errno 28] No space left on device")
        bounds = at.integrity._rooms._bounds
        await at.check(peer)
        assert (at.record.result, "No space left" in at.record.detail) == ("failed", True)
        assert (bounds["w1"].bytes, at.files()) == (18 << 20, ["compared"])
        (told,) = at.told()
        assert (told.result, told.files) == ("failed", 0)

    at.story(story)
    assert at.lines("Integrity sync")[-1] == "INFO Finished in Ts."
    assert not any("No space" in line for line in at.lines("Integrity check")), "the sender has logged it"


@pytest.mark.parametrize("is_compared", [True, False])
def test_failure_of_the_master_itself_is_logged_once_and_shown_until_it_is_over(at: Master, is_compared: bool) -> None:
    async def story(peer: Peer) -> None:
        failure = JobError("disk", "no space is left")
        if is_compared:
            at.made = failure
        else:
            at.compared = failure
        for number in range(3):
            await at.check(peer, number)
            assert at.record.result == "failed"
            assert list(at.node.context.troubles.shown()) == ["files for w1"]
            assert set(at.files()) <= {"compared"}
        at.made, at.compared = None, DIFFERS
        await at.check(peer, 4)
        assert (at.record.result, at.node.context.troubles.shown()) == ("synced", {})
        at.made = failure
        await at.check(peer, 5)
        at.integrity.forget(peer)
        assert at.node.context.troubles.shown() == {}

    at.story(story)
    check = at.lines("Integrity check")
    assert [line for line in check if line.startswith("ERROR")] == ["ERROR Files for w1: no space is left"] * 2
    starts = [line for line in at.lines("Integrity sync") if line in ("INFO Starting.", "INFO Finished in Ts.")]
    assert starts == ["INFO Starting.", "INFO Finished in Ts."] * (len(starts) // 2)


def test_check_without_a_scan_of_the_master_fails(at: Master) -> None:
    async def story(peer: Peer) -> None:
        at.node.context.manifests.current = None
        await at.check(peer)
        assert (at.record.result, at.files()) == ("failed", [])

    at.story(story)
    assert "no local scan is complete yet" in at.lines("Integrity check")[-1]


def test_worker_that_gives_up_may_check_again_at_once(at: Master) -> None:
    async def failed(task: str | None) -> None:
        payload = build_task_failure(task, ClusterError(3020, "too late"))
        await at.node.reply(await at.node.ask(WORKER, "syn_i_w_m_r", payload))
        assert at.integrity.is_free("w1")

    async def story(peer: Peer) -> None:
        task = (await at.node.reply(await at.node.ask(WORKER, "syn_i_w_m"))).payload.decode()
        await failed(task)
        await at.node.until(lambda: peer.incoming.awaited(task) is None)
        assert (at.record.result, at.record.detail.startswith("Error 3020")) == ("failed", True)
        at.integrity._rooms._sent["w1"] = 36 << 20
        at.integrity.permissions.begin("w1", "x", at.node.clock.awake())
        at.record.result = ""
        await failed(None)
        assert at.record.result == "failed"

    at.story(story)
    assert ["3020" in line for line in at.lines("Integrity check")] == [False, True]
    (line,) = at.lines("Integrity sync")
    assert line.startswith("ERROR Error in synchronization process: ")


def test_permission_that_is_held_for_too_long_is_released_and_logged(at: Master) -> None:
    async def story(peer: Peer) -> None:
        permissions, limit_s = at.integrity.permissions, at.node.context.settings.master.max_locked_integrity_time_s
        permissions.max_locked_s = 1.0  # of the settings before a reload
        for ask in (True, False):
            permissions.begin("w1", "x", at.node.clock.awake())
            permissions.scan_ended()
            at.node.clock.move(limit_s - 1)
            assert not at.integrity.is_free("w1")
            at.node.clock.move(2)
            if ask:
                assert (await at.node.reply(await at.node.ask(WORKER, "syn_i_w_m_p"))).payload == b"True"
                assert peer.program == "stock"
            else:
                assert at.integrity.is_free("w1")
        lines = [sent.text for sent in at.node.sent if isinstance(sent, WriteLog)]
        assert lines == [
            "Automatically releasing Integrity check permissions flag (b'syn_i_w_m_p') after being locked out for more "
            f"than {limit_s:g}s."
        ]

    at.story(story)
    (line,) = at.lines("Integrity guard")
    assert line.startswith("WARNING The permission of a check was held for more than ")


@pytest.mark.parametrize("everything", [False, True])
def test_local_scan_has_its_lines_and_gives_every_worker_leave_whatever_becomes_of_it(
    at: Master, everything: bool
) -> None:
    looked: list[str] = []
    fails = False

    def look(how: str) -> Callable[[], Awaitable[Any]]:
        async def scan() -> Any:
            looked.append(how)
            if fails:
                raise ScanFailed("no space is left")
            return msgspec.structs.replace(scan_of(A), notes=[Note("ERROR", "etc/x", "Error with x")])

        return scan

    async def story(peer: Peer) -> None:
        nonlocal fails
        manifests = cast(Any, at.node.context.manifests)
        manifests.scan, manifests.walk = look("scan"), look("walk")
        for fails in (False, True):
            assert at.integrity.permissions.ask("w1", 0.0).granted
            assert not at.integrity.permissions.ask("w1", 0.0).granted
            assert (await at.integrity.scan_once(everything=everything) is None) == fails
        assert at.integrity.permissions.ask("w1", 0.0).granted
        assert looked == ["walk" if everything else "scan"] * 2

    at.story(story)
    assert at.lines("Local integrity") == [
        "INFO Starting.",
        "ERROR {'etc/x': ['Error with x']}",
        "INFO Finished in Ts. Calculated metadata of 3 files.",
        "INFO Starting.",
        "ERROR Error calculating local file integrity: no space is left",
    ]


def test_new_manifest_makes_workers_equal_or_behind_and_only_the_last_are_known(
    at: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master, "KEPT_MANIFESTS", 2)
    integrity, now = at.integrity, at.node.clock
    integrity.record("w1").digest, integrity.record("w2").digest = A, B
    integrity.permissions.ask("w1", 0.0)
    integrity.manifest_changed(scan_of(B))
    assert integrity.permissions.ask("w1", 0.0).granted
    assert (integrity.record("w1").behind_since, integrity.record("w2").result) == (now.monotonic(), "equal")
    integrity.manifest_changed(scan_of(A))
    integrity.manifest_changed(scan_of(B))  # it was the oldest, and is the newest now
    integrity.manifest_changed(scan_of("c" * 32))
    assert [integrity.made_at(digest) is not None for digest in (A, B, "c" * 32)] == [False, True, True]


def test_records_of_workers_that_left_are_bounded(at: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master, "KEPT_RECORDS", 2)

    async def story(peer: Peer) -> None:
        for name in ("w1", "w2"):
            at.integrity.record(name)
        at.integrity.forget(peer)
        assert list(at.integrity.records) == ["w1", "w2"]
        at.integrity.record("w3")
        at.integrity.forget(peer)
        assert list(at.integrity.records) == ["w2", "w3"]

    at.story(story)

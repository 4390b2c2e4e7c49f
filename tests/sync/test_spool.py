"""A spool whose files cannot be removed: every step of cleaning up that must happen happens all the same."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.clock import Clock
from clusterd.messages.manifest import Packed
from clusterd.messages.packages import Compared, PackMetadata
from clusterd.messages.pool import JobDone, PoolHello
from clusterd.settings import Settings
from clusterd.sync.agents.broadcasts import Broadcast
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.integrity.digest_master import DigestMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.roster import Roster
from clusterd.sync.manifest import files as manifest_files
from clusterd.sync.manifest.files import ManifestFiles
from clusterd.sync.manifest.scan import Scan
from clusterd.sync.ports.pool_port import PoolPort
from clusterd.sync.ports.spool import AGAIN_S, LEFT, Spool
from clusterd.sync.ports.tasks import Tasks
from clusterd.sync.ports.troubles import Troubles
from ipc.job_queue import JobQueue
from tests.fakes.events import Events
from tests.sync.rounds_bench import EVERYTHING, A, B, C, TagLog, run, scan_of, settle


class Disk:
    """Refuses to remove files while `is_broken`, with the errors of a failing or read-only file system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_broken = False
        self._unlink = os.unlink
        monkeypatch.setattr(os, "unlink", self._refuse)

    def _refuse(self, path: Any, **options: Any) -> None:
        if self.is_broken:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        self._unlink(path, **options)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk(monkeypatch)
    yield found
    found.is_broken = False


class Node:
    """A spool on the real disk, and a context around it whose log keeps its lines."""

    def __init__(self, root: Path) -> None:
        self.lines: list[tuple[str, str]] = []
        self.now = 100.0
        self.troubles = Troubles()
        log = cast(Any, TagLog(self.lines))
        self.spool = Spool(str(root), 1, self.troubles, log)
        self.spool.prepare()
        self.manifests = SimpleNamespace(current=scan_of(A))
        self.result = Compared(3, 1, 2, 1, [1, 2, 3], against=A)
        self.context: Any = SimpleNamespace(
            settings=Settings(str(root)),
            tag_log=lambda tag, subtag: TagLog(self.lines),
            clock=SimpleNamespace(wall=lambda: self.now, monotonic=lambda: self.now, awake=lambda: self.now),
            manifests=self.manifests,
            troubles=self.troubles,
            events=Events(),
            roster=Roster(),
            jobs=SimpleNamespace(run=self._run),
            spool=self.spool,
        )

    async def _run(self, job: Any, **_: Any) -> Any:
        Path(job.out).write_text("difference")
        return self.result

    def make(self, kind: str) -> str:
        path = self.spool.new_path(kind)
        Path(path).write_text("x")
        return path

    @property
    def files(self) -> list[str]:
        return os.listdir(self.spool.directory)


def test_what_cannot_be_removed_is_logged_once_and_removed_later(tmp_path: Path, disk: Disk) -> None:
    node = Node(tmp_path)
    first, second = node.make("a"), node.make("b")
    disk.is_broken = True
    node.spool.remove(first)
    node.spool.remove(second, node.spool.new_path("never-made"))
    node.spool.tidy(100.0)
    assert [level for level, _ in node.lines] == ["error"]
    assert "3 are left" in node.troubles.shown()[LEFT]
    disk.is_broken = False
    node.spool.tidy(100.0 + AGAIN_S / 2)
    assert len(node.files) == 2
    node.spool.tidy(100.0 + AGAIN_S)
    assert (node.files, node.troubles.shown()) == ([], {})
    assert [level for level, _ in node.lines] == ["error", "info"]


def test_a_node_starts_although_an_earlier_life_left_what_cannot_be_removed(tmp_path: Path, disk: Disk) -> None:
    Node(tmp_path).make("old")
    disk.is_broken = True
    later = Spool(str(tmp_path), 2)
    later.prepare()
    disk.is_broken = False
    later.tidy(AGAIN_S)
    assert not os.listdir(later.directory)


class Integrity(IntegrityMaster):
    """The real class, but nothing is packed."""

    async def sync(self, peer: Any, compared: Compared, difference: str, scan: Any, *, ahead: bool = False) -> None:
        self.record(peer.name).result = "synced"


def make_worker() -> Any:
    worker = SimpleNamespace(link=1, name="w", capabilities=EVERYTHING | {"ahead"}, info=SimpleNamespace(kind="worker"))
    worker.tag, worker.gone = "Worker w", asyncio.Event()
    worker.tasks = Tasks(lambda text: None)
    worker.spawn = worker.tasks.spawn

    async def request(command: str, payload: bytes = b"", **_: Any) -> bytes:
        return b"Thanks"

    worker.request = request
    return worker


def test_a_worker_may_check_again_although_its_difference_could_not_be_removed(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        node, worker = Node(tmp_path), make_worker()
        integrity = Integrity(node.context)
        node.context.roster.add(worker)
        digest = DigestMaster(node.context, integrity)
        disk.is_broken = True
        assert await digest.compare(worker, b"told", None) == b"sync 4"
        await settle()
        assert integrity.is_free("w")
        assert await digest.compare(worker, b"told", None) == b"sync 4"

    run(story())


def test_what_is_sent_ahead_ends_although_its_difference_could_not_be_removed(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        node, worker = Node(tmp_path), make_worker()
        integrity = Integrity(node.context)
        node.context.roster.add(worker)
        digest = DigestMaster(node.context, integrity)
        digest.manifest_changed(scan_of(A))
        integrity.record("w").digest = A
        disk.is_broken = True
        scan: Scan = scan_of(B)
        node.manifests.current = scan
        digest.manifest_changed(scan)
        await settle()
        assert integrity.record("w").result == "synced"
        assert integrity.is_free("w")
        digest.manifest_changed(scan_of(A))  # removes the step before

    run(story())


def test_a_check_that_never_ends_keeps_its_worker_from_checking_for_the_longest_time_only(tmp_path: Path) -> None:
    async def story() -> None:
        node, worker = Node(tmp_path), make_worker()
        integrity = Integrity(node.context)
        node.context.roster.add(worker)
        digest = DigestMaster(node.context, integrity)
        integrity.permissions.begin("w", "lost", node.now)
        assert digest.check(worker, A.encode()) == b"wait"
        node.now += node.context.settings.master.max_locked_integrity_time_s + 1
        assert digest.check(worker, A.encode()) == b"equal"
        assert [text for level, text in node.lines if level == "warning"] == [
            "The permission of a check was held for more than 1000 s and is released."
        ]

    run(story())


def test_broadcasts_go_on_although_one_could_not_be_removed(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        node, worker = Node(tmp_path), make_worker()
        sent: list[str] = []

        async def send_string(peer: Any, segments: Any) -> str:
            sent.append(segments[0].path)
            return "1"

        async def request(command: str, payload: bytes = b"", **_: Any) -> bytes:
            asyncio.get_running_loop().call_soon(groups.queue_of(worker).finished, RESULT)
            return b"Thanks"

        worker.request, worker.timeout_s = request, 5.0
        node.context.sender = SimpleNamespace(send_string=send_string)
        groups = AgentGroupsMaster(node.context, {})
        groups.joined(worker)
        disk.is_broken = True
        paths = [node.make("groups") for _ in range(3)]
        for path in paths:
            broadcast = Broadcast(path)
            broadcast.size, broadcast.chunks, broadcast.rows = 1, 1, {1: 1}
            groups._hand_over(cast(Any, TagLog(node.lines)), broadcast)
            await settle()
        assert sent == paths
        assert not groups._broadcasts._open
        disk.is_broken = False
        node.spool.tidy(AGAIN_S + 100)
        assert not node.files
        await worker.tasks.close()

    run(story())


RESULT = b'{"updated_chunks": 1, "error_messages": [], "time_spent": 0.1}'


def test_a_broadcast_that_meets_a_bug_does_not_end_those_that_follow(tmp_path: Path) -> None:
    async def story() -> None:
        node, worker = Node(tmp_path), make_worker()
        sent: list[str] = []

        async def send_string(peer: Any, segments: Any) -> str:
            sent.append(segments[0].path)
            raise RuntimeError("nobody foresaw this")

        node.context.sender = SimpleNamespace(send_string=send_string)
        groups = AgentGroupsMaster(node.context, {})
        groups.joined(worker)
        for _ in range(3):
            broadcast = Broadcast(node.make("groups"))
            broadcast.rows, broadcast.confirmations = {1: 1}, [b"x"]
            groups._hand_over(cast(Any, TagLog(node.lines)), broadcast)
            await settle()
        assert len(sent) == 3
        assert (groups._broadcasts._open, node.files) == ([], [])
        assert list(node.troubles.shown()) == ["broadcasts to w"]
        (line,) = (text for level, text in node.lines if level == "error")
        assert line.startswith("broadcasts to w: Unexpected failure: Traceback")
        await worker.tasks.close()
        groups.left(worker)
        assert not node.troubles.shown()

    run(story())


def test_the_pool_goes_on_although_an_unwanted_file_could_not_be_removed(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        node = Node(tmp_path)

        async def send(identity: bytes, message: Any) -> None:
            given.append(message.id)

        given: list[int] = []
        port = PoolPort(send, JobQueue(4), 1, Clock(), node.spool.remove)
        await port.hello(PoolHello(1, 1))
        out = node.make("out")
        waiter = asyncio.create_task(port.run(PackMetadata("/", A, out, "zlib")))
        await settle()
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        disk.is_broken = True
        await port.done(1, JobDone(given[0], Packed(1)))
        assert list(node.troubles.shown()) == [LEFT]

    run(story())


def test_manifest_is_published_although_an_old_one_could_not_be_removed(tmp_path: Path, disk: Disk) -> None:
    files = ManifestFiles(str(tmp_path))
    (tmp_path / "manifest-old").write_text("old")
    disk.is_broken = True
    published(files, A)
    assert files.published_digest == A
    assert sorted(os.listdir(tmp_path)) == ["manifest-old", "published"]
    disk.is_broken = False
    published(files, B)
    assert sorted(os.listdir(tmp_path)) == ["published"]


def published(files: ManifestFiles, digest: str, base: str = "") -> None:
    files.publish(digest, base, 0.0)
    with contextlib.suppress(OSError):
        files.note()
    files.tidy(0.0, keeps_noted=True)


def test_files_that_the_note_needs_stay_while_a_newer_one_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process would find a note of a manifest that is gone, and its scans would fail."""

    def held() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("manifest-*"))

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for digest in (A, B, C):
        (tmp_path / f"manifest-{digest}").write_text(digest)
    published(ManifestFiles(str(tmp_path)), A, B)
    assert held() == sorted(f"manifest-{digest}" for digest in (A, B))
    with monkeypatch.context() as patched:
        patched.setattr(manifest_files, "save_state", refuse)
        files = ManifestFiles(str(tmp_path))
        published(files, C)
        assert held() == sorted(f"manifest-{digest}" for digest in (A, B))
    assert ManifestFiles(str(tmp_path)).published_digest == A
    published(files, C)
    assert ManifestFiles(str(tmp_path)).published_digest == C
    assert held() == []

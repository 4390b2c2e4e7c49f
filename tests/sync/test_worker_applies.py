"""What a worker does with a package from its master: what it deletes, and what status, log and master hear of it
(wire.md 4.7, 5.9)."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.journal import SyncEvent
from clusterd.messages.links import WriteLog
from clusterd.messages.packages import (
    Applied,
    ApplyPlan,
    OpenPackage,
    PackageOpened,
    RangeUnpacked,
    UnpackRange,
    Written,
)
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.wire.payloads import build_task_failure
from hashing.errors import Note
from tests.sync.scripted_node import MASTER, Node, code_in, on, turns

DONE = Applied(created=1, updated=2, deleted=4, overwrite_errors=0, create_errors=0, remove_errors=0, notes=[])
ANNOUNCED = PackageOpened(missing=1, shared=2, extra=4, ranges=1, extra_digest="a", refused=[])


class Files:
    """The manifests of a worker with 100 files."""

    current = SimpleNamespace(files=100)

    def __init__(self) -> None:
        self.own: list[int] = []
        self.touched: list[str] = []

    @asynccontextmanager
    async def own_changes(self, files: int) -> Any:
        self.own.append(files)
        yield

    aside = own_changes

    def touch(self, paths: list[str]) -> None:
        self.touched += paths

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Receiving:
    """A worker whose master sends packages. `opened`, `applied`: the results of their jobs, or what they raise;
    `changed`: the events."""

    def __init__(self, root: Path) -> None:
        self.opened: PackageOpened | JobError = ANNOUNCED
        self.applied: Applied | JobError = DONE
        self.notes: list[Note] = []
        self.written = "etc/rules/a"
        self.node = Node(root, "worker", caps=(), pool=True)
        self.files = Files()
        self.node.context.manifests = cast(Any, self.files)
        self.node.pool.answers = {
            OpenPackage: lambda job: self._given(self.opened),
            UnpackRange: lambda job: RangeUnpacked([Written(self.written, 7, 4)], self.notes),
            ApplyPlan: lambda job: self._given(self.applied),
        }
        self.changed: list[int] = []

    @staticmethod
    def _given(what: Any) -> Any:
        if isinstance(what, JobError):
            raise what
        return what

    def story(self, story: Callable[[Peer], Awaitable[None]]) -> None:
        async def begun() -> None:
            await self.node.context.slabs.admit()
            peer = await self.node.up(MASTER)
            self.node.side._integrity.sync_ended = self.changed.append
            await story(peer)

        on(self.node, begun())

    async def sent(self, peer: Peer) -> None:
        """Lets one package arrive, and waits until it is applied."""
        count = len(self.changed)
        answer = await self.node.reply(await self.node.ask(MASTER, "syn_m_c"))
        awaited = peer.incoming.awaited(answer.payload.decode())
        assert awaited is not None
        place = self.node.context.spool.create("package")
        awaited.file.set_result(cast(Any, SimpleNamespace(place=place, received=100)))
        await self.node.until(lambda: len(self.changed) > count)
        assert (self.node.context.progress, peer.incoming.awaited_count, Path(place).exists()) == ([], 0, False)

    def told(self) -> list[SyncEvent]:
        """Returns what the journal was told since the last call."""
        events = cast(Any, self.node.context.events)
        told, events.told = events.told, []
        return [event for event in told if isinstance(event, SyncEvent)]

    @property
    def applies(self) -> list[ApplyPlan]:
        return [job for job in self.node.pool.jobs if isinstance(job, ApplyPlan)]

    def lines(self, subtag: str) -> list[str]:
        return [f"{level} {text}" for level, _, where, text in self.node.log.written if where == subtag]

    @property
    def own(self) -> dict[str, Any]:
        """Returns what `status` shows of this worker."""
        found: dict[str, Any] = self.node.side.status("").results["self"]
        return found


@pytest.fixture
def worker(tmp_path: Path) -> Receiving:
    return Receiving(tmp_path)


def test_package_is_applied_counted_and_logged(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        worker.applied = Applied(1, 2, 4, 0, 0, 0, [], removed=["etc/rules/gone"])
        await worker.sent(peer)
        assert (worker.changed, worker.files.own, [job.delete for job in worker.applies]) == ([7], [7], [True])
        assert worker.files.touched == ["etc/rules/a", "etc/rules/gone"]
        own = worker.own
        assert (own["result"], own["detail"], own["problems"]) == ("synced", None, {})
        assert (own["created"], own["updated"], own["deleted"]) == (1, 2, 4)
        assert own["synced_at"] == worker.node.clock.wall()
        (told,) = worker.told()
        assert (told.what, told.files, told.bytes, told.result, told.left_out) == ("files", 7, 100, "ok", ())

    worker.story(story)
    # A master that sends a package unasked: the check still has its log lines, once.
    check = worker.lines("Integrity check")
    assert [re.sub(r"\d+\.\d+", "T", line) for line in check if line.startswith("INFO")] == [
        "INFO Starting.",
        "INFO Finished in Ts. Sync required.",
    ]
    sync = [re.sub(r"\d+\.\d+", "T", line) for line in worker.lines("Integrity sync") if line.startswith("INFO")]
    assert sync == [
        "INFO Starting.",
        "INFO Files to create: 1 | Files to update: 2 | Files to delete: 4",
        "INFO Finished in Ts.",
    ]
    assert not [line for line in worker.lines("Integrity sync") if line.startswith("ERROR")]
    times = re.findall(r"Finished in (\d+\.\d{3})s", "".join(check + worker.lines("Integrity sync")))
    assert all(float(spent) < 600 for spent in times)


def test_mass_deletion_waits_for_a_second_package_that_asks_for_the_same(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        worker.opened = PackageOpened(0, 0, 60, 1, "a", [])
        await worker.sent(peer)
        own = worker.own
        assert (own["result"], own["detail"]) == (
            "partly",
            "60 deletions wait for the next check to say the same",
        )
        await worker.sent(peer)
        assert [job.delete for job in worker.applies] == [False, True]
        own = worker.own
        assert (own["result"], own["detail"]) == ("synced", None)

    worker.story(story)


def test_check_that_finds_nothing_between_two_mass_deletions_resets_the_first(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        worker.opened = PackageOpened(0, 0, 60, 1, "a", [])
        await worker.sent(peer)
        worker.node.side._integrity.checked_equal()
        await worker.sent(peer)
        assert [job.delete for job in worker.applies] == [False, False]

    worker.story(story)


@pytest.mark.parametrize(
    ("refused", "unpacked", "applied"),
    [(["etc/x"], [], []), ([], ["etc/rules/a"], []), ([], [], ["etc/rules/b"])],
    ids=["refused", "not unpacked", "not applied"],
)
def test_files_that_are_not_as_they_should_be_are_problems_whatever_step_they_failed_at(
    worker: Receiving, refused: list[str], unpacked: list[str], applied: list[str]
) -> None:
    def notes(paths: list[str]) -> list[Note]:
        return [Note("ERROR", path, f"Error with {path}", "why") for path in paths]

    async def story(peer: Peer) -> None:
        worker.opened = PackageOpened(1, 2, 4, 1, "a", notes(refused))
        worker.notes = notes(unpacked)
        worker.applied = Applied(1, 2, 4, len(applied), 0, 0, notes(applied))
        await worker.sent(peer)
        own = worker.own
        assert (own["result"], own["problems"]) == ("partly", dict.fromkeys(refused + unpacked + applied, "why"))

    worker.story(story)
    count = len(applied)
    assert f"ERROR Found errors: {count} overwriting, 0 creating and 0 removing" in worker.lines("Integrity sync")


def test_files_that_are_left_out_are_counted_and_logged(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        worker.applied = Applied(1, 2, 4, 1, 2, 4, [Note("ERROR", "etc/rules/b", "Error with b", "why")])
        await worker.sent(peer)
        assert worker.node.side._integrity.last.left_out == 7

    worker.story(story)
    assert worker.lines("Integrity sync")[-4:-2] == [
        "ERROR {'etc/rules/b': ['Error with b']}",
        "ERROR Found errors: 1 overwriting, 2 creating and 4 removing",
    ]


def test_others_hear_of_each_round_and_of_files_that_are_left_out_as_long_as_there_are_some(worker: Receiving) -> None:
    heard: list[str] = []

    async def story(peer: Peer) -> None:
        integrity = worker.node.side._integrity
        integrity.tried, integrity._round_ended = lambda: heard.append("tried"), lambda: heard.append("ended")
        for notes in ([], [Note("ERROR", "etc/rules/b", "Error with b", "why")], [], []):
            worker.applied = Applied(1, 2, 4, 0, 0, 0, notes)
            worker.node.clock.move(1.0)
            await worker.sent(peer)
            (told,) = worker.told()
            assert [left.path for left in told.left_out] == [note.path for note in notes]
            heard.append("|")
        integrity.last.problems, integrity.last.left_out = {"etc/rules/b": "why"}, 1
        for _ in range(2):
            integrity.checked_equal()
            assert (integrity.last.problems, integrity.last.left_out) == ({}, 0)

    worker.story(story)
    assert " ".join(heard) == "ended | tried ended | tried ended | ended | tried ended ended"


def test_master_that_gives_up_ends_the_wait_for_its_package(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        task = (await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c"))).payload.decode()
        failure = build_task_failure(task, ClusterError(3016, "the disk is full"))
        await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c_r", failure))
        told = await worker.node.request(MASTER.link, "syn_i_w_m_r")
        await worker.node.says(told)
        await worker.node.until(lambda: worker.changed == [0])
        assert code_in(told.payload.removeprefix(b"None ")) == 1000
        assert (worker.own["result"], "the disk is full" in worker.own["detail"]) == ("failed", True)
        assert ([event.result for event in worker.told()], worker.node.context.progress) == (["failed"], [])
        await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c_r", failure))

    worker.story(story)
    lines = [sent.text for sent in worker.node.sent if isinstance(sent, WriteLog) and sent.level == "ERROR"]
    assert ["Error in synchronization process" in line for line in lines] == [False, True]
    assert all("the disk is full" in line for line in lines)


def test_package_that_cannot_be_applied_is_reported_to_the_master(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        worker.applied = JobError("disk", "no space is left")
        dealt_with = asyncio.ensure_future(worker.sent(peer))
        told = await worker.node.request(MASTER.link, "syn_i_w_m_r")
        await worker.node.says(told)
        await dealt_with
        assert worker.changed == [0]
        assert told.payload.startswith(b"None ")
        assert code_in(told.payload.removeprefix(b"None ")) == 1000
        own = worker.own
        assert own["result"] == "failed"
        assert "no space is left" in own["detail"]
        assert [(event.result, event.files) for event in worker.told()] == [("failed", 0)]

    worker.story(story)
    assert any("no space is left" in line for line in worker.lines("Integrity sync"))


def test_master_that_never_sends_what_it_announced_only_gets_a_cancel(worker: Receiving) -> None:
    settings = worker.node.context.settings
    worker.node.context.settings = _with(settings, "communication", timeout_receiving_file_s=0.01)

    async def story(peer: Peer) -> None:
        await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c"))
        await worker.node.request(MASTER.link, "cancel_task")
        await worker.node.until(lambda: worker.changed == [0])
        await turns()
        assert "syn_i_w_m_r" not in worker.node.asked(MASTER.link)
        assert "3039" in worker.own["detail"]

    worker.story(story)


def test_package_whose_chunks_were_refused_is_not_waited_for(worker: Receiving) -> None:
    """A stock master ignores that and ends as usual. Its worker would not check again for two minutes (wire.md 3.5)."""

    async def story(peer: Peer) -> None:
        task = (await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c"))).payload
        ended = await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c_e", task + b" queue/cluster/w1/a.zip"))
        assert (ended.command, code_in(ended.payload)) == ("err", 3027)
        told = await worker.node.request(MASTER.link, "cancel_task")
        assert code_in(told.payload.removeprefix(task + b" ")) == 3040
        await worker.node.until(lambda: worker.changed == [0])
        assert "syn_i_w_m_r" not in worker.node.asked(MASTER.link)
        assert "3040" in worker.own["detail"]

    worker.story(story)


def test_third_package_at_a_time_is_refused(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        answers = [await worker.node.reply(await worker.node.ask(MASTER, "syn_m_c")) for _ in range(3)]
        assert [answer.command for answer in answers] == ["ok", "ok", "err"]

    worker.story(story)


@pytest.mark.parametrize(("count", "shown"), [(5, "etc/lists/4. Mount"), (6, "etc/lists/4 and 1 more. Mount")])
def test_mounted_files_are_named_as_far_as_there_is_room(worker: Receiving, count: int, shown: str) -> None:
    async def story(peer: Peer) -> None:
        worker.applied = Applied(0, 1, 0, 0, 0, 0, [], in_place=[f"etc/lists/{number}" for number in range(count)])
        await worker.sent(peer)
        assert shown in str(worker.node.context.troubles.shown())

    worker.story(story)


def test_mounted_file_is_a_trouble_until_it_was_renamed(worker: Receiving) -> None:
    async def story(peer: Peer) -> None:
        for in_place in (["etc/rules/a", "etc/rules/b"], ["etc/rules/a"], []):
            worker.applied = Applied(0, 1, 0, 0, 0, 0, [], in_place=in_place)
            await worker.sent(peer)
            shown = str(worker.node.context.troubles.shown())
            assert ("etc/rules/a" in shown, "etc/rules/b" in shown) == (bool(in_place), True), "b was not written since"
        worker.written = "etc/rules/b"
        await worker.sent(peer)
        assert worker.node.context.troubles.shown() == {}

    worker.story(story)


def _with(settings: Any, block: str, **changes: Any) -> Any:
    replace = msgspec.structs.replace
    return replace(settings, **{block: replace(getattr(settings, block), **changes)})

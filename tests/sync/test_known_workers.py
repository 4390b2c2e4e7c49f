"""The workers that a master knows (connected, away, forgotten, refused), and their file."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.links import HelloRefused, LinkInfo
from clusterd.sync.links import known_workers
from clusterd.sync.links.known_workers import (
    BACK_SOON_S,
    EXPECTED_S,
    MOST_REFUSED,
    REFUSED_S,
    SAME_REFUSED_S,
    KnownWorkers,
)
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles
from hashing.atomic import FileOps
from tests.fakes.clock import FakeClock


class Lines:
    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        assert (tag, subtag) == ("Master", "Workers")
        self.written.append((level, text))


class FakePeer:
    """The attributes of a peer that are read."""

    def __init__(self, name: str, address: str = "10.0.0.7", program: str = "clusterd") -> None:
        self.info = LinkInfo(1, "worker", name, "worker", "4.14.1", address, 1000.0)
        self.name, self.program, self.keepalive_at, self.silent_s = name, program, 0.0, 0.0


class Master:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.log = Lines()
        self.troubles = Troubles()
        self.begin()

    def begin(self) -> None:
        """One life of sync."""
        tag_log = TagLog(cast(Any, self.log), "Master", "Workers")
        self.known = KnownWorkers(str(self.path), cast(Clock, self.clock), tag_log, self.troubles)

    def arrives(self, peer: FakePeer) -> None:
        self.known.arrives(cast(Peer, peer))

    def joined(self, peer: FakePeer) -> None:
        self.known.joined(cast(Peer, peer))

    def left(self, peer: FakePeer, why: str = "", record: WorkerRecord | None = None) -> None:
        self.known.left(cast(Peer, peer), record, why)

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.known.shown({})}

    def states(self) -> dict[str, str]:
        return {name: row["state"] for name, row in self.rows().items()}


@pytest.fixture
def master(tmp_path: Path) -> Master:
    return Master(tmp_path)


def during_a_round(master: Master, until: Coroutine[Any, Any, None]) -> None:
    """Lets `run` live until `until` has ended."""

    async def story() -> None:
        running = asyncio.create_task(master.known.run())
        try:
            async with asyncio.timeout(60):
                await until
        finally:
            running.cancel()

    asyncio.run(story())


async def written(master: Master, names: set[str]) -> None:
    """Waits until the file has these names."""
    path = master.path / "workers.json"
    while not path.exists() or {row["name"] for row in json.loads(path.read_bytes())} != names:
        await asyncio.sleep(0.01)


async def said(master: Master, text: str) -> None:
    while not any(text in line for _, line in master.log.written):
        await asyncio.sleep(0.01)


def test_worker_is_connected_then_expected_then_lost(master: Master) -> None:
    peer = FakePeer("w1")
    master.joined(peer)
    assert master.states() == {"w1": "connected"}
    master.left(peer, "no keep alives", WorkerRecord(result="equal"))
    assert master.states() == {"w1": "expected"}
    master.clock.move(BACK_SOON_S + 0.1)
    row = master.rows()["w1"]
    assert (row["state"], row["why"], row["result"], row["program"]) == ("lost", "no keep alives", "equal", "clusterd")
    assert row["lost_s"] == pytest.approx(BACK_SOON_S + 0.1)
    master.joined(FakePeer("w1"))
    assert master.states() == {"w1": "connected"}


def test_worker_that_was_given_up_for_its_silence_is_lost_at_once(master: Master) -> None:
    """By the keepalive rule it has been silent for long enough: there is nothing to wait for."""
    silent, left = FakePeer("silent"), FakePeer("left")
    for peer in (silent, left):
        master.joined(peer)
    silent.silent_s = 12.0
    for peer in (silent, left):
        master.left(peer, "nothing has come from the peer")
    assert master.states() == {"silent": "lost", "left": "expected"}
    assert master.rows()["silent"]["lost_s"] == pytest.approx(12.0)
    assert master.known._next_due_s() == 0
    master.known._say_lost()
    assert [line for _, line in master.log.written] == [
        "Worker silent (10.0.0.7) is lost: nothing has come from the peer. 0 of 2 workers are connected."
    ]
    assert master.known._next_due_s() == pytest.approx(BACK_SOON_S)
    master.clock.move(1.0)
    assert master.known._next_due_s() == pytest.approx(BACK_SOON_S - 1.0)
    for jump_s in (-7200.0, 14400.0):
        master.clock.jump(jump_s)
        assert master.known._next_due_s() == pytest.approx(BACK_SOON_S - 1.0)
        assert master.states() == {"silent": "lost", "left": "expected"}


def test_end_of_an_older_link_does_not_lose_a_worker_that_has_a_newer_one(master: Master) -> None:
    old, new = FakePeer("w1"), FakePeer("w1")
    master.joined(old)
    master.joined(new)
    master.left(old)
    assert master.states() == {"w1": "connected"}


def test_worker_whose_link_is_up_again_is_neither_lost_nor_forgotten_before_it_asks(master: Master) -> None:
    """It says nothing for a moment: a busy node, as a rule."""
    first, second, third = FakePeer("w1"), FakePeer("w1"), FakePeer("w1")
    master.joined(first)
    master.left(first)
    master.clock.move(BACK_SOON_S - 0.1)
    master.arrives(second)
    master.clock.move(1.0)
    assert master.known._next_due_s() == 0
    master.known._say_lost()
    assert (master.states(), master.log.written) == ({"w1": "expected"}, [])
    with pytest.raises(ClusterError, match="worker w1 is connected: stop it first"):
        master.known.forget("w1")
    master.joined(second)
    assert (master.states(), master.log.written) == ({"w1": "connected"}, [])
    # Another one that ends without having asked, as that of `doctor`, keeps nothing from being said.
    master.left(second)
    master.arrives(third)
    master.clock.move(BACK_SOON_S + 0.1)
    master.known._changed.clear()
    master.left(third)
    assert master.known._changed.is_set()
    master.known._say_lost()
    assert [line for _, line in master.log.written] == ["Worker w1 (10.0.0.7) is lost. 0 of 1 workers are connected."]
    assert master.states() == {"w1": "lost"}
    master.arrives(FakePeer("w1"))
    assert master.states() == {"w1": "lost"}, "once that was said it holds until the worker has joined"


def test_loss_and_return_are_logged_once(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.sync.links.known_workers.BACK_SOON_S", 0.0)
    peer = FakePeer("w1")

    async def story() -> None:
        master.joined(peer)
        master.joined(FakePeer("w2", "10.0.0.8"))
        master.left(peer, "the link was cut")
        await said(master, "Worker w1 (10.0.0.7) is lost: the link was cut. 1 of 2 workers are connected.")
        master.joined(peer)
        await said(master, "Worker w1 (10.0.0.7) is back. 2 of 2 workers are connected.")

    during_a_round(master, story())
    assert [level for level, _ in master.log.written] == ["WARNING", "INFO"]


def test_workers_are_known_across_a_restart_and_first_expected(master: Master) -> None:
    async def story() -> None:
        master.joined(FakePeer("w1"))
        master.joined(FakePeer("w2"))
        await written(master, {"w1", "w2"})

    during_a_round(master, story())
    master.begin()
    assert master.states() == {"w1": "expected", "w2": "expected"}
    master.joined(FakePeer("w1"))
    master.clock.move(EXPECTED_S + BACK_SOON_S)
    assert master.states() == {"w1": "connected", "w2": "lost"}


@pytest.mark.parametrize("why", ["", "it ended"])
def test_worker_that_came_and_left_after_a_start_is_lost_and_not_expected(master: Master, why: str) -> None:
    peer = FakePeer("w1")
    master.joined(peer)
    asyncio.run(master.known.save())
    master.begin()
    assert master.states() == {"w1": "expected"}
    master.joined(peer)
    master.left(peer, why)
    master.clock.move(BACK_SOON_S)
    assert BACK_SOON_S < EXPECTED_S
    assert master.states() == {"w1": "lost"}, "its loss is said in the log and the journal, too"


@pytest.mark.parametrize("content", [b"", b"{", b'[{"name":5}]', b"\xff", b'[{"x":' + b"[" * 2000])
def test_damaged_file_is_reported_and_replaced(master: Master, content: bytes) -> None:
    (master.path / "workers.json").write_bytes(content)
    master.begin()
    assert master.states() == {}
    assert "cannot be read" in master.log.written[0][1]

    async def story() -> None:
        master.joined(FakePeer("w1"))
        await written(master, {"w1"})

    # Before the first write the file is not JSON.
    (master.path / "workers.json").unlink()
    during_a_round(master, story())


def test_file_that_cannot_be_written_is_a_trouble_until_it_can(master: Master) -> None:
    blocked = master.path / "workers.json"
    blocked.mkdir()
    (blocked / "x").touch()

    async def story() -> None:
        master.joined(FakePeer("w1"))
        while "known workers" not in master.troubles.shown():
            await asyncio.sleep(0.01)
        (blocked / "x").unlink()
        blocked.rmdir()
        master.joined(FakePeer("w2"))
        await written(master, {"w1", "w2"})
        while master.troubles.shown():
            await asyncio.sleep(0.01)

    during_a_round(master, story())


def test_forgotten_worker_is_gone_and_a_connected_one_stays(master: Master) -> None:
    peer = FakePeer("w1")
    master.joined(peer)
    with pytest.raises(ClusterError, match="is connected"):
        master.known.forget("w1")
    master.left(peer)
    master.known.forget("w1")
    assert master.states() == {}
    with pytest.raises(ClusterError, match="it knows: none"):
        master.known.forget("w1")


def test_refusals_are_counted_and_end_when_the_node_may_join_or_gives_up(master: Master) -> None:
    for _ in range(3):
        master.known.refused(HelloRefused("w1", "10.0.0.7", "version 4.14.0, ours is 4.14.1"))
    master.known.refused(HelloRefused("", "10.0.0.7", "another key"))
    master.known.refused(HelloRefused("w2", "10.0.0.8", "cluster name"))
    assert [(row["name"], row["attempts"]) for row in master.known.shown_refused()] == [("w2", 1), ("", 1), ("w1", 3)]
    master.joined(FakePeer("w1"))
    assert [row["name"] for row in master.known.shown_refused()] == ["w2"]
    master.clock.move(REFUSED_S + 1)
    assert master.known.shown_refused() == []


def test_refusal_of_a_worker_that_has_two_links_for_a_moment_ends_soon(master: Master) -> None:
    master.joined(FakePeer("w1"))
    master.known.refused(HelloRefused("w1", "10.0.0.7", "the node at 10.0.0.7 is connected under this name"))
    master.known.refused(HelloRefused("w1", "10.0.0.8", "the node at 10.0.0.7 is connected under this name"))
    master.clock.move(SAME_REFUSED_S - 1)
    assert len(master.known.shown_refused()) == 2
    master.clock.move(2)
    assert [row["address"] for row in master.known.shown_refused()] == ["10.0.0.8"]


def test_memory_of_refusals_is_bounded(master: Master) -> None:
    for number in range(MOST_REFUSED + 10):
        master.known.refused(HelloRefused(f"w{number}", "10.0.0.7", "no"))
    found = master.known.shown_refused()
    assert (len(found), found[0]["name"]) == (MOST_REFUSED, f"w{MOST_REFUSED + 9}")


def test_forgetting_a_node_that_was_only_refused_ends_its_row(master: Master) -> None:
    master.known.refused(HelloRefused("w1", "10.0.0.7", "version"))
    assert not master.known.forget("w1")
    assert master.known.shown_refused() == []


def test_another_node_with_a_workers_name_is_forgotten_and_the_worker_stays(master: Master) -> None:
    """The name was corrected there: nobody has to wait ten minutes for a verdict that is OK."""
    master.joined(FakePeer("w1"))
    master.known.refused(HelloRefused("w1", "10.0.0.7", "the node at 10.0.0.1 is connected under this name"))
    assert not master.known.forget("w1")
    assert (master.known.shown_refused(), master.states()) == ([], {"w1": "connected"})
    with pytest.raises(ClusterError, match="is connected"):
        master.known.forget("w1")


def test_worker_that_is_dropped_for_a_new_one_is_nothing_to_be_told(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was lost a moment ago may be the only one that is away."""
    monkeypatch.setattr(known_workers, "MOST", 2)
    for name in ("w1", "w2"):
        master.joined(FakePeer(name))
    leaving = FakePeer("w1")
    master.joined(leaving)
    master.left(leaving, "it hung up")
    master.joined(FakePeer("w3"))
    assert master.states() == {"w2": "connected", "w3": "connected"}
    during_a_round(master, written(master, {"w2", "w3"}))
    assert master.log.written == []


def test_round_that_fails_is_not_the_last(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    master.joined(FakePeer("w1"))
    tries: list[None] = []

    def trip() -> float:
        tries.append(None)
        master.known._changed.set()
        if len(tries) == 1:
            raise KeyError("w9")
        return 0.0

    monkeypatch.setattr(master.known, "_next_due_s", trip)
    leaving = FakePeer("w2")
    master.joined(leaving)
    master.left(leaving)

    async def tried_again() -> None:
        while len(tries) < 2:
            await asyncio.sleep(0.01)

    during_a_round(master, tried_again())


def test_worker_that_was_lost_before_the_clock_was_set_back_is_lost_all_the_same(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = FakePeer("w1")
    master.joined(peer)
    master.left(peer)
    master.known.refused(HelloRefused("x", "10.0.0.9", "another key"))
    master.clock.jump(-3600)
    assert master.states() == {"w1": "expected"}
    assert [row["name"] for row in master.known.shown_refused()] == ["x"]
    master.clock.move(BACK_SOON_S + 0.1)
    during_a_round(master, said(master, "Worker w1 (10.0.0.7) is lost"))
    assert master.states() == {"w1": "lost"}
    master.clock.move(REFUSED_S)
    assert master.known.shown_refused() == []


def test_keepalives_count_after_the_clock_was_set_back(master: Master) -> None:
    """Else a worker would look as if it had just been heard of for as long as the clock was wrong."""
    peer = FakePeer("w1")
    master.joined(peer)
    master.clock.jump(-3600)
    master.rows()
    peer.keepalive_at = master.clock.wall() + 10
    master.clock.move(60)
    assert master.rows()["w1"]["seen_at"] == peer.keepalive_at


def test_list_is_on_the_disk_before_it_replaces_the_one_before(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    class Steps(FileOps):
        def fsync(self, fd: int) -> None:
            steps.append("fsync")

        def rename(self, source: str, target: str, *, dir_fd: int | None = None) -> None:
            steps.append(f"rename to {target}")
            super().rename(source, target, dir_fd=dir_fd)

    monkeypatch.setattr(known_workers, "FileOps", Steps)
    master.joined(FakePeer("w1"))
    asyncio.run(master.known.save())
    assert steps == ["fsync", "rename to workers.json", "fsync"]

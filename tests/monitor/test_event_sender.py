"""A process sends events without waiting for the monitor, and its memory does not grow while there is none."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd import event_sender
from clusterd.event_sender import MOST_HELD, EventSender, bind_receiver
from clusterd.messages.journal import LARGEST, ChangeEvent, FileChange, ProcessEvent, Told, WorkerEvent
from clusterd.rundir import journal_socket
from tools.rig.guard import guarded


@pytest.fixture
def root() -> Iterator[Path]:
    with guarded("events-") as base:
        (base / "var/run/clusterd").mkdir(parents=True)
        yield base


class Later:
    """Timers that the test fires."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, work: Callable[[], None]) -> None:
        self.due.append((seconds, work))

    def go_off(self) -> None:
        due, self.due = self.due, []
        for _, work in due:
            work()


def taken(receiver: object, most: int = 10_000) -> list[Told]:
    found = []
    for _ in range(most):
        try:
            found.append(msgspec.msgpack.decode(receiver.recv(LARGEST), type=Told))  # type: ignore[attr-defined]
        except BlockingIOError:
            break
    return found


def test_events_arrive_unchanged_and_no_descriptor_is_kept(root: Path) -> None:
    with bind_receiver(str(root)) as receiver:
        sender = EventSender(str(root), "sync", is_on=True, wall=lambda: 12.5)
        before = os.listdir("/proc/self/fd")
        event = WorkerEvent(worker="w1", what="lost", why="it said nothing for 12 s", address="10.0.0.1")
        sender.tell(event)
        assert taken(receiver) == [Told(12.5, "sync", 0, event)]
        assert os.listdir("/proc/self/fd") == before


def test_events_wait_for_the_monitor_and_come_in_order(root: Path) -> None:
    later = Later()
    sender = EventSender(str(root), "sync", is_on=True, wall=lambda: 1.0, later=later)
    for pid in range(3):
        sender.tell(ProcessEvent(process="net", what="started", pid=pid))
    assert (sender.held, len(later.due)) == (3, 1)
    later.go_off()
    assert later.due[0][0] > 0.02  # a monitor that is not there is tried less and less often
    with bind_receiver(str(root)) as receiver:
        later.go_off()
        assert [told.event.pid for told in taken(receiver)] == [0, 1, 2]  # type: ignore[union-attr]
        assert (sender.held, later.due) == (0, [])


@pytest.mark.slow
def test_without_a_monitor_a_sender_holds_so_much_and_counts_the_rest(root: Path) -> None:
    sender = EventSender(str(root), "store", is_on=True)
    for pid in range(MOST_HELD + 7):
        sender.tell(ProcessEvent(process="net", what="started", pid=pid))
    assert (sender.held, sender.lost) == (MOST_HELD, 7)
    with bind_receiver(str(root)) as receiver:
        found = []
        while sender.held:
            sender.flush()
            found += taken(receiver)
        assert [told.lost for told in found] == [7] + [0] * (MOST_HELD - 1)
        assert [told.event.pid for told in found] == list(range(MOST_HELD))  # type: ignore[union-attr]


def test_monitor_that_does_not_read_fills_no_memory(root: Path) -> None:
    files = tuple(FileChange(f"etc/rules/{'x' * 80}{n}", "changed", 1, 2, b"a" * 16, b"b" * 16) for n in range(400))
    later = Later()
    with bind_receiver(str(root)) as receiver:
        sender = EventSender(str(root), "sync", is_on=True, later=later)
        for _ in range(1000):
            sender.tell(ChangeEvent(manifest="0", source="events", changed=400, files=files))
        assert sender.held <= MOST_HELD
        passed = 0
        for _ in range(1000):
            passed += len(taken(receiver))
            later.go_off()
            if not sender.held:
                break
        passed += len(taken(receiver))
        assert passed + sender.lost == 1000


def test_event_that_is_too_large_is_lost_alone(root: Path) -> None:
    with bind_receiver(str(root)) as receiver:
        sender = EventSender(str(root), "sync", is_on=True)
        sender.tell(WorkerEvent(worker="w1", what="lost", why="x" * LARGEST))
        sender.tell(WorkerEvent(worker="w2", what="lost"))
        ((told),) = taken(receiver)
        assert (told.lost, told.event) == (1, WorkerEvent(worker="w2", what="lost"))


def test_node_without_a_monitor_sends_no_events(root: Path) -> None:
    sender = EventSender(str(root), "sync", is_on=False)
    sender.tell(WorkerEvent(worker="w1", what="lost"))
    assert (sender.held, sender.lost) == (0, 0)


def test_new_monitor_takes_the_place_of_one_that_died(root: Path) -> None:
    dead = bind_receiver(str(root))
    with bind_receiver(str(root)) as receiver:
        EventSender(str(root), "sync", is_on=True).tell(WorkerEvent(worker="w1", what="lost"))
        assert len(taken(receiver)) == 1
        assert taken(dead) == []
    dead.close()
    assert Path(journal_socket(str(root))).is_socket()


def test_event_that_cannot_be_encoded_is_lost_alone(root: Path) -> None:
    with bind_receiver(str(root)) as receiver:
        sender = EventSender(str(root), "sync", is_on=True)
        sender.tell(WorkerEvent(worker="half \udcff a character", what="lost"))
        sender.tell(WorkerEvent(worker="w1", what="lost"))
        (told,) = taken(receiver)
        assert (sender.lost, told.lost, told.event) == (1, 1, WorkerEvent(worker="w1", what="lost"))


def test_event_that_no_socket_of_the_machine_takes_is_lost_and_holds_up_no_other(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(socket.socket):
        def connect(self, address: Any) -> None:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel takes its least
            super().connect(address)

    later = Later()
    with bind_receiver(str(root)) as receiver:
        sender = EventSender(str(root), "sync", is_on=True, later=later)
        monkeypatch.setattr(event_sender.socket, "socket", Small)
        sender.tell(WorkerEvent(worker="w1", what="lost", why="x" * 30_000))
        sender.tell(WorkerEvent(worker="w2", what="lost"))
        later.go_off()
        [told] = taken(receiver)
    assert (told.event.worker, told.lost, sender.lost, sender.held) == ("w2", 1, 1, 0)  # type: ignore[union-attr]

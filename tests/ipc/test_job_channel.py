"""The channel between sync and the pool: order, refusals, deaths of both ends, and what it costs."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.messages.manifest import SweepTemporary, Swept
from clusterd.messages.pool import JobDone, JobFailed, PoolHello, PoolToSync, StartJob, SyncToPool
from ipc import job_channel
from ipc.channel import BURST
from ipc.codec import Decoder, encode
from ipc.errors import BadMessage, NoCredit
from ipc.job_channel import MOST_UNREAD, JobChannel, WorkerSocket
from tests.ipc.processes import Child, in_loop, until

NAME = b"pool-1"


def job(number: int, root: str = "/r") -> StartJob:
    return StartJob(number, SweepTemporary(root))


def make_channel(path: Path) -> JobChannel[PoolToSync]:
    return JobChannel(str(path), Decoder(PoolToSync))


def make_worker(path: Path, name: bytes = NAME) -> WorkerSocket[SyncToPool]:
    return WorkerSocket(str(path), name, Decoder(SyncToPool))


def answering_sync(path: Path) -> Callable[[], None]:
    """A process that answers each hello with a job that has its pid for a number."""

    async def serve() -> None:
        channel = make_channel(path)
        while True:
            name, message = await channel.recv()
            if isinstance(message, PoolHello):
                channel.send(name, job(os.getpid()))

    return lambda: in_loop(serve)


def framed(*contents: bytes) -> bytes:
    return b"".join(len(content).to_bytes(4, "big") + content for content in contents)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- one process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 5_000_000])
def test_messages_of_any_size_arrive_as_they_were_sent_in_both_directions(tmp_path: Path, size: int) -> None:
    """Neither end blocks the other, though both send more than a socket holds."""

    def pool() -> None:
        worker = make_worker(tmp_path / "s")
        worker.greet(PoolHello(1, 7))
        for _ in range(3):
            order = None
            while order is None:
                order = worker.recv(10)
            assert isinstance(order.job, SweepTemporary)
            worker.send(JobDone(order.id, Swept(len(order.job.root))), lambda: True)
        signal.pause()

    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        with Child(pool):
            assert await channel.recv() == (NAME, PoolHello(1, 7))
            for number in range(3):
                channel.send(NAME, job(number, "/" + "x" * size))
                assert await channel.recv() == (NAME, JobDone(number, Swept(size + 1)))
        channel.close()

    in_loop(work)
    assert not (tmp_path / "s").exists()


def test_what_is_no_message_is_reported_and_the_channel_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(tmp_path / "s"))
            other.sendall(framed(NAME, b"\xff\x00", encode(job(1)), encode(PoolHello(1, 1))))
            for _ in range(2):
                with pytest.raises(BadMessage):
                    await channel.recv()
            assert await channel.recv() == (NAME, PoolHello(1, 1))
        channel.close()

    in_loop(work)


@pytest.mark.parametrize("head", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_who_sends_no_frames_is_let_go(tmp_path: Path, head: bytes) -> None:
    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(tmp_path / "s"))
            other.sendall(framed(NAME, encode(PoolHello(1, 1))) + head)
            assert await channel.recv() == (NAME, PoolHello(1, 1))
            other.settimeout(60)
            assert await asyncio.to_thread(other.recv, 1) == b""
        with pytest.raises(NoCredit, match="pool-1 is not connected"):
            channel.send(NAME, job(1))
        channel.close()

    in_loop(work)


def test_of_a_process_that_is_not_heard_no_more_is_taken_than_a_little(tmp_path: Path) -> None:
    """And nothing of it is lost, nor held back afterwards."""

    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(tmp_path / "s"))
            other.setblocking(False)
            sent, rest = 0, framed(NAME)
            idle = 0
            while idle < 20:  # its socket is full, and stays full
                try:
                    rest = rest[other.send(rest) :]
                    idle = 0
                except BlockingIOError:
                    idle += 1
                if not rest:
                    rest, sent = framed(encode(PoolHello(sent, 10**9))), sent + 1
                await asyncio.sleep(0)
            other.setblocking(True)
            sending = asyncio.create_task(asyncio.to_thread(other.sendall, rest))
            heard = [(await channel.recv())[1] for _ in range(sent)]
            await sending
            assert [message.slot for message in heard if isinstance(message, PoolHello)] == list(range(sent))
            assert sent > MOST_UNREAD
        channel.close()

    in_loop(work)


def test_a_process_that_takes_nothing_is_refused_more_and_its_death_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_channel, "MOST_UNSENT", 1_000_000)

    def never_reads() -> None:
        worker = make_worker(tmp_path / "s")
        worker.greet(PoolHello(1, 1))
        signal.pause()

    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        with Child(never_reads) as child:
            await channel.recv()

            def flood() -> None:
                for number in range(100):
                    channel.send(NAME, job(number, "x" * 100_000))

            with pytest.raises(NoCredit, match="pool-1 takes no messages"):
                flood()
            child.kill()

            def is_unknown() -> bool:
                with contextlib.suppress(NoCredit):
                    channel.send(NAME, job(1))
                    return False
                return True

            while not is_unknown():
                await asyncio.sleep(0.001)
        channel.close()

    in_loop(work)


def test_a_cancelled_receive_loses_no_message_and_the_loop_has_time_for_others(tmp_path: Path) -> None:
    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        turns, heard = 0, []

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(str(tmp_path / "s"))
            sending = asyncio.create_task(
                asyncio.to_thread(sender.sendall, framed(NAME, *(encode(PoolHello(one, 0)) for one in range(1000))))
            )
            while len(heard) < 1000:
                try:
                    async with asyncio.timeout(0.0001):
                        while True:
                            heard.append((await channel.recv())[1].slot)  # type: ignore[union-attr]
                except TimeoutError:
                    await asyncio.sleep(0)
            await sending
        assert heard == list(range(1000))
        assert turns >= 1000 // BURST - 1
        beside.cancel()
        channel.close()

    in_loop(work)


def test_it_costs_a_pool_process_one_descriptor_and_sync_one_for_each(tmp_path: Path) -> None:
    async def work() -> None:
        before = descriptors()
        channel = make_channel(tmp_path / "s")
        assert descriptors() == before + 1
        workers = [make_worker(tmp_path / "s", f"pool-{number}".encode()) for number in range(3)]
        for worker in workers:
            worker.greet(PoolHello(1, 1))
            await channel.recv()
        assert descriptors() == before + 1 + 2 * len(workers)
        for worker in workers:
            worker.close()
            worker.close()
        channel.close()
        channel.close()
        assert descriptors() == before

    in_loop(work)


def test_a_stale_socket_file_does_not_hinder_a_start_and_a_path_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("stale")

    async def work() -> None:
        before = descriptors()
        make_channel(tmp_path / "s").close()
        for make in (make_channel, make_worker):
            with pytest.raises(ValueError, match="at most 107 bytes"):
                make(tmp_path / ("x" * 108))
        with pytest.raises(FileNotFoundError):
            make_channel(tmp_path / "no" / "such" / "directory")
        assert descriptors() == before

    in_loop(work)
    assert os.listdir(tmp_path) == []


def test_closing_ends_whoever_waits(tmp_path: Path) -> None:
    async def work() -> None:
        channel = make_channel(tmp_path / "s")
        waiting = asyncio.create_task(channel.recv())
        await asyncio.sleep(0)
        channel.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    in_loop(work)


def test_a_worker_without_a_sync_waits_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_channel, "GREET_TIMEOUT_S", 0.05)
    worker = make_worker(tmp_path / "s")
    assert worker.recv(0.01) is None
    assert worker.connections == 0
    with pytest.raises(NoCredit):
        worker.greet(PoolHello(1, 1))
    with pytest.raises(NoCredit):
        worker.send(JobDone(1, Swept(1)), lambda: True)
    worker.close()
    assert os.listdir(tmp_path) == []


def test_a_result_for_a_sync_that_is_gone_is_given_to_no_other_by_itself(tmp_path: Path) -> None:
    async def work() -> None:
        worker = make_worker(tmp_path / "s")
        first = make_channel(tmp_path / "s")
        worker.greet(PoolHello(1, 1))
        await first.recv()
        first.close()
        second = make_channel(tmp_path / "s")
        with pytest.raises(NoCredit):
            worker.send(JobDone(1, Swept(1)), lambda: True)
        worker.greet(PoolHello(1, 2))
        assert await second.recv() == (NAME, PoolHello(1, 2))
        worker.close()
        second.close()

    in_loop(work)


def test_a_result_waits_for_room_as_long_as_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_channel, "ASK_S", 0.01)
    large = JobDone(1, JobFailed("disk", "x" * 3_000_000))
    asked = threading.Event()

    def is_wanted() -> bool:
        asked.set()
        return True

    async def work() -> None:
        worker = make_worker(tmp_path / "s")
        channel = make_channel(tmp_path / "s")
        for _ in range(2):
            worker.greet(PoolHello(1, 1))
            assert await channel.recv() == (NAME, PoolHello(1, 1))
            with pytest.raises(NoCredit):  # this loop reads nothing meanwhile
                worker.send(large, lambda: False)
        worker.greet(PoolHello(1, 1))
        assert await channel.recv() == (NAME, PoolHello(1, 1))
        sending = threading.Thread(target=worker.send, args=(large, is_wanted))
        sending.start()
        assert asked.wait(60)
        assert await channel.recv() == (NAME, large)
        sending.join()
        worker.close()
        channel.close()

    in_loop(work)


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_worker_notices_that_its_sync_was_killed_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def ask() -> int:
        worker.greet(PoolHello(1, 1))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = worker.recv(10)
            if message is not None:
                return message.id
        raise AssertionError("no answer")

    with Child(answering_sync(path)) as first:
        worker = make_worker(path)
        assert worker.recv(10) is None
        assert worker.connections == 1
        assert ask() == first.pid
        first.kill()
    assert path.exists(), "the dead left its socket file, which must not hinder the next"
    for life in (2, 3):
        with Child(answering_sync(path)) as successor:
            # The wait ends at once, though it may last sixty seconds, and no message has come.
            began = time.monotonic()
            assert worker.recv(60) is None
            assert time.monotonic() - began < 50
            assert worker.connections == life
            assert ask() == successor.pid
    worker.close()


def test_a_worker_is_not_given_the_orders_of_a_dead_sync(tmp_path: Path) -> None:
    path = tmp_path / "s"
    told, tells = os.pipe()

    async def orders() -> None:
        channel = make_channel(path)
        await channel.recv()
        for number in range(3):
            channel.send(NAME, job(number))
        await asyncio.sleep(0.1)
        os.write(tells, b"x")
        await asyncio.sleep(60)

    worker = make_worker(path)
    with Child(lambda: in_loop(orders)):
        until(lambda: worker.recv(0.1) is None and worker.connections == 1)
        worker.greet(PoolHello(1, 1))
        os.read(told, 1)
    with Child(answering_sync(path)) as successor:
        until(lambda: worker.recv(0.1) is None and worker.connections == 2)
        worker.greet(PoolHello(1, 1))
        answer = None
        while answer is None:
            answer = worker.recv(10)
        assert answer.id == successor.pid
    worker.close()
    os.close(told)
    os.close(tells)


@pytest.mark.parametrize("sync_reads_meanwhile", [True, False])
def test_a_successor_takes_over_the_name_of_a_killed_process(tmp_path: Path, sync_reads_meanwhile: bool) -> None:
    """What the dead one had sent is not taken for news of its successor."""
    path = tmp_path / "s"
    told, tells = os.pipe()

    def life(number: int) -> Callable[[], None]:
        def run() -> None:
            worker = make_worker(path)
            worker.greet(PoolHello(1, number))
            for done in range(5):
                worker.send(JobDone(done, Swept(number)), lambda: True)
            answer = None
            time.sleep(0.1)
            os.write(tells, b"x")
            while answer is None:
                answer = worker.recv(10)
            worker.send(JobDone(answer.id, Swept(100 + number)), lambda: True)
            signal.pause()

        return run

    async def work() -> None:
        channel = make_channel(path)
        seen = []
        with Child(life(1)):
            await asyncio.to_thread(os.read, told, 1)
            seen.append(await channel.recv())
            if sync_reads_meanwhile:
                seen += [await channel.recv() for _ in range(5)]
        with Child(life(2)):
            await asyncio.to_thread(os.read, told, 1)
            while (NAME, PoolHello(1, 2)) not in seen:
                seen.append(await channel.recv())
            hello = seen.index((NAME, PoolHello(1, 2)))
            channel.send(NAME, job(77))
            while (NAME, JobDone(77, Swept(102))) not in seen:
                seen.append(await channel.recv())
        assert seen[hello:] == [
            (NAME, PoolHello(1, 2)),
            *((NAME, JobDone(done, Swept(2))) for done in range(5)),
            (NAME, JobDone(77, Swept(102))),
        ]
        channel.close()

    in_loop(work)
    os.close(told)
    os.close(tells)


def test_a_signal_ends_a_workers_wait_only_by_raising(tmp_path: Path) -> None:
    """A pool process takes SIGTERM as an exception, SIGHUP as a note to itself."""

    class Stop(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stop

    hups: list[int] = []
    worker = make_worker(tmp_path / "s")
    parent = os.getpid()

    def knock() -> None:
        time.sleep(0.1)
        os.kill(parent, signal.SIGUSR1)
        time.sleep(0.1)
        os.kill(parent, signal.SIGUSR2)

    old = signal.signal(signal.SIGUSR1, lambda number, frame: hups.append(number)), signal.signal(signal.SIGUSR2, stop)
    try:
        with Child(knock), pytest.raises(Stop):
            worker.recv(30)
        assert hups == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, old[0])
        signal.signal(signal.SIGUSR2, old[1])
        worker.close()


@pytest.mark.stress
def test_takeover_works_every_time(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def hello() -> None:
        worker = make_worker(path)
        worker.greet(PoolHello(1, os.getpid()))
        worker.recv(30)
        worker.send(JobDone(1, Swept(1)), lambda: True)
        signal.pause()

    async def work() -> None:
        channel = make_channel(path)
        for number in range(60):
            with Child(hello) as child:
                message = None
                while message != PoolHello(1, child.pid):
                    _, message = await channel.recv()
                if number % 2:
                    channel.send(NAME, job(1))
        channel.close()

    in_loop(work)

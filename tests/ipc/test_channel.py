"""Channels in one process: order, room, refusals, and what they leave."""

import asyncio
import os
import time
from pathlib import Path

import pytest
import zmq

from clusterd.messages.manifest import SweepTemporary
from clusterd.messages.pool import PoolHello, PoolToSync, StartJob, SyncToPool
from ipc import channel
from ipc.channel import DealerChannel, RouterChannel, WorkerSocket
from ipc.codec import Decoder, encode
from ipc.errors import BadMessage, NoCredit
from tests.ipc.processes import in_loop

LARGE = "/" + "x" * 2000


def job(number: int, root: str = "/r") -> StartJob:
    return StartJob(number, SweepTemporary(root))


def make_router(path: Path, hwm: int = 10) -> RouterChannel[PoolToSync]:
    return RouterChannel(str(path), Decoder(PoolToSync), hwm)


def make_dealer(path: Path, name: bytes = b"pool-1", hwm: int = 10) -> DealerChannel[SyncToPool]:
    return DealerChannel(str(path), name, Decoder(SyncToPool), hwm)


def test_a_message_arrives_as_it_was_sent_in_both_directions(tmp_path: Path) -> None:
    async def work() -> None:
        router, dealer = make_router(tmp_path / "s"), make_dealer(tmp_path / "s")
        await dealer.send(PoolHello(1, 7))
        assert await router.recv() == (b"pool-1", PoolHello(1, 7))
        await router.send(b"pool-1", job(3))
        assert await dealer.recv() == job(3)
        dealer.close()
        router.close()

    in_loop(work)
    assert not (tmp_path / "s").exists()


def test_messages_sent_together_are_received_one_by_one_in_their_order(tmp_path: Path) -> None:
    async def work() -> None:
        router, dealer = make_router(tmp_path / "s"), make_dealer(tmp_path / "s")
        await dealer.send(PoolHello(1, 1), PoolHello(1, 2), PoolHello(1, 3))
        await dealer.send(PoolHello(1, 4))
        assert [await router.recv() for _ in range(4)] == [(b"pool-1", PoolHello(1, number)) for number in range(1, 5)]
        await router.send(b"pool-1", job(1), job(2))
        assert [await dealer.recv(), await dealer.recv()] == [job(1), job(2)]
        dealer.close()
        router.close()

    in_loop(work)


def test_bad_one_of_several_messages_leaves_the_others(tmp_path: Path) -> None:
    async def work() -> None:
        router, dealer = make_router(tmp_path / "s"), make_dealer(tmp_path / "s")
        await dealer.send(PoolHello(1, 1), job(1), PoolHello(1, 2))
        assert (await router.recv())[1] == PoolHello(1, 1)
        with pytest.raises(BadMessage):
            await router.recv()
        assert (await router.recv())[1] == PoolHello(1, 2)
        dealer.close()
        router.close()

    in_loop(work)


def test_a_dealer_may_be_there_before_its_router(tmp_path: Path) -> None:
    async def work() -> None:
        dealer = make_dealer(tmp_path / "s")
        sending = asyncio.create_task(dealer.send(PoolHello(1, 1)))
        await asyncio.sleep(0)
        router = make_router(tmp_path / "s")
        assert (await router.recv())[1] == PoolHello(1, 1)
        await sending
        dealer.close()
        router.close()

    in_loop(work)


def test_what_is_no_message_is_reported_and_the_channel_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        router = make_router(tmp_path / "s")
        with zmq.Context() as context, context.socket(zmq.DEALER) as other:
            other.set(zmq.LINGER, 0)
            other.set(zmq.IDENTITY, b"pool-1")
            other.connect(f"ipc://{tmp_path}/s")
            for frames in ([b"\xff\x00"], [b""], [b"a", b"b"], [encode(job(1))], [encode(PoolHello(1, 1))]):
                other.send_multipart(frames)
            for _ in range(5):
                with pytest.raises(BadMessage):
                    await router.recv()
            assert await router.recv() == (b"pool-1", PoolHello(1, 1))
        router.close()

    in_loop(work)


def test_a_message_without_a_receiver_is_refused_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        router = make_router(tmp_path / "s")
        with pytest.raises(NoCredit, match="pool-9 is not connected"):
            await asyncio.wait_for(router.send(b"pool-9", job(1)), 8)
        router.close()

    in_loop(work)


async def _until_it_stands(counter: list[int]) -> int:
    """Waits until nothing more is sent: the queues are full."""
    seen, same = -1, 0
    while same < 10:
        same = same + 1 if len(counter) == seen else 0
        seen = len(counter)
        await asyncio.sleep(0.01)
    return seen


@pytest.mark.parametrize("direction", ["to the router", "to the dealer"])
def test_a_slow_receiver_slows_its_sender_and_loses_nothing(tmp_path: Path, direction: str) -> None:
    """Two tasks send; each one's messages stay in order, though both wait for room."""
    many = 300

    async def work() -> None:
        router, dealer = make_router(tmp_path / "s", 5), make_dealer(tmp_path / "s", hwm=5)
        await dealer.send(PoolHello(1, 1))
        await router.recv()
        sent: list[int] = []

        async def flood(first: int) -> None:
            for number in range(first, first + many):
                if direction == "to the dealer":
                    await router.send(b"pool-1", job(number, LARGE))
                else:
                    await dealer.send(PoolHello(number, 10**9))
                sent.append(number)

        floods = [asyncio.create_task(flood(first)) for first in (0, many)]
        if direction == "to the dealer":
            assert await _until_it_stands(sent) < 2 * many
            received = [(await dealer.recv()).id for _ in range(2 * many)]
        else:
            received = [(await router.recv())[1].slot for _ in range(2 * many)]  # type: ignore[union-attr]
        await asyncio.gather(*floods)
        assert sorted(received) == list(range(2 * many))
        assert [number for number in received if number < many] == list(range(many))
        assert [number for number in received if number >= many] == list(range(many, 2 * many))
        dealer.close()
        router.close()

    in_loop(work)


def test_a_receiver_that_stays_full_is_an_error_and_not_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `send` accepted arrives; what it refused does not. Messages that wait in the queue are refused together, not
    one after the other."""
    monkeypatch.setattr(channel, "SEND_TIMEOUT_S", 0.2)

    async def work() -> None:
        router, dealer = make_router(tmp_path / "s", 5), make_dealer(tmp_path / "s", hwm=5)
        await dealer.send(PoolHello(1, 1))
        await router.recv()
        results = await asyncio.gather(
            *(router.send(b"pool-1", job(number, LARGE)) for number in range(1000)), return_exceptions=True
        )
        refused = [number for number, result in enumerate(results) if isinstance(result, NoCredit)]
        accepted = [number for number, result in enumerate(results) if result is None]
        assert refused
        assert len(refused) + len(accepted) == 1000
        assert [(await dealer.recv()).id for _ in accepted] == accepted
        await router.send(b"pool-1", job(5000))
        assert await dealer.recv() == job(5000)
        dealer.close()
        router.close()

    in_loop(work)


def test_a_full_receiver_delays_no_other_receiver(tmp_path: Path) -> None:
    async def work() -> None:
        router = make_router(tmp_path / "s", 5)
        slow, quick = make_dealer(tmp_path / "s", b"pool-1", 5), make_dealer(tmp_path / "s", b"pool-2", 5)
        for dealer in (slow, quick):
            await dealer.send(PoolHello(1, 1))
            await router.recv()
        sent: list[int] = []

        async def flood() -> None:
            for number in range(1000):
                await router.send(b"pool-1", job(number, LARGE))
                sent.append(number)

        flooding = asyncio.create_task(flood())
        await _until_it_stands(sent)
        await asyncio.wait_for(router.send(b"pool-2", job(1)), 8)
        assert await quick.recv() == job(1)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        # A message whose sender was cancelled while it waited was not sent.
        await router.send(b"pool-2", job(2))
        assert [(await slow.recv()).id for _ in sent] == sent
        for one in (slow, quick, router):
            one.close()

    in_loop(work)


def test_sending_does_not_swallow_the_signal_of_a_waiting_receiver(tmp_path: Path) -> None:
    """ZeroMQ signals once that a message has arrived, and any call on the socket consumes the signal."""

    async def work() -> None:
        router, dealer = make_router(tmp_path / "s"), make_dealer(tmp_path / "s")
        await dealer.send(PoolHello(1, 1))
        await router.recv()
        waiting = asyncio.create_task(router.recv())
        await asyncio.sleep(0.01)
        await dealer.send(PoolHello(2, 2))
        time.sleep(0.05)  # noqa: ASYNC251  # the loop must not see the signal first
        await router.send(b"pool-1", job(1))
        assert (await asyncio.wait_for(waiting, 30))[1] == PoolHello(2, 2)
        dealer.close()
        router.close()

    in_loop(work)


def test_a_cancelled_receive_loses_no_message(tmp_path: Path) -> None:
    async def work() -> None:
        router, dealer = make_router(tmp_path / "s"), make_dealer(tmp_path / "s", hwm=1000)
        received: list[int] = []

        async def feed() -> None:
            for number in range(300):
                await dealer.send(PoolHello(number, 0))
                await asyncio.sleep(0)

        feeding = asyncio.create_task(feed())
        while len(received) < 300:
            try:
                async with asyncio.timeout(0.0001):
                    while True:
                        _, message = await router.recv()
                        assert isinstance(message, PoolHello)
                        received.append(message.slot)
            except TimeoutError:
                await asyncio.sleep(0)
        await feeding
        assert received == list(range(300))
        dealer.close()
        router.close()

    in_loop(work)


def test_a_stream_of_messages_leaves_the_loop_time_for_others(tmp_path: Path) -> None:
    async def work() -> None:
        router, dealer = make_router(tmp_path / "s", 1000), make_dealer(tmp_path / "s", hwm=1000)
        for number in range(1000):
            await dealer.send(PoolHello(number, 0))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        for _ in range(1000):
            await router.recv()
        assert turns >= 1000 // channel.BURST - 1
        beside.cancel()
        dealer.close()
        router.close()

    in_loop(work)


def test_a_stale_socket_file_does_not_hinder_a_start(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("stale")

    async def work() -> None:
        make_router(tmp_path / "s").close()

    in_loop(work)
    assert not (tmp_path / "s").exists()


def test_a_path_that_is_no_socket_address_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 108)
    for make in (make_router, make_dealer):
        with pytest.raises(ValueError, match="at most 107 bytes"):
            make(long)
    with pytest.raises(ValueError, match="at most 107 bytes"):
        WorkerSocket(str(long), b"pool-1", Decoder(SyncToPool))
    with pytest.raises(zmq.ZMQError):
        make_router(tmp_path / "no" / "such" / "directory")


def test_closing_ends_all_waiting_and_may_be_repeated(tmp_path: Path) -> None:
    async def work() -> None:
        router, dealer = make_router(tmp_path / "s"), make_dealer(tmp_path / "s")
        waiting = [asyncio.create_task(router.recv()), asyncio.create_task(dealer.recv())]
        await asyncio.sleep(0)
        for _ in range(2):
            dealer.close()
            router.close()
        for task in waiting:
            with pytest.raises(asyncio.CancelledError):
                await task

    in_loop(work)
    worker: WorkerSocket[StartJob] = WorkerSocket(str(tmp_path / "s"), b"pool-1", Decoder(SyncToPool))
    worker.close()
    worker.close()


def test_a_worker_without_a_router_waits_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SEND_TIMEOUT_S", 0.05)
    worker: WorkerSocket[StartJob] = WorkerSocket(str(tmp_path / "s"), b"pool-1", Decoder(SyncToPool))
    assert worker.recv(0.01) is None
    assert worker.connections == 0
    with pytest.raises(NoCredit):
        worker.send(PoolHello(1, 1))
    worker.close()
    assert os.listdir(tmp_path) == []

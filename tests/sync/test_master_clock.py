"""The master's boot clock, measured over a link that is sometimes slow."""

import asyncio
import os
from typing import Any, cast

import pytest

from clusterd.clock import boot_us, clock_name
from clusterd.errors import ClusterError
from clusterd.sync.agents.master_clock import CLOSE_US, MasterClock
from clusterd.sync.links.peer import Peer
from clusterd.sync.requests.of_workers import MasterRequests
from clusterd.wire.payloads import parse_clock

AHEAD_US = 5_000_000


class SlowPeer:
    """A master whose clock is `ahead_us` ahead. `delays_s`: delays of the answers."""

    def __init__(self, *delays_s: float) -> None:
        self.delays = list(delays_s)
        self.ahead_us = AHEAD_US
        self.asked = list[bytes]()

    async def request(self, command: str, payload: bytes = b"") -> bytes:
        self.asked.append(payload)
        answer = str(boot_us() + self.ahead_us).encode()
        await asyncio.sleep(self.delays.pop(0))
        return answer


def measure(peer: Any, clock: MasterClock | None = None) -> int:
    return asyncio.run((clock or MasterClock()).offset_us(cast(Peer, peer)))


def test_quick_answer_is_asked_for_once() -> None:
    peer = SlowPeer(0.0)
    assert abs(measure(peer) - AHEAD_US) < 3 * CLOSE_US
    assert peer.asked == [clock_name().encode()]


def test_slow_answers_are_measured_again() -> None:
    peer = SlowPeer(0.3, 0.2, 0.0)
    assert abs(measure(peer) - AHEAD_US) < 3 * CLOSE_US
    assert len(peer.asked) == 3


def test_best_of_slow_answers_counts() -> None:
    peer = SlowPeer(0.3, 0.05, 0.2, 0.2, 0.2)
    assert abs(measure(peer) - AHEAD_US) < 60_000
    assert len(peer.asked) == 5


def test_what_was_measured_before_counts_while_answers_are_slow() -> None:
    clock, peer = MasterClock(), SlowPeer(0.0, 0.2)
    quick = measure(peer, clock)
    assert measure(peer, clock) == quick
    assert len(peer.asked) == 2


def test_measurements_from_before_a_machine_stood_still_are_forgotten() -> None:
    clock, peer = MasterClock(), SlowPeer(0.0, 0.05, 0.0)
    measure(peer, clock)
    peer.ahead_us += 700_000
    assert abs(measure(peer, clock) - AHEAD_US - 700_000) < 3 * CLOSE_US
    assert not peer.delays


@pytest.mark.parametrize("delays_s", [(0.0,), (0.3,) * 5], ids=["quick", "slow"])
def test_one_clock_needs_no_measurement(delays_s: tuple[float, ...]) -> None:
    """Nodes in containers of one machine share a clock, so an agent that moves within a millisecond is in order."""
    requests = MasterRequests.__new__(MasterRequests)

    class SameMachine(SlowPeer):
        async def request(self, command: str, payload: bytes = b"") -> bytes:
            await super().request(command, payload)
            return await requests.clock(cast(Peer, self), payload)

    peer = SameMachine(*delays_s)
    assert measure(peer) == 0
    assert len(peer.asked) == 1


def test_another_clock_is_told_the_time() -> None:
    requests = MasterRequests.__new__(MasterRequests)
    for name in (b"", b"944b0c38-3b83-47c4-882d-d1a420e41fc5.1"):
        before = boot_us()
        told = parse_clock(asyncio.run(requests.clock(cast(Peer, None), name)))
        assert told is not None
        assert before <= told <= boot_us()


def test_clock_that_the_system_does_not_name_equals_no_other_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path) == "/proc/self/ns/time":
            raise PermissionError(13, "x")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    named = {clock_name.__wrapped__() for _ in range(2)}
    assert len(named) == 2


def test_answer_that_is_no_number_is_refused() -> None:
    class Odd:
        async def request(self, command: str, payload: bytes = b"") -> bytes:
            return b"noon"

    with pytest.raises(ClusterError, match="no number"):
        measure(Odd())

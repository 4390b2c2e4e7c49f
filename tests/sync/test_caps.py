"""The offset of two boot clocks, measured over a link that is slow now and then."""

import asyncio
from typing import Any, cast

import pytest

from clusterd.clock import boot_us
from clusterd.errors import ClusterError
from clusterd.settings import CAPABILITIES, Clusterd, Settings
from clusterd.sync.caps import clock_offset_us, offered
from clusterd.sync.peer import Peer

AHEAD_US = 5_000_000


class SlowPeer:
    """A master whose clock is AHEAD_US ahead. `delays_s`: on the way back, for each answer."""

    def __init__(self, *delays_s: float) -> None:
        self._delays = list(delays_s)
        self.asked = 0

    async def request(self, command: str, payload: bytes = b"") -> bytes:
        self.asked += 1
        answer = str(boot_us() + AHEAD_US).encode()
        await asyncio.sleep(self._delays.pop(0))
        return answer


def measure(peer: Any) -> int:
    return asyncio.run(clock_offset_us(cast(Peer, peer)))


def test_quick_answer_is_asked_for_once() -> None:
    peer = SlowPeer(0.0)
    assert abs(measure(peer) - AHEAD_US) < 15_000
    assert peer.asked == 1


def test_slow_answers_are_measured_again() -> None:
    peer = SlowPeer(0.3, 0.2, 0.0)
    assert abs(measure(peer) - AHEAD_US) < 15_000
    assert peer.asked == 3


def test_best_of_slow_answers_counts() -> None:
    peer = SlowPeer(0.3, 0.05, 0.2, 0.2, 0.2)
    assert abs(measure(peer) - AHEAD_US) < 60_000
    assert peer.asked == 5


def test_answer_that_is_no_number_is_refused() -> None:
    class Odd:
        async def request(self, command: str, payload: bytes = b"") -> bytes:
            return b"noon"

    with pytest.raises(ClusterError, match="no number"):
        measure(Odd())


def test_only_a_node_with_its_own_store_offers_moments() -> None:
    assert offered(Settings("/", serves_store=True)) == CAPABILITIES
    assert offered(Settings("/", clusterd=Clusterd(store="off"))) == CAPABILITIES[1:]

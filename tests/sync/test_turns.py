"""Fair queues: limits hold, lanes keep their order, and every caller gets its turn."""

import asyncio
import random
from collections import Counter

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.ports.fair_queue import FairQueue, FairQueueLimits, Ticket

LIMITS = FairQueueLimits(6, 4, 3, 2, known_source=20, bytes_source=100, bytes=150)


def begun(turn: Ticket) -> bool:
    return turn.begun.done() and not turn.begun.cancelled()


@pytest.mark.parametrize("seed", range(20))
def test_limits_hold_order_is_kept_and_all_are_served_whatever_happens(seed: int) -> None:
    async def story() -> None:
        dice = random.Random(seed)
        turns, limits = FairQueue(LIMITS), LIMITS
        there: list[Ticket] = []
        served: dict[tuple[int, str], list[int]] = {}
        numbers: dict[Ticket, int] = {}
        for step in range(600):
            choice = dice.random()
            if choice < 0.5 and step < 400:
                try:
                    turn = turns.join(dice.randrange(3), f"c{dice.randrange(4)}", dice.choice("ab"), dice.randrange(9))
                except ClusterError:
                    continue
                numbers[turn] = step
                there.append(turn)
            elif there:
                turn = dice.choice(there)
                if begun(turn) and turn.holds_service and choice < 0.75:
                    turns.free_service(turn)
                elif begun(turn) or dice.random() < 0.1:
                    if begun(turn):
                        served.setdefault((turn.source, turn.lane), []).append(numbers[turn])
                    else:
                        turn.begun.cancel()
                    there.remove(turn)
                    turns.leave(turn)
                    turns.leave(turn)
            holding = [turn for turn in there if begun(turn) and turn.holds_service]
            assert turns.running == len(holding) <= limits.running
            assert max(Counter(turn.service for turn in holding).values(), default=0) <= limits.running_service
            assert max(Counter(t.source for t in there if begun(t)).values(), default=0) <= limits.running_source
            assert max(Counter((t.source, t.service) for t in holding).values(), default=0) <= limits.running_pair
            assert max(Counter((t.source, t.lane) for t in there if begun(t)).values(), default=0) <= 1
            assert sum(turn.size for turn in there) <= limits.bytes
        while there:
            turn = next(turn for turn in there if begun(turn))
            served.setdefault((turn.source, turn.lane), []).append(numbers[turn])
            there.remove(turn)
            turns.leave(turn)
        assert turns.running == 0
        assert all(order == sorted(order) for order in served.values())

    asyncio.run(story())


def test_a_service_that_does_not_answer_leaves_places_for_others() -> None:
    async def story() -> None:
        turns = FairQueue(LIMITS)
        stuck = [turns.join(source, f"{source}{number}", "stuck", 1) for source in range(3) for number in range(5)]
        assert sum(begun(turn) for turn in stuck) == 4
        assert begun(turns.join(0, "other", "good", 1))
        assert begun(turns.join(2, "other", "good", 1))

    asyncio.run(story())


def test_too_many_too_large_or_too_late_is_1014() -> None:
    async def story() -> None:
        turns = FairQueue(LIMITS)
        turns.join(1, "a", "s", 100)
        with pytest.raises(ClusterError, match="1014"):
            turns.join(1, "b", "s", 1)
        with pytest.raises(ClusterError, match="1014"):
            turns.join(2, "b", "s", 51)
        waiting = [turns.join(3, "one", "s", 0) for _ in range(20)]
        with pytest.raises(ClusterError, match="1014"):
            turns.join(3, "two", "s", 0)
        with pytest.raises(ClusterError, match="1014"):
            await turns.begin(waiting[1], 0.01)
        turns.leave(waiting[1])
        turns.leave(waiting[0])
        await turns.begin(waiting[2], 1)
        assert turns.known(3) == 18

    asyncio.run(story())

"""Times and counts of a history of a cluster that loses masters (history.py)."""

import itertools
import math
from collections import Counter

from tests.campaigns.history import History, Operation, Round


def first_answer(history: History, at: float, since: float = 0.0) -> float | None:
    """Returns the seconds from that time to the first answer to a registration that began after it, and not before
    `since`; None: never."""
    ends = [
        one.ended
        for one in history.operations
        if one.kind == "register" and one.outcome == "done" and one.began >= max(at, since)
    ]
    return min(ends) - at if ends else None


def counts(history: History) -> Counter[str]:
    return Counter(f"{one.kind} {one.outcome}" for one in history.operations)


def share(values: list[float], part: float) -> float:
    """Returns the smallest value that so large a share of them does not exceed: share(values, 0.5) is the median."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def spread(values: list[float]) -> str:
    parts = ", ".join(f"p{round(part * 100)} {share(values, part):.1f}" for part in (0.5, 0.95, 0.99))
    return f"{parts}, most {max(values):.1f} s"


def silence(history: History, one: Round) -> float:
    """Returns the longest time until the end of a round in which no registration was answered."""
    ends = sorted(each.ended for each in history.operations if each.kind == "register" and each.outcome == "done")
    if not ends or ends[0] > one.began:
        ends.insert(0, one.began)
    pairs = itertools.pairwise(ends)
    return max(
        (min(end, one.calm) - before for before, end in pairs if end >= one.began and before <= one.calm),
        default=math.inf,
    )


def failed_twice(history: History, one: Round) -> list[Operation]:
    """Returns the second requests of a round that were not told that it is done, now or by the first request, which
    failed in the same round: who asks once more survives one loss, not two."""
    again = second(history, one)
    return [each for each in again if each.outcome != "done" and not each.was_done and each.began >= one.began]


def second(history: History, one: Round) -> list[Operation]:
    """Returns what was asked once more, of what ended in a round."""
    return [each for each in history.operations if each.is_second and one.began <= each.ended <= one.calm]


def told(history: History) -> list[str]:
    """Returns lines for people, one or more for each kind of fault."""
    lines = []
    for kind in sorted({one.kind for one in history.rounds}):
        rounds = [one for one in history.rounds if one.kind == kind]
        lines.append(f"{kind}: {len(rounds)} times")
        lines.append(f"  to the next registration answered: {spread([one.answered_s for one in rounds])}")
        lines.append(f"  longest without one: {spread([silence(history, one) for one in rounds])}")
        lines.append(f"  to calm: {spread([one.calm - one.began for one in rounds])}")
        if any(one.order_s for one in rounds):
            lines.append(f"  to the end of the order: {spread([one.order_s for one in rounds])}")
        again = [each for one in rounds for each in second(history, one)]
        twice = [each for one in rounds for each in failed_twice(history, one)]
        was_done = sum(each.was_done for each in again)
        lines.append(f"  asked once more: {len(again)}, of them done before: {was_done}, failed again: {len(twice)}")
        if kind == "switchover":
            lines += [
                f"    {one.kind} {one.node} {one.ended - one.began:.1f} s, {one.outcome}: {one.text[:200]}"
                for one in twice[:20]
            ]
    return lines

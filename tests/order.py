"""The order of tests in a run of several processes: what takes long begins first, so that short tests fill up the end
and no process waits for another one's last minutes.

xdist gives each process an equal part of the list, and takes tests from the end of a part for a process that has none
left (`--dist worksteal`). So each part begins with its share of the files that have slow tests. Files stay together,
because their tests share fixtures.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def slow_first(
    tests: Sequence[T], processes: int, file_of: Callable[[T], Hashable], is_slow: Callable[[T], bool]
) -> list[T]:
    files: dict[Hashable, list[T]] = {}
    for test in tests:
        files.setdefault(file_of(test), []).append(test)
    shares: list[list[T]] = [[] for _ in range(processes)]
    slow_tests = [0] * processes
    fast: list[T] = []
    for of_file in files.values():
        count = sum(map(is_slow, of_file))
        if count == 0:
            fast += of_file
            continue
        least = slow_tests.index(min(slow_tests))
        shares[least] += of_file
        slow_tests[least] += count
    ordered: list[T] = []
    for number, share in enumerate(shares):
        part = (len(tests) - len(ordered)) // (processes - number)  # as xdist divides
        room = max(0, part - len(share))
        ordered += [*share, *fast[:room]]
        del fast[:room]
    return ordered + fast

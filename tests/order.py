"""The order of tests in a run of several processes: what takes long begins first, so that short tests fill up the end
and no process waits for another one's last minutes.

xdist gives each process an equal part of the list, and takes tests from the end of a part for a process that has none
left (`--dist worksteal`). So each part begins with its share of the files that have slow tests, and of these with the
longest. Files stay together, because their tests share fixtures.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

LONGEST = {
    "tests/system/test_election.py": 140,
    "tests/system/test_ha_promises.py": 130,
    "tests/campaigns/test_failover.py": 125,
    "tests/dashboard/test_page.py": 120,
    "tests/campaigns/test_every_operation.py": 110,
    "tests/tools/test_doctor_planted.py": 100,
    "tests/system/test_shared_packages.py": 90,
    "tests/system/test_agents.py": 80,
    "tests/system/test_rest.py": 65,
    "tests/tools/test_doctor_joining.py": 65,
    "tests/system/test_cluster.py": 55,
    "tests/contracts/test_wdb_large.py": 55,
    "tests/system/test_digest.py": 45,
    "tests/tools/test_rig_nodes.py": 45,
    "tests/monitor/test_on_nodes.py": 35,
    "tests/store/test_bounds.py": 35,
    "tests/system/test_stalls.py": 35,
    "tests/tools/test_package.py": 35,
    "tests/system/test_promote.py": 30,
    "tests/tools/test_guard.py": 30,
    "tests/tools/test_adopt_run.py": 30,
    "tests/system/test_full_disk.py": 30,
    "tests/field/test_imports.py": 30,
    "tests/dashboard/test_real_node.py": 30,
    "tests/faults/test_agents.py": 25,
    "tests/api/test_schema.py": 25,
    "tests/system/test_log_order.py": 25,
}
"""Seconds that the longest files take beside five others on two cores. Right to a factor of two is enough: other files
count a second for each slow test."""


def slow_first(
    tests: Sequence[T],
    processes: int,
    file_of: Callable[[T], Hashable],
    is_slow: Callable[[T], bool],
    longest: Mapping[Hashable, float],
) -> list[T]:
    """`longest`: seconds of the files that are known to take long."""
    files: dict[Hashable, list[T]] = {}
    for test in tests:
        files.setdefault(file_of(test), []).append(test)
    seconds = {file: longest.get(file, 0) if any(map(is_slow, found)) else 0 for file, found in files.items()}
    shares: list[list[T]] = [[] for _ in range(processes)]
    filled = [0.0] * processes
    fast: list[T] = []
    for file in sorted(files, key=lambda file: -seconds[file]):  # the others as they come
        of_file = files[file]
        takes = seconds[file] or sum(map(is_slow, of_file))
        if not takes:
            fast += of_file
            continue
        least = filled.index(min(filled))
        shares[least] += of_file
        filled[least] += takes
    ordered: list[T] = []
    for number, share in enumerate(shares):
        part = (len(tests) - len(ordered)) // (processes - number)  # as xdist divides
        room = max(0, part - len(share))
        ordered += [*share, *fast[:room]]
        del fast[:room]
    return ordered + fast

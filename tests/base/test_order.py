"""The order of the suite's own tests (tests/order.py)."""

import itertools
import random
from collections.abc import Hashable
from pathlib import Path

import pytest

from tests.order import LONGEST, slow_first

Test = tuple[str, int, bool]


def made(seed: int, files: int = 60) -> list[Test]:
    """Tests as (file, number, slow): a third of the files have slow ones."""
    rand = random.Random(seed)
    return [
        (f"f{file}", number, file % 3 == 0 and rand.random() < 0.7)
        for file in range(files)
        for number in range(rand.randint(1, 30))
    ]


def ordered(tests: list[Test], processes: int, longest: dict[Hashable, float] | None = None) -> list[Test]:
    return slow_first(tests, processes, lambda test: test[0], lambda test: test[2], longest or {})


@pytest.mark.parametrize("processes", [1, 2, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_each_process_begins_with_its_share_of_the_files_with_slow_tests(seed: int, processes: int) -> None:
    tests = made(seed)
    found = ordered(tests, processes)
    assert sorted(found) == sorted(tests)
    rest, slow_of = list(found), []
    for number in range(processes):
        part, rest = rest[: len(rest) // (processes - number)], rest[len(rest) // (processes - number) :]
        has_slow = [any(test[2] for test in tests if test[0] == file) for file, *_ in part]
        assert has_slow == sorted(has_slow, reverse=True)
        slow_of.append(sum(test[2] for test in part))
    assert max(slow_of) - min(slow_of) <= 30, "no more than the tests of a file"


def test_tests_of_a_file_with_slow_ones_stay_together_and_as_they_were() -> None:
    tests = made(7)
    slow_files = {test[0] for test in tests if test[2]}
    found = [test for test in ordered(tests, 4) if test[0] in slow_files]
    by_file = [list(group) for _, group in itertools.groupby(found, key=lambda test: test[0])]
    assert len(by_file) == len(slow_files)
    assert all(group == [test for test in tests if test[0] == group[0][0]] for group in by_file)


@pytest.mark.parametrize("slow", [False, True])
def test_nothing_is_lost_where_all_or_none_are_slow(slow: bool) -> None:
    tests = [(file, number, slow) for file in "abcdefg" for number in range(5)]
    assert sorted(ordered(tests, 4)) == sorted(tests)
    assert ordered([], 4) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_files_begin_first_each_in_another_process(seed: int) -> None:
    tests = made(seed)
    longest: dict[Hashable, float] = {"f0": 500, "f3": 90, "f6": 100, "f9": 80, "f1": 1000}  # f1 has no slow test
    rest = ordered(tests, 3, longest)
    first, second = [], []
    for number in range(3):
        part, rest = rest[: len(rest) // (3 - number)], rest[len(rest) // (3 - number) :]
        first.append(part[0][0])
        second.append(list(dict.fromkeys(test[0] for test in part))[1])
    assert first == ["f0", "f6", "f3"]
    assert second[2] == "f9"


def test_the_longest_files_are_there() -> None:
    root = Path(__file__).parents[2]
    assert [name for name in LONGEST if not (root / name).is_file()] == []

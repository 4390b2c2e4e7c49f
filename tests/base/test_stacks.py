"""Tracebacks of any failure are short, and name the place of the failure."""

import pytest

from clusterd import stacks

MOST = (stacks.MOST_FAILURES + 1) * (stacks.MOST_CHARACTERS + 100)


def test_failure_is_logged_with_its_place_and_its_cause() -> None:
    try:
        try:
            {}["key"]
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError:
        text = stacks.told()
    assert text.index("ValueError: second") < text.index("KeyError: 'key'")
    assert text.count("test_stacks.py") == 2


def test_thousand_failures_of_a_thousand_calls_are_logged_in_a_few_lines() -> None:
    def fall(depth: int) -> None:
        try:
            fall(depth + 1)
        except (RecursionError, ValueError) as failure:
            raise ValueError("x" * 10_000) from failure

    with pytest.raises(ValueError, match="xxx") as found:
        fall(0)
    text = stacks.told(found.value)
    assert len(text) < MOST
    assert "and more before that" in text


def test_exception_that_is_its_own_cause_is_logged() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert stacks.told(one).count("ValueError: one") == 2
    assert stacks.told() == ""

"""Numbers of Hypothesis examples for tests with a size of their own."""

import hypothesis


def examples(count: int) -> int:
    """Returns this number, or what the profile in use (tests/conftest.py) makes of it."""
    chosen, suite = hypothesis.settings.default, hypothesis.settings.get_profile("suite")
    assert chosen is not None
    if chosen.max_examples > suite.max_examples:
        return count
    half = max(1, count // 2)
    return half if chosen.max_examples == suite.max_examples else min(half, chosen.max_examples)

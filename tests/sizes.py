"""Numbers of Hypothesis examples for tests with a size of their own."""

import hypothesis


def examples(count: int) -> int:
    """Returns this number, but for `make check` no more than its profile allows."""
    profile = hypothesis.settings.default
    assert profile is not None
    is_quick = profile.max_examples < hypothesis.settings.get_profile("suite").max_examples
    return min(count, profile.max_examples) if is_quick else count

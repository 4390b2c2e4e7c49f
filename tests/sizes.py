"""How often Hypothesis tries what has a size of its own."""

import hypothesis


def examples(count: int) -> int:
    """So many, but for `make check` no more than its profile says."""
    profile = hypothesis.settings.default
    assert profile is not None
    is_quick = profile.max_examples < hypothesis.settings.get_profile("suite").max_examples
    return min(count, profile.max_examples) if is_quick else count

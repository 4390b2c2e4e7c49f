"""A node with a ruleset."""

from pathlib import Path

import pytest

from tests.dapi.ruleset_node import RulesetNode


@pytest.fixture
def node(tmp_path: Path) -> RulesetNode:
    return RulesetNode(tmp_path)

"""What benchmarks share: a tree of small files with lognormal sizes, made once a session; results are checked by
each."""

from pathlib import Path

import pytest

from tools.rig.workload import generate

FILES = 5000
MEAN_BYTES = 10_450


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's root with FILES files, the shape of the 20,000 files and 209 MB of the design document."""
    root = tmp_path_factory.mktemp("tree")
    generate(root, seed=1, files=FILES, size=MEAN_BYTES)
    return root

"""What a job did not expect: the stack belongs into the log of its node, and nowhere else."""

from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.messages.manifest import ScanShard
from clusterd.messages.pool import JobFailed
from clusterd.pool import tree
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Secret, Settings


def test_whoever_asked_gets_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*given: object) -> None:
        raise KeyError("etc/unheard-of")

    monkeypatch.setattr(tree, "scan", scan)
    told: list[str] = []
    settings = Settings(str(tmp_path), cluster=ClusterBlock(key=Secret(b"k" * 32)))
    runner = JobRunner(settings, cast(Any, None), lambda: None, on_bug=told.append)

    answer = runner.do(ScanShard(str(tmp_path), str(tmp_path), 0, 1))

    assert answer == JobFailed("bug", "ScanShard met a bug, which the log of this node tells")
    assert len(told) == 1
    assert told[0].startswith("ScanShard met a bug:\n")
    assert "KeyError: 'etc/unheard-of'" in told[0]
    assert __file__ in told[0]

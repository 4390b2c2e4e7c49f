"""A scan in the background ends as soon as another task waits for it, and leaves nothing open."""

import os
from pathlib import Path
from typing import Any, cast

from clusterd.messages.manifest import ScanShard, ShardScanned
from clusterd.messages.pool import JobFailed
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Secret, Settings


def test_background_scan_stops_for_others_but_not_while_it_is_waited_for(tmp_path: Path) -> None:
    rules = tmp_path / "etc/rules"
    rules.mkdir(parents=True)
    for number in range(50):
        (rules / f"{number}.xml").write_text(str(number))
    (tmp_path / "state").mkdir()
    steps = 0
    hurry = 7

    def step() -> None:
        nonlocal steps, hurry
        steps += 1
        if steps == 5:
            hurry += 1

    settings = Settings(str(tmp_path), cluster=ClusterBlock(key=Secret(b"k" * 32)))
    workshop = JobRunner(settings, cast(Any, None), step, lambda: hurry)
    scan = ScanShard(str(tmp_path), str(tmp_path / "state"), 0, 1, gives_way=7)
    before = len(os.listdir("/proc/self/fd"))

    answer = workshop.do(scan)

    assert isinstance(answer, JobFailed)
    assert answer.kind == "gave-way"
    assert steps == 5
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path / "state") == []
    awaited = workshop.do(ScanShard(str(tmp_path), str(tmp_path / "state"), 0, 1))
    assert isinstance(awaited, ShardScanned)
    assert awaited.files == 50

"""Unpacking ends when the package is removed, and leaves nothing."""

import os
import zlib
from hashlib import blake2b
from pathlib import Path

import pytest

from clusterd.messages.packages import OpenPackage, PackageOpened, RangeUnpacked, UnpackRange
from clusterd.messages.pool import JobFailed
from clusterd.pool import wanted
from clusterd.pool.jobs import JobRunner
from clusterd.settings import ClusterBlock, Secret, Settings
from clusterd.wire.results import dump_json
from hashing.package import FILE_SEP, METADATA_NAME, PATH_SEP
from ipc.arena import Arena

NAME = "etc/lists/large"
SIZE = 48 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("is_taken_away", [True, False])
def test_unpacking_ends_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken_away: bool) -> None:
    monkeypatch.setattr(wanted, "LOOK_S", 0.0)
    (tmp_path / "etc/lists").mkdir(parents=True)
    content = bytes(SIZE)
    meta = {"mod_time": 1.0, "cluster_item_key": "etc/lists/", "merged": False, "hash": blake2b(content).hexdigest()}
    groups = {"missing": {NAME: meta}, "shared": {}, "extra": {}}
    package = tmp_path / "package"
    entries = [
        NAME.encode() + PATH_SEP + zlib.compress(content),
        METADATA_NAME.encode() + PATH_SEP + zlib.compress(dump_json(groups)),
    ]
    package.write_bytes(FILE_SEP.join(entries))
    steps = 0

    def on_step() -> None:
        nonlocal steps
        steps += 1
        if steps == 10 and is_taken_away:
            package.unlink()

    arena = Arena(0, 1, 65536)
    settings = Settings(str(tmp_path), cluster=ClusterBlock(key=Secret(b"k" * 32)))
    workshop = JobRunner(settings, arena, on_step)
    plan = str(tmp_path / "plan")
    opened = workshop.do(OpenPackage(str(package), str(tmp_path), plan, 1 << 30, 1 << 30))
    assert isinstance(opened, PackageOpened)
    steps = 0
    unpacked = workshop.do(UnpackRange(str(package), str(tmp_path), plan, 0, 1 << 30, 1 << 30))
    arena.close()
    if is_taken_away:
        assert unpacked == JobFailed("unwanted", "the package was taken away")
        assert os.listdir(tmp_path / "etc/lists") == []
    else:
        assert isinstance(unpacked, RangeUnpacked)
        assert len(os.listdir(tmp_path / "etc/lists")) == 1

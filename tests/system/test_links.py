"""A cluster whose operator keeps files elsewhere and links to them, on the master and on a worker."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeRig
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    path = Path(os.path.realpath(tempfile.mkdtemp(prefix="clusterd-test-")))
    yield path
    shutil.rmtree(path)


def test_linked_directories_are_carried_and_written_as_others(elsewhere: Path, make_rig: MakeRig) -> None:
    rig = make_rig(1, overrides={"clusterd": {"link_targets": [str(elsewhere / "git")]}})
    [worker] = rig.workers
    (elsewhere / "git/team").mkdir(parents=True)
    (elsewhere / "git/team/a.xml").write_text("<a/>")
    shutil.move(rig.master.root / "etc/lists", elsewhere / "lists")
    (rig.master.root / "etc/lists").symlink_to(elsewhere / "lists")
    (elsewhere / "lists/own").write_text("key:value")
    (rig.master.root / "etc/rules/team").symlink_to(elsewhere / "git/team")
    (rig.master.root / "etc/rules/refused").symlink_to(elsewhere)
    shutil.move(worker.root / "etc/shared", elsewhere / "shared")
    (worker.root / "etc/shared").symlink_to(elsewhere / "shared")
    (rig.master.root / "etc/shared/brand-new").mkdir()
    (rig.master.root / "etc/shared/brand-new/agent.conf").write_text("<agent_config/>")
    checked = rig.command(rig.master, "check-config", timeout_s=60)
    assert "etc/rules/refused" in checked.stderr + checked.stdout
    rig.start()

    def text(path: str) -> str:
        target = worker.root / path
        return target.read_text() if target.exists() else ""

    wait_until(lambda: text("etc/rules/team/a.xml") == "<a/>", 60, "what lies behind a link of the master")
    wait_until(lambda: text("etc/lists/own") == "key:value", 60, "what lies in a linked directory of the master")
    wait_until(lambda: text("etc/shared/brand-new/agent.conf") != "", 60, "what a worker writes behind its link")
    assert (elsewhere / "shared/brand-new/agent.conf").exists()
    assert (worker.root / "etc/shared").is_symlink()
    (elsewhere / "git/team/a.xml").write_text("<changed/>")
    (elsewhere / "lists/own").unlink()
    wait_until(lambda: text("etc/rules/team/a.xml") == "<changed/>", 60, "a change behind a link")
    wait_until(lambda: not (worker.root / "etc/lists/own").exists(), 60, "a deletion behind a link")
    manifest = rig.status(rig.master.name)[rig.master.name]["manifest"]
    assert "etc/rules/refused" in manifest["last_scan"]["problems"]
    assert not (worker.root / "etc/rules/refused").exists()

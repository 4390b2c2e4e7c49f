"""A worker on which one file is a mount point, as in containers: it becomes equal all the same, and reports that
once."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeRig
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow

PATH = "etc/rules/mounted.xml"


def test_file_that_is_a_mount_point_becomes_equal(make_rig: MakeRig, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace of our own is allowed here")
    rig = make_rig(1)
    worker = rig.workers[0]
    volume = rig.directory / "volume"  # where the node's user may go
    volume.write_text("<group/>")
    volume.chmod(0o666)
    (worker.root / PATH).parent.mkdir(parents=True, exist_ok=True)
    (worker.root / PATH).write_text("hidden")
    (rig.master.root / PATH).write_text("<group name='first'/>")
    rig.start("rig_manager_1")
    plain = rig.program
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    rig.program = (unshare, "-m", "sh", "-c", script, "sh", str(volume), str(worker.root / PATH), *plain)
    rig.start("rig_manager_2")
    rig.program = plain

    def status() -> dict[str, str]:
        problems: dict[str, str] = rig.status("rig_manager_2")["rig_manager_2"].get("problems", {})
        return problems

    wait_until(lambda: volume.read_text() == "<group name='first'/>", 60, "the mounted file is as the master's")
    (rig.master.root / PATH).write_text("<group name='second'/>")
    wait_until(lambda: volume.read_text() == "<group name='second'/>", 60, "it follows a change")
    assert (worker.root / PATH).read_text() == "hidden"
    wait_until(lambda: PATH in status().get("mounted files", ""), 60, "status names it")
    log = (worker.root / "logs/cluster.log").read_text()
    assert log.count("Files that are mount points are written in place") == 1
    assert not list((worker.root / PATH).parent.glob(".clusterd-*"))

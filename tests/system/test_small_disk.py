"""A worker with a small disk: files that fit arrive, others wait and are not sent again and again."""

import os
import re
import shutil
import subprocess

import pytest

from tests.conftest import MakeRig
from tools.rig.peer import wait_until

pytestmark = pytest.mark.slow

LARGE = 36 << 20
SMALL = "etc/rules/tiny.xml"


def test_small_change_passes_one_that_is_too_large(make_rig: MakeRig) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace of our own is allowed here")
    rig = make_rig(1)
    worker = rig.workers[0]
    spool = worker.root / "queue/cluster/.clusterd"
    spool.mkdir(parents=True, exist_ok=True)
    rig.start("rig_manager_1")
    plain = rig.program
    script = 'mount -t tmpfs -o size=24m,mode=1777 spool "$1" && shift && exec "$@"'
    rig.program = (unshare, "-m", "sh", "-c", script, "sh", str(spool), *plain)
    rig.start("rig_manager_2")
    rig.program = plain
    rig.wait_equal(60)
    unfinished = rig.master.root / "large"  # half of it would fit
    unfinished.write_bytes(os.urandom(LARGE))
    unfinished.rename(rig.master.root / "etc/lists/large")
    (rig.master.root / SMALL).write_text("<group name='tiny'/>")

    def problems() -> dict[str, str]:
        found: dict[str, str] = rig.status("rig_manager_1")["rig_manager_1"]["problems"]
        return found

    wait_until((worker.root / SMALL).exists, 90, "the small file arrives")
    wait_until(lambda: "room of rig_manager_2" in problems(), 60, "status says what waits")
    (rig.master.root / SMALL).write_text("<group name='again'/>")
    wait_until(lambda: "again" in (worker.root / SMALL).read_text(), 60, "the next one arrives, too")
    assert not (worker.root / "etc/lists/large").exists()
    log = (rig.master.root / "logs/cluster.log").read_text()
    # When it is first reported, the small file may still be on its way.
    assert len(re.findall(r"\d files? of 36\.\d MB waits?: rig_manager_2 can take", log)) == 1, log
    assert "No space left" not in (worker.root / "logs/cluster.log").read_text()
    (rig.master.root / "etc/lists/large").unlink()
    rig.wait_equal(60)
    wait_until(lambda: problems() == {}, 60, "nothing waits any more")

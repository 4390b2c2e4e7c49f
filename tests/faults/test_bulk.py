"""Much data: a file that fits into no package, and a set of many packages."""

import os
import random

import pytest

from tests.conftest import MakeRig

MIB = 1024 * 1024
FILE_MIB = int(os.environ.get("CLUSTERD_STRESS_FILE_MIB", "1024"))
SET_FILES = int(os.environ.get("CLUSTERD_STRESS_SET_FILES", "2200"))

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]


def test_incompressible_file_above_the_zip_limit_goes_alone(make_rig: MakeRig) -> None:
    """wire.md C12: a file that exceeds max_zip_size by itself still arrives."""
    rig = make_rig(1)
    with (rig.master.root / "etc/lists/random").open("wb") as out:
        for seed in range(FILE_MIB):
            out.write(random.Random(seed).randbytes(MIB))
    rig.start()
    rig.wait_equal(1200, pause_s=5)


def test_two_thousand_files_of_a_mebibyte_converge(make_rig: MakeRig) -> None:
    """About 2.1 GiB, half of it incompressible."""
    rig = make_rig(1)
    (rig.master.root / "etc/lists/bulk").mkdir()
    for number in range(SET_FILES):
        noise = random.Random(number).randbytes(MIB // 2)
        (rig.master.root / f"etc/lists/bulk/{number:04}").write_bytes(noise + noise)
    rig.start()
    rig.wait_equal(2400, pause_s=5)

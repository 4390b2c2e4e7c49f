"""Packages of a malicious master: the worker names what it refuses, accepts the rest, and none of its processes
dies."""

import json
import zlib
from hashlib import blake2b

import pytest

from tests.conftest import KEY, MakeRig
from tools.rig.peer import StockMaster, wait_until
from tools.rig.peer_files import FILE_SEP, METADATA, PATH_SEP, package_name
from tools.rig.peer_master import WorkerSession

pytestmark = pytest.mark.slow


def send(session: WorkerSession, files: dict[str, bytes]) -> None:
    """Returns a package with these new files of etc/rules, whatever their paths."""
    missing = {
        path: {"mod_time": 1.0, "cluster_item_key": "etc/rules/", "merged": False, "hash": blake2b(data).hexdigest()}
        for path, data in files.items()
    }
    package = session.spool() / package_name(session.node)
    task = session.link.ask("syn_m_c").payload.decode()
    metadata = json.dumps({"missing": missing, "extra": {}, "shared": {}}).encode()
    package.write_bytes(
        FILE_SEP.join(
            path.encode() + PATH_SEP + zlib.compress(data) for path, data in [*files.items(), (METADATA, metadata)]
        )
    )
    session.send_file(package, task=task)
    session.link.ask("syn_m_c_e", f"{task} queue/cluster/{session.node}/{package.name}")
    package.unlink()


def test_path_of_thousands_of_directories_kills_no_process(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    worker = rig.workers[0]
    where = {"name": "rig_manager_1", "cluster": "rig"}
    with StockMaster(rig.master.root, KEY, port=rig.master.port, scan_interval_s=1.0, **where) as master:  # type: ignore[arg-type]
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        rig.wait_equal(60)
        before = rig.processes("rig_manager_2")
        send(session, {"etc/rules/" + "d/" * 2000 + "x": b"deep", "etc/rules/good.xml": b"<group/>"})
        wait_until((worker.root / "etc/rules/good.xml").exists, 60, "the other file is there")
        log = worker.root / "logs/cluster.log"
        wait_until(
            lambda: "Found errors: 0 overwriting, 1 creating and 0 removing" in log.read_text(), 60, "it is said"
        )
        assert rig.processes("rig_manager_2") == before
        assert "is more than 64 directories deep" in log.read_text()
        assert "RecursionError" not in log.read_text()

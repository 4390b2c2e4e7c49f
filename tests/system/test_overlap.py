"""Packages that reach a worker while another one is being applied: every reader sees each file old or new, whole."""

import os
import threading
import time
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.campaigns.frame import Changed
from tests.conftest import KEY, MakeRig
from tools.rig.peer import StockMaster, wait_until
from tools.rig.peer_files import package_name, scan, write_package
from tools.rig.peer_master import WorkerSession

pytestmark = pytest.mark.slow

PATH = "etc/lists/large"


class Reader:
    """Looks at a file again and again: at size and mode each time, at the content whenever it may have changed. `torn`:
    contents that are none of the expected ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.may_be = {blake2b(path.read_bytes()).digest()}
        self.torn: list[str] = []
        self.looks = 0
        self._changed = Changed()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.wait(0.001):
            self.looks += 1
            facts = self.path.stat()
            if facts.st_size != self.size or facts.st_mode & 0o777 != 0o660:
                self.torn.append(f"{facts.st_size} bytes, mode {facts.st_mode & 0o777:o}")
                continue
            found = self._changed.read(self.path)
            if found is not None and blake2b(found[1]).digest() not in self.may_be:
                self.torn.append("another content")


def send_two(session: WorkerSession, gap_s: float) -> None:
    """Two packages with the large file, complete one right after the other."""
    files = scan(session.master.root)
    groups = {"missing": {}, "extra": {}, "shared": {PATH: files[PATH]}}
    packages = []
    for _ in range(2):
        package = session.spool() / package_name(session.node)
        write_package(package, session.root, groups)
        task = session.link.ask("syn_m_c").payload.decode()
        session.send_file(package, task=task)
        packages.append((package, task))
    for package, task in packages:
        session.link.ask("syn_m_c_e", f"{task} queue/cluster/{session.node}/{package.name}")
        package.unlink()
        time.sleep(gap_s)


def syncs(root: Path) -> int:
    """Returns how many packages the node has finished."""
    return (root / "logs/cluster.log").read_text().count("[Integrity sync] Finished in")


@pytest.mark.parametrize(
    ("size", "gaps_s"),
    [
        pytest.param(6 << 20, (0.0, 0.05), id="short"),
        pytest.param(12 << 20, (0.0, 0.0, 0.05, 0.1), id="long", marks=pytest.mark.stress),
    ],
)
def test_no_file_is_torn_when_two_packages_overlap(make_rig: MakeRig, size: int, gaps_s: tuple[float, ...]) -> None:
    """`gaps_s`: seconds between the ends of two packages."""
    rig = make_rig(1)
    root, worker = rig.master.root, rig.workers[0]
    (root / PATH).write_bytes(os.urandom(size))
    where = {"name": "rig_manager_1", "cluster": "rig"}
    with StockMaster(root, KEY, port=rig.master.port, scan_interval_s=1.0, **where) as master:  # type: ignore[arg-type]
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        rig.wait_equal(60)
        master.permit = False
        with Reader(worker.root / PATH) as reader:
            for gap_s in gaps_s:
                content = os.urandom(size)
                reader.may_be.add(blake2b(content).digest())
                (root / PATH).write_bytes(content)
                before = syncs(worker.root)
                send_two(session, gap_s)
                wait_until(lambda before=before: syncs(worker.root) >= before + 2, 60, "both are applied")  # type: ignore[misc]
        assert reader.looks > 0
        assert reader.torn == []
        master.permit = True
        rig.wait_equal(60)

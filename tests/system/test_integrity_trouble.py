"""A failure in a round of integrity is told to the peer and in the log, affects only its own files, and the next round
corrects it."""

import json
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.status.status import StatusReader
from tests.conftest import KEY, MakeRig, rigs
from tests.system.new_lines import NewLines
from tools.rig import workload
from tools.rig.nodes import Rig
from tools.rig.peer import StockMaster, StockWorker, wait_until
from tools.rig.peer_files import FILE_SEP, METADATA, PATH_SEP, blake2b_of, package_name, scan
from tools.rig.peer_master import WorkerSession
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

NO_GROUPS = {"missing": {}, "extra": {}, "shared": {}}


class StockPair:
    """A stock master with our worker, equal, that permits no check: what the worker does is what the test makes it
    do. `notes`: what the master would have logged in this test."""

    def __init__(self, rig: Rig, master: StockMaster) -> None:
        self.rig = rig
        self.master = master
        self.session = master.session("rig_manager_2")
        master.permit = True
        rig.wait_equal(60)
        wait_until(lambda: results(rig, "rig_manager_2", "self").get("result") == "equal", 60, "the worker is equal")
        checks = len(self.session.checks)
        wait_until(lambda: len(self.session.checks) > checks, 60, "another check")
        master.permit = False
        wait_until(lambda: self.session.integrity_free, 60, "the end of the check")
        self.log = NewLines(rig.workers[0])
        self._noted = len(self.session.notes)

    @property
    def notes(self) -> list[str]:
        return self.session.notes[self._noted :]


@pytest.fixture(scope="module")
def stock_cluster() -> Iterator[tuple[Rig, StockMaster]]:
    where = {"name": "rig_manager_1", "cluster": "rig"}
    with rigs() as make:
        rig = make(1)
        with StockMaster(rig.master.root, KEY, port=rig.master.port, scan_interval_s=0.5, **where) as master:  # type: ignore[arg-type]
            rig.start("rig_manager_2")
            yield rig, master


@pytest.fixture
def pair(stock_cluster: tuple[Rig, StockMaster]) -> StockPair:
    return StockPair(*stock_cluster)


def results(rig: Rig, node: str, key: str) -> dict[str, object]:
    """Returns the record of the last check that `status` shows on a node."""
    found: dict[str, object] = (StatusReader(str(rig.node(node).root)).read_sync()["results"] or {}).get(key, {})
    return found


def send(session: WorkerSession, content: bytes) -> None:
    """Sends a package with these bytes to the worker, as a master does after a check."""
    package = session.spool() / package_name(session.node)
    package.write_bytes(content)
    task = session.link.ask("syn_m_c").payload.decode()
    session.send_file(package, task=task)
    session.link.ask("syn_m_c_e", f"{task} queue/cluster/{session.node}/{package.name}")


def package(members: dict[str, bytes], groups: dict[str, dict[str, object]]) -> bytes:
    entries = [path.encode() + PATH_SEP + zlib.compress(content) for path, content in members.items()]
    entries.append(METADATA.encode() + PATH_SEP + zlib.compress(json.dumps(groups).encode()))
    return FILE_SEP.join(entries)


def announced(tmp_path: Path, content: bytes, item: str) -> dict[str, object]:
    (tmp_path / "content").write_bytes(content)
    digest = blake2b_of(tmp_path / "content")
    return {"mod_time": time.time(), "cluster_item_key": item, "merged": False, "hash": digest}


# ---- our worker ------------------------------------------------------------------------------------------------------


def test_invalid_package_is_reported_and_the_next_one_is_applied(pair: StockPair) -> None:
    rig, master, session = pair.rig, pair.master, pair.session
    before = scan(rig.workers[0].root)
    send(session, b"this is no package")
    wait_until(lambda: any("task None failed" in note for note in pair.notes), 60, "the worker reports the failure")
    assert " ERROR: [Worker rig_manager_2] [Integrity sync] Error synchronizing files: " in pair.log.text
    assert scan(rig.workers[0].root) == before
    assert results(rig, "rig_manager_2", "self")["result"] == "failed"
    workload.change(rig.master.root, seed=1)
    master.permit = True
    rig.wait_equal(60)
    wait_until(lambda: results(rig, "rig_manager_2", "self")["result"] == "equal", 60, "the worker knows it is equal")
    assert not list((rig.workers[0].root / "queue/cluster/rig_manager_2").iterdir())


def test_paths_that_lead_elsewhere_are_named_and_the_rest_lands(pair: StockPair, tmp_path: Path) -> None:
    rig, session = pair.rig, pair.session
    worker = rig.workers[0].root
    good, evil = "etc/rules/good.xml", ["etc/rules/../../escaped", "/etc/rules/absolute", "etc/ossec.conf"]
    members = {path: path.encode() for path in (good, *evil)}
    missing = {path: announced(tmp_path, content, "etc/rules/") for path, content in members.items()}
    conf = (worker / "etc/ossec.conf").read_bytes()
    send(session, package(members, NO_GROUPS | {"missing": missing}))
    wait_until((worker / good).exists, 60, "the good file")
    wait_until(lambda: results(rig, "rig_manager_2", "self")["result"] == "partly", 60, "the result")
    assert set(results(rig, "rig_manager_2", "self")["problems"]) == set(evil)  # type: ignore[call-overload]
    assert (worker / good).read_bytes() == members[good]
    assert (worker / "etc/ossec.conf").read_bytes() == conf
    assert not (worker / "escaped").exists()
    assert not Path("/etc/rules/absolute").exists()
    for path in evil:
        assert path in pair.log.text


def test_content_that_is_not_what_was_announced_is_not_put_in_place(pair: StockPair, tmp_path: Path) -> None:
    rig, session = pair.rig, pair.session
    path = "etc/client.keys"
    keys = (rig.workers[0].root / path).read_bytes()
    entry = announced(tmp_path, b"what was announced", "etc/")
    send(session, package({path: b"something else"}, NO_GROUPS | {"shared": {path: entry}}))
    wait_until(lambda: results(rig, "rig_manager_2", "self")["result"] == "partly", 60, "the result")
    assert list(results(rig, "rig_manager_2", "self")["problems"]) == [path]  # type: ignore[call-overload]
    assert (rig.workers[0].root / path).read_bytes() == keys
    assert "something else" not in pair.log.text


def test_master_that_gives_up_is_heard_and_the_worker_checks_again(pair: StockPair) -> None:
    rig, master, session = pair.rig, pair.master, pair.session
    task = session.link.ask("syn_m_c").payload.decode()
    facts = {"code": 3018, "extra_message": "the disk burns", "ids": None, "extra_remediation": None}
    error = {"__class__": "WazuhClusterError", "__object__": facts | {"dapi_errors": None}}
    failure = {"__wazuh_exception__": error}
    assert session.link.ask("syn_m_c_r", f"{task} {json.dumps(failure)}").command == b"ok"
    wait_until(lambda: "the disk burns" in pair.log.text, 60, "the reason in the worker's log")
    master.permit = True
    workload.change(rig.master.root, seed=1)
    rig.wait_equal(60)


@pytest.mark.parametrize("task", [b"two words", b"", b"\xff", b"T" * 100_000], ids=["words", "empty", "bytes", "long"])
def test_worker_survives_an_invalid_task_id(pair: StockPair, monkeypatch: pytest.MonkeyPatch, task: bytes) -> None:
    rig, master, session = pair.rig, pair.master, pair.session
    with monkeypatch.context() as patched:
        patched.setattr(session, "_on_syn_i_w_m", lambda payload: task)
        master.permit = True
        wait_until(lambda: "the peer gave no task id: b'" in pair.log.text, 60, "the worker's complaint")
    assert "Traceback" not in pair.log.text
    assert max(map(len, pair.log.text.splitlines())) < 2000
    workload.change(rig.master.root, seed=1)
    rig.wait_equal(60)


def test_worker_names_the_file_it_cannot_write_and_writes_the_others(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    path = "etc/rules/blocked.xml"
    obstacle = (
        rig.workers[0].root / path / "ar.conf"
    )  # excluded, so the worker does not know of it and will not remove it
    obstacle.parent.mkdir()
    obstacle.write_text("mine\n")
    (rig.master.root / path).write_text("<group/>\n")
    rig.start()
    wait_until(lambda: results(rig, "rig_manager_2", "self").get("result") == "partly", 60, "the first sync")
    assert list(results(rig, "rig_manager_2", "self")["problems"]) == [path]  # type: ignore[call-overload]
    assert rig.compare()["rig_manager_2"].equal == len(workload.paths(rig.master.root)) - 1
    assert path in (rig.workers[0].root / "logs/cluster.log").read_text()
    obstacle.parent.rename(rig.directory / "moved")  # at once: the worker replaces a directory that has become empty
    rig.wait_equal(60)


# ---- our master ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Rig]:
    """Our master; its worker is a stock one that the test plays."""
    with rigs() as make:
        rig = make(1)
        rig.start("master")
        yield rig


@pytest.fixture
def worker(served: Rig) -> Iterator[StockWorker]:
    """It has joined. Afterwards the master has noticed that it left: the next one has the same name."""
    reader = StatusReader(str(served.master.root))
    root = served.workers[0].root
    with StockWorker((HOST, served.master.port), KEY, "rig_manager_2", root, cluster="rig") as made:
        made.join()
        yield made
    wait_until(lambda: not reader.read_sync()["peers"], 60, "the master has no worker")


def begin_check(worker: StockWorker) -> str:
    wait_until(lambda: worker.ask("syn_i_w_m_p").payload == b"True", 60, "the permission")
    return worker.ask("syn_i_w_m").payload.decode()


def test_invalid_metadata_frees_the_permission_and_affects_no_other_worker(served: Rig, worker: StockWorker) -> None:
    log = NewLines(served.master)
    path = worker.connection.spool() / package_name("rig_manager_2")
    path.write_bytes(package({}, {"nonsense": {"mod_time": "x"}}))
    task = begin_check(worker)
    worker.connection.send_file(path, task=task)
    worker.ask("syn_i_w_m_e", f"{task} queue/cluster/rig_manager_2/{path.name}")
    wait_until(lambda: " ERROR: [Worker rig_manager_2] " in log.text, 60, "the error in the master's log")
    assert "Traceback" not in log.text
    worker.sync(30)
    assert served.compare()["rig_manager_2"].is_equal


@pytest.mark.parametrize(
    "path",
    [
        "queue/cluster/other/{name}",
        "etc/client.keys",
        "queue/cluster/rig_manager_2/../../../etc/client.keys",
        "/etc/passwd",
    ],
)
def test_path_outside_the_workers_spool_is_refused_and_nothing_is_removed(
    served: Rig, worker: StockWorker, path: str
) -> None:
    keys = (served.master.root / "etc/client.keys").read_bytes()
    task = begin_check(worker)
    answer = worker.ask("syn_i_w_m_e", f"{task} {path.format(name='a.zip')}")
    assert answer.command == b"err", answer
    assert (served.master.root / "etc/client.keys").read_bytes() == keys
    assert worker.keepalive() == b"keepalive"


def test_file_with_another_checksum_is_refused_and_the_next_check_works(served: Rig, worker: StockWorker) -> None:
    begin_check(worker)
    name = f"/queue/cluster/rig_manager_2/{package_name('rig_manager_2')}"
    assert worker.ask("new_file", name).payload == b"Ready to receive new file"
    assert worker.ask("file_upd", f"{name} content").command == b"ok"
    answer = worker.ask("file_end", f"{name} ".encode() + bytes(32))
    assert (answer.command, answer.payload) == (
        b"err",
        b"File wasn't correctly received. Checksums aren't equal.",
    )
    worker.ask(
        "syn_i_w_m_r",
        b"None " + json.dumps({"__unhandled_exc__": {"__class__": "KeyError", "__args__": ["x"]}}).encode(),
    )
    worker.sync(30)
    assert not list((served.master.root / "queue/cluster/rig_manager_2").iterdir())
    assert served.compare()["rig_manager_2"].is_equal


def test_small_packages_converge_in_several_rounds(make_rig: MakeRig) -> None:
    """wire.md C12: files that do not fit wait for the next check; a file above the limit is sent alone."""
    limits = {"intervals": {"communication": {"max_zip_size": 200_000, "min_zip_size": 100_000}}}
    rig = make_rig(1, files=300, size=8000, overrides=limits)
    (rig.master.root / "etc/lists/large").write_bytes(random.Random(1).randbytes(900_000))
    rig.start()
    rig.wait_equal(90)
    assert (rig.workers[0].root / "logs/cluster.log").read_text().count("[Integrity sync] Finished in") > 3

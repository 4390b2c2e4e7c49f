"""Checks by digest and announcements of changes between real nodes, in every mix of capabilities."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import lz4.frame
import msgspec
import pytest

from tests.conftest import KEY, MakeRig, rigs
from tools.rig import peer_master, workload
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigError, RigNode
from tools.rig.peer import PeerMessage, ScriptedLink, StockMaster, StockWorker, dial, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

SELDOM = {
    "intervals": {"worker": {"sync_integrity": 600}, "master": {"recalculate_integrity": 600}},
}
"""No interval ends within a test."""
SOON_S = 60.0
ZERO = b"0" * 32


def set_caps(node: RigNode, value: Any) -> None:
    path = node.root / "etc/cluster.json"
    content = json.loads(path.read_text())
    content.setdefault("clusterd", {})["caps"] = value
    path.write_text(json.dumps(content))


def status_of(rig: Rig, node: RigNode) -> dict[str, Any]:
    return rig.status(node.name)[node.name]


def bad_lines(node: RigNode) -> list[str]:
    lines = (node.root / "logs/cluster.log").read_text().splitlines()
    return [line for line in lines if " ERROR: " in line or "raceback" in line]


@pytest.fixture(scope="module")
def lone_master() -> Iterator[Rig]:
    """A master without workers, for tests that play one."""
    with rigs() as make:
        rig = make(0)
        rig.start("master")
        wait_until(lambda: status_of(rig, rig.master)["manifest"]["state"] == "ready", 60, "the first scan")
        yield rig


def digest_of(rig: Rig) -> bytes:
    """What the master's manifest has."""
    digest: str = status_of(rig, rig.master)["manifest"]["content_digest"]
    return digest.encode()


@pytest.fixture(scope="module")
def lone_worker() -> Iterator[Rig]:
    """A worker, for tests that play its master."""
    with rigs() as make:
        rig = make(1)
        rig.start("rig_manager_2")
        yield rig


# ---- what two nodes have in common -----------------------------------------------------------------------------------


def heal(rig: Rig, seed: int, what: str) -> None:
    """Makes a change on the master and tampers with every worker, and waits until all are equal again."""
    workload.change(rig.master.root, seed=seed, edit=2, add=2, delete=1)
    for worker in rig.workers:
        workload.tamper(worker.root, seed=seed)
    try:
        rig.wait_equal(60, pause_s=0.3)
    except RigError as problem:
        raise AssertionError(f"{what}: {problem}") from None


def test_every_mix_of_capabilities_makes_nodes_equal(make_rig: MakeRig) -> None:
    """Workers with some capabilities, with none, and stock ones, below a master with all capabilities, one with some,
    and a stock one. The effect of a mix depends only on what is agreed: tests/sync/test_caps.py has every mix of
    switches, and all other tests here have both capabilities at once."""
    caps: list[Any] = [{"digest": False}, {"push": False}, False]
    rig = make_rig(len(caps) + 1, scale=0.3)
    *workers, stock = rig.workers
    for worker, value in zip(workers, caps, strict=True):
        set_caps(worker, value)
    rig.start("master", *(worker.name for worker in workers))
    names = [worker.name for worker in rig.workers]
    with StockWorker((HOST, rig.master.port), KEY, stock.name, stock.root, cluster="rig") as peer:
        peer.run(1.0, retry_s=0.5)
        heal(rig, 1, "master with all")
        assert talked(rig) == dict(zip(names, [{"push"}, {"digest"}, set(), set()], strict=True))
        rig.stop("master")
        set_caps(rig.master, {"digest": False})
        rig.start("master")
        heal(rig, 2, "master without digests")
        assert talked(rig) == dict(zip(names, [{"push"}, set(), set(), set()], strict=True))
        rig.stop("master")
        where = {"name": "rig_manager_1", "cluster": "rig"}
        with StockMaster(rig.master.root, KEY, port=rig.master.port, scan_interval_s=0.5, **where) as master:  # type: ignore[arg-type]
            heal(rig, 3, "stock master")
            sessions = [master.session(worker.name, 60) for worker in workers]
            asked = [{seen.command for seen in requests(one)} for one in sessions]
            assert not set().union(*asked) & {"syn_digest", "syn_buckets"}
            assert ["caps" in commands for commands in asked] == [True, True, False]
            assert not [note for one in sessions for note in one.notes]
    assert "failed" not in peer.outcomes


def talked(rig: Rig) -> dict[str, set[str]]:
    """Returns what the master and each of its workers agreed on, of digest and push."""
    found = status_of(rig, rig.master).get("peers") or []
    return {peer["name"]: set(peer["capabilities"]) & {"digest", "push"} for peer in found}


# ---- a clusterd master -----------------------------------------------------------------------------------------------


def test_change_is_everywhere_at_once_when_the_master_tells_of_it(make_rig: MakeRig) -> None:
    rig = make_rig(2, overrides=SELDOM, scale=1)
    rig.start()
    rig.wait_equal(60)
    for seed in range(2):
        workload.change(rig.master.root, seed=seed, edit=2, add=2, delete=2)
        began = time.monotonic()
        done = rig.command(rig.master, "sync", "--wait", "--json", timeout_s=60)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < SOON_S
        assert all(found.is_equal for found in rig.compare().values())
    # a new sync process of the master still knows whom it may tell
    signal_process(rig.processes("rig_manager_1")["sync"] or 0, signal.SIGKILL)
    wait_until(lambda: len(talked(rig)) == 2, 60, "the links are known again")
    assert talked(rig) == {worker.name: {"digest", "push"} for worker in rig.workers}
    workload.change(rig.master.root, seed=7, edit=2)
    rig.command(rig.master, "sync", timeout_s=30)
    rig.wait_equal(SOON_S)
    for node in rig.nodes[1:]:
        assert not bad_lines(node)


def test_results_say_which_worker_lags_and_by_how_much(make_rig: MakeRig) -> None:
    rig = make_rig(1, links=False)
    rig.start()
    rig.wait_equal(60)

    def row() -> dict[str, Any]:
        found: dict[str, Any] = status_of(rig, rig.master)["results"].get("rig_manager_2", {})
        return found

    wait_until(lambda: row().get("result") == "equal", 60, "the worker is known to be equal")
    found, manifest = row(), status_of(rig, rig.master)["manifest"]
    assert (found["digest"], found["lag_s"], found["lag_files"]) == (manifest["content_digest"], None, 0)
    assert found["equal_at"] <= time.time()
    assert manifest["content_digest"] == status_of(rig, rig.workers[0])["manifest"]["content_digest"]
    rig.stop("rig_manager_2")
    (rig.master.root / "etc/rules/new.xml").write_text("<group/>")
    wait_until(lambda: row()["lag_s"] is not None, 60, "the master knows that the worker lags")
    assert row()["lag_files"] is None
    assert row()["digest"] != status_of(rig, rig.master)["manifest"]["content_digest"]


def answers_thanks(message: PeerMessage) -> tuple[bytes, bytes] | None:
    return None if message.command in (b"ok", b"err") else (b"ok", b"Thanks")


@contextmanager
def joined(rig: Rig, name: str, caps: list[str] | None) -> Iterator[ScriptedLink]:
    """Connects a peer and sends its hello; sends its capabilities unless they are None."""
    link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answers_thanks, name)
    link.start()
    try:
        assert link.ask("hello", f"{name} rig worker 4.14.1").command == b"ok"
        if caps is not None:
            assert link.ask("caps", json.dumps(caps)).command == b"ok"
        yield link
    finally:
        link.close()


def told(*fields: Any) -> bytes:
    frame: bytes = lz4.frame.compress(msgspec.msgpack.encode(list(fields)))
    return frame


def garbage() -> dict[str, list[bytes]]:
    """Hundreds of megabytes: made when the test runs, and not by each process that collects it."""
    return {
        "syn_digest": [b"", b"x", ZERO[:-1], ZERO + b" wet", ZERO.upper().replace(b"0", b"A"), b"\xff" * 3_000_000],
        "syn_buckets": [
            b"",
            b"x" * 100,
            b"\xff" * 5_000_000,
            lz4.frame.compress(b""),
            lz4.frame.compress(b"\x91" * 100_000),
            lz4.frame.compress(bytes(400_000_000)),
            told("", False, [1024], []),
            told("", False, [0], [["etc/rules/x.xml", "etc/rules/", b"short"]]),
            told("", False, [0, 1], [[f"etc/{n}", "etc/", bytes(64)] for n in range(50)]),
            told("", False, list(range(1024)), [["a" * 5000, "etc/", bytes(64)]]),
            told(1, 2, 3, 4),
        ],
    }


def test_master_survives_a_peer_that_lies_and_floods(lone_master: Rig) -> None:
    rig, digest = lone_master, digest_of(lone_master)
    for caps in (None, [], ["push"]):
        with joined(rig, "stranger", caps) as link:
            for command in ("syn_digest", "syn_buckets", "syn_changed", "get_diff", "sync_now", "diff"):
                answer = link.ask(command, digest)
                assert answer.command == b"err"
                assert answer.payload.startswith(b"unknown command"), command
    with joined(rig, "liar", ["digest", "push"]) as link:
        for command, payloads in garbage().items():
            for payload in payloads:
                assert link.ask(command, payload).command == b"err", (command, payload[:20])
        for _ in range(50):
            link.tell("syn_buckets", told("", True, list(range(1024)), []))
        wait_until(lambda: link.ask("syn_digest", digest).payload == b"equal", 60, "the flood is over")
        assert link.ask("syn_digest", ZERO).payload.startswith(b"differs " + digest + b" ")
        assert link.ask("syn_digest", ZERO + b" dry").payload.startswith(b"differs ")
        before = len(link.record)
        for _ in range(20):
            assert link.ask("syn_digest", digest).payload == b"equal"
        asked = [seen for seen in link.record[before:] if not seen.sent and seen.is_request]
        assert not [seen for seen in asked if not seen.command.startswith("syn_g")], "an idle check costs one request"
    assert not [line for line in bad_lines(rig.master) if "raceback" in line or "nexpected failure" in line]
    assert all(rig.processes("rig_manager_1").values())


@pytest.mark.parametrize("caps", [["digest", "push", "ahead"], ["digest", "push"]], ids="+".join)
def test_worker_that_was_equal_is_sent_what_has_changed_or_told_of_it(lone_master: Rig, caps: list[str]) -> None:
    rig, digest = lone_master, digest_of(lone_master)
    with joined(rig, "w", caps) as link, joined(rig, "unknown", caps) as other:
        assert link.ask("syn_digest", digest).payload == b"equal"
        (rig.master.root / f"etc/rules/{'-'.join(caps)}.xml").write_text("<group/>")
        firsts = []
        for one in (link, other):
            of_files = one.wait_for(lambda seen: not seen.sent and seen.command in ("syn_m_c", "syn_changed"), 60)
            firsts.append(of_files.command)
        assert firsts == ["syn_m_c" if "ahead" in caps else "syn_changed", "syn_changed"]


def test_check_is_free_again_when_the_link_ends_before_the_package(lone_master: Rig) -> None:
    """Whatever the worker does between `sync N` and its package, the next one of its name is served."""
    rig = lone_master
    everything = list(range(1024))
    for _ in range(5):
        with joined(rig, "w", ["digest"]) as link:
            assert link.ask("syn_digest", ZERO).payload.startswith(b"differs ")
            assert link.ask("syn_buckets", told("", False, everything, [])).payload.startswith(b"sync ")
    with joined(rig, "w", ["digest"]) as link:
        assert link.ask("syn_buckets", told("", True, everything, [])).payload.startswith(b'{"counts"')
        # this one is told to sync, and then never gives a task id that the master could use
        assert link.ask("syn_buckets", told("", False, everything, [])).payload.startswith(b"sync ")
        wait_until(lambda: link.ask("syn_digest", ZERO).payload != b"wait", 60, "the failed sync has ended")
    spool = rig.master.root / "queue/cluster/.clusterd/spool"
    wait_until(lambda: not list(spool.glob("*difference*")), 60, "nothing is left in the spool")


# ---- a clusterd worker -----------------------------------------------------------------------------------------------


class DigestSession(peer_master.WorkerSession):
    """A master that knows digests in part. `answers`: its responses to syn_digest and syn_buckets; `caps`: what it
    agrees to."""

    commands: ClassVar[dict[str, str]] = peer_master.WorkerSession.commands | {
        "caps": "_on_caps",
        "syn_digest": "_on_syn_digest",
        "syn_buckets": "_on_syn_buckets",
    }
    caps: ClassVar[bytes] = b'["digest", "push"]'
    answers: ClassVar[dict[str, Callable[[bytes], bytes]]] = {}

    def _on_caps(self, payload: bytes) -> bytes:
        return self.caps

    def _on_syn_digest(self, payload: bytes) -> bytes:
        return self.answers["syn_digest"](payload)

    def _on_syn_buckets(self, payload: bytes) -> bytes:
        return self.answers["syn_buckets"](payload)


@contextmanager
def scripted_master(rig: Rig, root: Path | None = None) -> Iterator[StockMaster]:
    where = {"name": "rig_manager_1", "cluster": "rig"}
    with StockMaster(root or rig.master.root, KEY, port=rig.master.port, scan_interval_s=0.3, **where) as master:  # type: ignore[arg-type]
        yield master


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[bytes], bytes]]:
    made: dict[str, Callable[[bytes], bytes]] = {"syn_digest": lambda _: b"equal", "syn_buckets": lambda _: b"equal"}
    monkeypatch.setattr(DigestSession, "answers", made)
    monkeypatch.setattr(peer_master, "WorkerSession", DigestSession)
    return made


def requests(session: Any, *commands: str, after: int = 0) -> list[Any]:
    return [
        seen
        for seen in session.link.record[after:]
        if seen.is_request and not seen.sent and (not commands or seen.command in commands)
    ]


def test_idle_check_of_a_worker_is_one_request(lone_worker: Rig, answers: dict[str, Callable[[bytes], bytes]]) -> None:
    rig = lone_worker
    with scripted_master(rig) as master:
        session = master.session("rig_manager_2")
        wait_until(lambda: len(requests(session, "syn_digest")) >= 4, 60, "four checks")
        assert not requests(session, "syn_i_w_m_p", "syn_i_w_m", "syn_buckets", "new_file", "file_upd")
        # garbage from a master: refused, and the link goes on
        for command, payloads in {
            "syn_changed": [b"", b"x", ZERO, ZERO + b" -1", ZERO + b" 1000000", b"\xff" * 200_000],
            "syn_digest": [ZERO],
            "syn_buckets": [b"x"],
        }.items():
            for payload in payloads:
                assert session.link.ask(command, payload).command == b"err", (command, payload[:40])
        flood = len(requests(session, "syn_digest"))
        for _ in range(300):
            session.link.tell("syn_changed", ZERO + b" 0")
        assert session.link.ask("echo-m", b"still there").command in (b"ok", b"ok-c")
        wait_until(lambda: len(requests(session, "syn_digest")) > flood, 60, "it checks at once")
        answers["syn_digest"] = lambda _: b"wait"
        assert session.link.ask("get_diff").command == b"err"
        answers["syn_digest"] = lambda _: b"differs " + ZERO + b" " + bytes(16384)
        for nonsense in (b"[]", b"null", b"wait", b'{"counts": 1}', b'{"missing": [1]}', b"[" * 60_000):
            answers["syn_buckets"] = lambda _, nonsense=nonsense: nonsense  # type: ignore[misc]
            assert session.link.ask("get_diff").command == b"err", nonsense[:20]
        listed = b'{"counts": {"missing": 1, "shared": 0, "extra": 0}, "missing": ["etc/x"], "shared": [], "extra": []}'
        answers["syn_buckets"] = lambda _: listed
        answer = json.loads(session.link.ask("get_diff").payload)
        assert (answer["node"], answer["missing"]) == ("rig_manager_2", ["etc/x"])
    assert not [line for line in bad_lines(rig.workers[0]) if "raceback" in line]


@pytest.mark.parametrize(
    "nonsense",
    [
        ("syn_digest", b"maybe"),
        ("syn_digest", b""),
        ("syn_digest", b"differs " + ZERO + b" " + bytes(16383)),
        ("syn_digest", b"differs " + ZERO + b" " + bytes(3_000_000)),
        ("syn_buckets", b"sync many"),
    ],
    ids=["word", "nothing", "short", "long", "count"],
)
def test_worker_below_a_master_that_talks_nonsense_is_equal_nevertheless(
    lone_worker: Rig, answers: dict[str, Callable[[bytes], bytes]], nonsense: tuple[str, bytes]
) -> None:
    rig = lone_worker
    workload.change(rig.master.root, seed=1)
    answers["syn_digest"] = lambda _: b"differs " + ZERO + b" " + bytes(16384)
    answers[nonsense[0]] = lambda _: nonsense[1]
    with scripted_master(rig) as master:
        session = master.session("rig_manager_2")
        rig.wait_equal(60)
        assert requests(session, nonsense[0])
    assert not [line for line in bad_lines(rig.workers[0]) if "raceback" in line]


def test_master_that_lets_wait_is_asked_again_less_and_less_often(
    make_rig: MakeRig, answers: dict[str, Callable[[bytes], bytes]]
) -> None:
    rig = make_rig(1, overrides=SELDOM, scale=1)
    answers["syn_digest"] = lambda _: b"wait"
    with scripted_master(rig) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        wait_until(lambda: len(requests(session, "syn_digest")) >= 4, 60, "four checks")
        at = [seen.at for seen in requests(session, "syn_digest")]
        apart = [after - before for before, after in pairwise(at)]
        assert all(gap >= 0.09 * 2**number for number, gap in enumerate(apart))
        answers["syn_digest"] = lambda _: b"equal"


def test_lost_promise_of_a_package_keeps_no_worker_from_checking(
    lone_worker: Rig, answers: dict[str, Callable[[bytes], bytes]]
) -> None:
    """`sync N`, and then nothing: the master's sync was killed."""
    answers["syn_digest"] = lambda _: b"differs " + ZERO + b" " + bytes(16384)
    answers["syn_buckets"] = lambda _: b"sync 3"
    with scripted_master(lone_worker) as master:
        session = master.session("rig_manager_2")
        wait_until(lambda: len(requests(session, "syn_buckets")) >= 3, 60, "three checks")
        at = [seen.at for seen in requests(session, "syn_buckets")]
        assert min(after - before for before, after in pairwise(at)) > 0.5, "no hot loop"

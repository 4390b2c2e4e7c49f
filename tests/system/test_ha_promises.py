"""One cluster of three candidates, a plain worker and a real etcd, and what docs/ha.md promises of it: etcd lost, the
election paused, etcd wiped, programs of the operator, what was left behind, and programs of the machine that ask once
more when the lead changes hands. Each test leaves the cluster well."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from clusterd.left_behind import LEFT_BEHIND
from clusterd.pidfile import running_pid
from tests.conftest import KEY, rigs
from tests.system.impatient import Clients
from tests.system.rest import OVERRIDES, turn_on
from tests.system.test_election import election, ids, leader, register, registered
from tests.tools.test_ha_recipes import in_namespace
from tests.warm import read_ha
from tools.rig import candidates
from tools.rig.etcd import EtcdCluster
from tools.rig.nodes import PROJECT, Rig, RigNode
from tools.rig.peer import StockWorker, wait_until
from tools.rig.ports import HOST, free_port

pytestmark = pytest.mark.slow
PATIENCE_S = 90.0
LEASE_S = 6
RECIPE = Path(__file__).parents[2] / "contrib/ha/haproxy.cfg"
PROGRAM = """\
#!/bin/sh
echo "$CLUSTERD_EVENT $CLUSTERD_NODE $CLUSTERD_TERM $CLUSTERD_LEADER" >> {directory}/ran
[ ! -f {directory}/behaviour ] || . {directory}/behaviour
"""


class Site:
    """The cluster. `programs`: a directory with what `on_promote` and `on_demote` did, and are to do."""

    def __init__(self, rig: Rig, programs: Path) -> None:
        self.rig, self.programs = rig, programs
        self.monitors = {node.name: free_port() for node in rig.candidates}

    @property
    def etcd(self) -> EtcdCluster:
        found = self.rig.etcd
        assert found is not None
        return found

    @property
    def plain(self) -> RigNode:
        return self.rig.nodes[3]

    def ha(self, node: RigNode) -> dict[str, Any]:
        return read_ha(node.root) or {}

    def text(self, node: RigNode, *words: str) -> str:
        """What a command writes, on one line."""
        done = self.rig.command(node, *(words or ("ha", "status")), timeout_s=60)
        return " ".join((done.stdout + done.stderr).split())

    def order(self, node: RigNode, *words: str) -> dict[str, Any]:
        done = self.rig.command(node, "ha", *words, "--json", timeout_s=180)
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["ok"] == (done.returncode == 0)
        return found

    def log(self, node: RigNode) -> str:
        return (node.root / "logs/cluster.log").read_text()

    def leader(self, *but: RigNode) -> RigNode:
        found: list[RigNode] = []

        def is_there() -> bool:
            one = leader(self.rig, *but)
            found[:] = [one] if one is not None else []
            return bool(found)

        wait_until(is_there, PATIENCE_S, "somebody who leads")
        return found[0]

    def others(self, *but: RigNode) -> list[RigNode]:
        return [node for node in self.rig.candidates if node not in but]

    def is_well(self) -> bool:
        """One leads, both others follow, and one of them has what is answered."""
        now = leader(self.rig)
        ha = self.ha(now) if now is not None else {}
        rows = [row for row in ha.get("candidates") or [] if not row["may_not_lead"]]
        order = (ha.get("election") or {}).get("order")
        return ha.get("registrations") == "synchronous" and len(rows) == 2 and (order is None or bool(order["refused"]))

    def settle(self) -> RigNode:
        """All that may be down runs, and the cluster is well; the leader."""
        self.etcd.start()
        for node in self.rig.nodes:
            if running_pid(str(node.root)) is None:
                self.rig.start(node.name)
        wait_until(self.is_well, PATIENCE_S, "a cluster that is well")
        return self.leader()

    def hold(self, seconds: float, what: Callable[[], bool], why: str) -> None:
        """It stays so for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert what(), why
            time.sleep(0.2)


@pytest.fixture(scope="module")
def built() -> Iterator[Site]:
    with rigs() as make:
        rig = make(3, overrides=OVERRIDES)
        (rig.master.root / "etc/client.keys").write_text("")
        turn_on(rig, rig.nodes[3])
        programs = rig.directory / "programs"
        programs.mkdir()
        program = programs / "moved"
        program.write_text(PROGRAM.format(directory=programs))
        program.chmod(0o755)
        candidates.add_candidates(
            rig, 3, 3, lease_s=LEASE_S, failsafe=True, on_promote=[str(program)], on_demote=[str(program)]
        )
        site = Site(rig, programs)
        for node in rig.candidates:
            path = node.root / "etc/cluster.json"
            own = json.loads(path.read_text())
            own["clusterd"]["monitor"] = {"enabled": True, "port": site.monitors[node.name]}
            path.write_text(json.dumps(own))
        rig.start()
        yield site


@pytest.fixture
def site(built: Site) -> Site:
    built.settle()
    return built


# ---- etcd is away ----------------------------------------------------------------------------------------------------


def test_without_etcd_the_leader_goes_on_as_long_as_every_candidate_agrees(site: Site) -> None:
    old, plain = site.leader(), site.plain
    first, *_ = others = site.others(old)
    term = election(site.rig, old)["term"]
    for name in site.etcd.names:
        site.etcd.kill(name)
    wait_until(lambda: election(site.rig, old)["is_failsafe"], PATIENCE_S, "it goes on without etcd")
    site.hold(2 * LEASE_S, lambda: election(site.rig, old)["role"] == "leader", "it goes on")
    assert registered(plain, "without-etcd") in ids(old)
    said = site.text(old)
    assert f"{old.name} leads in term {term}" in said
    assert "without etcd (failsafe)" in said
    assert "etcd cannot be asked" in said
    assert "Etcd cannot be asked" in site.text(old, "status")
    # One that cannot be asked ends it.
    site.rig.stop(others[1].name)
    wait_until(lambda: election(site.rig, old)["role"] == "candidate", PATIENCE_S, "it stops in time")
    assert f"it cannot go on without etcd: {others[1].name} does not agree" in site.log(old).lower()
    assert register(old, "refused") == register(first, "refused-too") == 0
    site.etcd.start()
    wait_until(lambda: leader(site.rig) is not None, PATIENCE_S, "all goes on by itself")
    assert registered(plain, "with-etcd-again") > 0


def test_a_candidate_that_is_forgotten_is_not_asked(site: Site) -> None:
    old = site.leader()
    gone, other = site.others(old)
    refused = site.order(other, "forget", gone.name)
    assert "is alive" in refused["text"]
    candidates.kill(gone)
    wait_until(lambda: gone.name in election(site.rig, old)["away"], PATIENCE_S, "it is away")
    found: dict[str, Any] = {}

    def is_forgotten() -> bool:  # the leader may have to name another one that confirms, first
        found.update(site.order(other, "forget", gone.name))
        return bool(found["ok"])

    wait_until(is_forgotten, PATIENCE_S, "it is forgotten")
    assert election(site.rig, old)["away"] == []
    names = lambda: [row["name"] for row in site.ha(old)["candidates"]]  # noqa: E731
    wait_until(lambda: names() == [other.name], PATIENCE_S, "nor does the store know it")
    for name in site.etcd.names:
        site.etcd.kill(name)
    wait_until(lambda: election(site.rig, old)["is_failsafe"], PATIENCE_S, "it goes on without etcd")
    site.hold(1.5 * LEASE_S, lambda: election(site.rig, old)["role"] == "leader", "it goes on")
    site.etcd.start()
    site.rig.start(gone.name)
    wait_until(lambda: sorted(names()) == sorted([other.name, gone.name]), PATIENCE_S, "it takes part again")


def test_wiped_etcd_nobody_leads_until_bootstrap(site: Site) -> None:
    old, plain = site.leader(), site.plain
    term = election(site.rig, old)["term"]
    known = registered(plain, "before-the-loss")
    site.etcd.wipe()
    site.etcd.start()
    wait_until(lambda: leader(site.rig) is None, PATIENCE_S, "nobody leads")
    wait_until(lambda: "clusterd ha bootstrap" in site.text(old), PATIENCE_S, "status says what to do")
    wait_until(lambda: "clusterd ha bootstrap" in site.text(old, "status"), PATIENCE_S, "so does the whole status")
    assert register(plain, "nobody") == 0
    found = site.order(old, "bootstrap")
    assert found["ok"], found
    assert found["leader"] == old.name
    assert found["term"] > term
    assert registered(plain, "after-the-loss") > known
    assert known in ids(old)


# ---- pause -----------------------------------------------------------------------------------------------------------


def test_paused_nobody_takes_over_and_the_leader_goes_on_without_etcd(site: Site) -> None:
    old, plain = site.leader(), site.plain
    other = site.others(old)[0]
    term = election(site.rig, old)["term"]
    assert site.order(other, "pause")["ok"]
    paused = "without an end, PAUSED: nobody takes over"
    wait_until(lambda: paused in site.text(old), PATIENCE_S, "the leader needs no lease any more")
    for name in site.etcd.names:
        site.etcd.kill(name)
    site.hold(1.5 * LEASE_S, lambda: election(site.rig, old)["role"] == "leader", "it has no end")
    assert registered(plain, "paused") in ids(old)
    site.etcd.start()
    candidates.kill(old)
    site.hold(2 * LEASE_S, lambda: leader(site.rig, old) is None, "nobody takes over")
    assert "PAUSED" in site.text(other)
    site.rig.start(old.name)
    wait_until(lambda: election(site.rig, old).get("role") == "leader", PATIENCE_S, "it goes on")
    assert election(site.rig, old)["term"] == term
    assert site.order(other, "resume")["ok"]
    assert election(site.rig, old)["has_lease"]
    assert registered(plain, "resumed") > 0


# ---- programs of the operator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "problem", "logged"),
    [
        ("echo done; echo 'the password: hunter2'", None, "the password: *****"),
        ("exit 3", "ended with exit code 3", "ended with exit code 3"),
    ],
    ids=["runs", "fails"],
)
def test_programs_run_and_are_told_of(site: Site, behaviour: str, problem: str | None, logged: str) -> None:
    old = site.leader()
    (site.programs / "ran").unlink(missing_ok=True)
    (site.programs / "behaviour").write_text(behaviour + "\n")
    found = site.order(old, "switchover")
    assert found["ok"], found
    new = site.rig.node(found["leader"])
    assert registered(site.plain, "while-it-runs") > 0, "the node leads all the same"
    told = lambda node: election(site.rig, node).get("program") or {}  # noqa: E731
    for node, name in ((new, "on_promote"), (old, "on_demote")):
        wait_until(lambda node=node, name=name: told(node).get("name") == name, PATIENCE_S, f"{name} has ended")
        assert told(node)["problem"] == problem
        assert f"{name} " in site.text(node)
        assert (problem or "done") in site.text(node)
        assert logged in site.log(node)
        assert "hunter2" not in site.log(node)
    ran = (site.programs / "ran").read_text().splitlines()
    assert f"on_promote {new.name} {found['term']} {new.name}" in ran
    assert any(line.startswith(f"on_demote {old.name} ") for line in ran)
    (site.programs / "behaviour").unlink()


# ---- who was a master ------------------------------------------------------------------------------------------------


def test_what_a_former_master_had_alone_is_named(site: Site) -> None:
    old = site.leader()
    for node in site.rig.nodes:
        shutil.rmtree(node.root / LEFT_BEHIND, ignore_errors=True)
    candidates.kill(old)
    (old.root / "etc/rules/lone.xml").write_text("<group name='lone,'></group>\n")
    new = site.leader(old)
    site.rig.start(old.name)
    wait_until(lambda: not (old.root / "etc/rules/lone.xml").exists(), PATIENCE_S, "its files are the new master's")
    term = election(site.rig, new)["term"]
    text = "1 file of this node's time as master the new master does not have: etc/rules/lone.xml; "
    text += f"kept in {LEFT_BEHIND}/{term}"
    wait_until(lambda: text in site.log(old), PATIENCE_S, "the log says so")
    for words in (("ha", "status"), ("status",)):
        assert text in site.text(old, *words)
    (row,) = site.ha(old)["left_behind"]
    assert (row["files"], row["term"]) == (1, term)


# ---- programs that ask once more -------------------------------------------------------------------------------------


@pytest.mark.stress
def test_who_asks_once_more_sees_nothing_of_a_switchover(site: Site) -> None:
    """Needs a quiet machine: each request waits up to 3 s for the next leader."""
    clients = Clients()
    with clients.running(site.rig.nodes, [site.plain]):
        for node in site.rig.candidates[:2]:
            began = time.monotonic()
            found = site.order(node, "switchover")
            assert found["ok"], found
            for kind in ("register", "read", "nodes", "rest"):
                nodes = site.rig.nodes if kind != "rest" else [site.plain]
                for asked in nodes:
                    wait_until(
                        lambda kind=kind, asked=asked, began=began: (
                            clients.first_after(kind, began + 5, asked.name) is not None
                        ),
                        PATIENCE_S,
                        f"{kind} through {asked.name}",
                    )
            wait_until(site.is_well, PATIENCE_S, "a cluster that is well")
    assert not clients.failed_twice(), "\n".join(map(str, clients.failed_twice()[:20]))
    held = ids(site.leader())
    assert clients.given - clients.deleted <= held
    assert not clients.deleted & held


# ---- one address for everybody ---------------------------------------------------------------------------------------


class StockLink(threading.Thread):
    """A stock worker that knows one address, asks it for a sign of life again and again, and joins anew where there is
    none, after a pause. `heard`: when it had one."""

    def __init__(self, port: int, root: Path) -> None:
        super().__init__()
        self.worker = StockWorker((HOST, port), KEY, "stock", root, cluster="rig")
        self.heard: list[float] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.2):
            try:
                self.worker.join()
                while not self.stopping.wait(0.1):
                    self.worker.keepalive()
                    self.heard.append(time.monotonic())
            except Exception:
                continue

    def gap_after(self, moment: float) -> float | None:
        """How long nothing was heard, from that moment on."""
        later = [one for one in self.heard if one > moment + 1.0]
        before = [one for one in self.heard if one <= moment + 1.0]
        return later[0] - before[-1] if later and before else None


@contextmanager
def haproxy(site: Site, directory: Path) -> Iterator[int]:
    """The recipe in front of the candidates; yields its port."""
    front = free_port()
    text = RECIPE.read_text().partition("# Registration of agents")[0].replace("bind :1516", f"bind {HOST}:{front}")
    for number, node in enumerate(site.rig.candidates, 1):
        text = text.replace(f"10.0.0.{number}:1516", f"{HOST}:{node.advertised} port {site.monitors[node.name]}")
    (directory / "haproxy.cfg").write_text(text)
    proxy = subprocess.Popen(["haproxy", "-q", "-db", "-f", str(directory / "haproxy.cfg")])
    try:
        yield front
    finally:
        proxy.kill()
        proxy.wait()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy")
def test_stock_worker_behind_haproxy_is_there_again_after_the_leader_was_killed(site: Site, tmp_path: Path) -> None:
    old = site.leader()

    def primaries() -> list[str]:
        found = []
        for node, port in site.monitors.items():
            try:
                if httpx.get(f"http://{HOST}:{port}/primary", timeout=10, trust_env=False).status_code == 200:
                    found.append(node)
            except httpx.HTTPError:
                continue
        return found

    wait_until(lambda: primaries() == [old.name], PATIENCE_S, "the leader alone says that it is primary")
    root = tmp_path / "stock"
    root.mkdir()
    with haproxy(site, tmp_path) as port:
        link = StockLink(port, root)
        link.start()
        try:
            wait_until(lambda: len(link.heard) > 5, PATIENCE_S, "a stock worker behind HAProxy")
            killed = time.monotonic()
            candidates.kill(old)
            wait_until(lambda: link.gap_after(killed) is not None, PATIENCE_S, "it is there again")
        finally:
            link.stopping.set()
            link.join()
            link.worker.close()
    new = site.leader(old)
    wait_until(lambda: primaries() == [new.name], PATIENCE_S, "the next leader alone says so")
    print(f"a stock worker behind HAProxy heard nothing for {link.gap_after(killed):.1f} s")
    assert re.search(r"stock", site.log(new))


def test_virtual_address_moves_with_a_real_promotion() -> None:
    said = in_namespace(f"""
        ip link set lo up
        cd {PROJECT}
        exec {sys.executable} -m tests.system.virtual_address
    """)
    assert said.splitlines()[-3:] == ["first", "moved", "killed"]

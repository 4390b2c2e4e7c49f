"""The monitoring port of a real master: its worker stops, dies, is cut off or refused; every process but it hangs."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterd.monitor import journal_writer, source, viewers
from clusterd.net import process as net_process
from clusterd.rundir import board_path
from clusterd.status.status import ASK_TIMEOUT_S
from ipc.board import VERDICTS, Board
from tests.conftest import rigs
from tools.rig.faults import signal_process, tell_link
from tools.rig.nodes import Rig
from tools.rig.patience import Patience
from tools.rig.ports import free_port

pytestmark = pytest.mark.slow
DEADLINE_S = 90.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    patience = Patience(DEADLINE_S)
    while not condition():
        assert not patience.is_over(), what
        time.sleep(0.1)


class Watched:
    """A rig of a master and a worker behind a link, and the master's monitoring port."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.port = free_port()
        path = rig.master.root / "etc/cluster.json"
        settings = json.loads(path.read_text())
        settings["clusterd"]["monitor"] = {"enabled": True, "port": self.port}
        path.write_text(json.dumps(settings))

    def ask(self, path: str, timeout_s: float = 60.0) -> tuple[int, str]:
        """Returns status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/status.json")[1])
        return found

    def metric(self, sample: str) -> float | None:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)
        return None if found is None else float(found[1])

    def events(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ask(f"/history.json?kind={kind}&limit=1000")[1])["events"]
        return found

    def check(self) -> subprocess.CompletedProcess[str]:
        return self.rig.command(self.rig.master, "check", timeout_s=60)

    def is_well(self) -> bool:
        worker = self.rig.workers[0].name
        return (
            self.status()["verdict"]["level"] == "OK"
            and self.metric(f'clusterd_worker_connected{{worker="{worker}"}}') == 1
            and self.metric(f'clusterd_worker_lag_seconds{{worker="{worker}"}}') == 0
        )


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with rigs() as make:
        rig = make(1, links=True)
        found = Watched(rig)
        rig.start()
        rig.wait_equal(60)
        eventually(lambda: rig.status("master")["rig_manager_1"]["monitor_url"] is not None, "its URL is known")
        eventually(found.is_well, "all is well")
        yield found


class Viewer:
    """Collects everything that `/events` sends, as a dashboard gets it."""

    def __init__(self, port: int) -> None:
        self.statuses: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=600)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> "Viewer":
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._answer.fp.raw._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._answer.close()

    def _listen(self) -> None:
        kind = ""
        for line in self._answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                (self.statuses if kind == "status" else self.events).append(json.loads(value))


@contextlib.contextmanager
def stopped(rig: Rig) -> Iterator[None]:
    worker = rig.workers[0].name
    assert rig.stop(worker) == []
    yield
    rig.start(worker)


@contextlib.contextmanager
def killed(rig: Rig) -> Iterator[None]:
    worker = rig.workers[0]
    for process in rig.status(worker.name)[worker.name]["processes"]:
        if process["pid"] is not None:
            with contextlib.suppress(ProcessLookupError):
                signal_process(process["pid"], signal.SIGKILL)
    yield
    rig.start(worker.name)


@contextlib.contextmanager
def cut(rig: Rig) -> Iterator[None]:
    """Nothing passes any more, and no end of the connection is signalled."""
    control = rig.workers[0].link_control
    assert control is not None
    tell_link(control, "silence")
    yield
    tell_link(control, "cut")
    tell_link(control, "mend")


@contextlib.contextmanager
def refused(rig: Rig) -> Iterator[None]:
    worker = rig.workers[0]
    conf = worker.root / "etc/ossec.conf"
    right = conf.read_text()
    assert rig.stop(worker.name) == []
    conf.write_text(right.replace("<name>rig</name>", "<name>another</name>"))
    rig.start(worker.name)
    yield
    assert rig.stop(worker.name) == []
    conf.write_text(right)
    rig.start(worker.name)


def check_promptness(viewer: Viewer, worker: str) -> None:
    """Every status that was asked for after the worker was lost by the rule says so. How long an answer takes depends
    on the machine; how often statuses are made is in test_loss_is_shown_within_three_seconds."""
    (lost,) = [event for event in viewer.events if (event["kind"], event.get("what")) == ("worker", "lost")]
    lost_at = datetime.fromisoformat(lost["at"]).timestamp()
    fresh = (
        status for status in viewer.statuses if status["monitor"]["answer_age_s"] < ASK_TIMEOUT_S
    )  # of its reading
    later = [status for status in fresh if status["monitor"]["asked_at"] > lost_at]
    assert later
    for status in later:
        assert [row["state"] for row in status["workers"] if row["name"] == worker] == ["lost"]
        assert status["verdict"]["level"] == "DEGRADED"


def test_loss_is_shown_within_three_seconds() -> None:
    """Seconds of the keepalive rule on an idle machine: the longest of the periods that follow one another."""
    rule_is_looked_at_s = net_process.TICK_S
    for shown_s in (source.LEAST_S, viewers.STATUS_EVERY_S, journal_writer.COMMIT_EVERY_S):
        assert rule_is_looked_at_s + shown_s <= 3.0


@pytest.mark.parametrize("fault", [stopped, killed, cut, refused], ids=lambda fault: fault.__name__)
def test_worker_that_is_away_is_seen_everywhere_and_again_when_it_is_back(
    watched: Watched, fault: Callable[[Rig], contextlib.AbstractContextManager[None]]
) -> None:
    worker = watched.rig.workers[0].name
    eventually(watched.is_well, "all is well before")
    before = {what: len(watched.events(f"worker:{what}")) for what in ("lost", "back", "refused")}
    with Viewer(watched.port) as viewer, fault(watched.rig):
        eventually(lambda: watched.metric('clusterd_workers{state="lost"}') == 1, "the metric says LOST")
        assert watched.metric(f'clusterd_worker_connected{{worker="{worker}"}}') == 0
        assert watched.metric(f'clusterd_worker_lag_seconds{{worker="{worker}"}}') is None
        said = watched.status()["verdict"]
        assert said["level"] == "DEGRADED"
        assert worker in said["reason"]
        line = watched.check()
        assert (line.returncode, line.stdout.split(" - ")[0]) == (1, "CLUSTERD WARNING")
        eventually(lambda: len(watched.events("worker:lost")) > before["lost"], "there is an event")
        assert watched.events("worker:lost")[0]["worker"] == worker
        eventually(lambda: [e for e in viewer.events if (e["kind"], e.get("what")) == ("worker", "lost")] != [], "told")
        seen_at = time.time()
        eventually(
            lambda: any(
                one["monitor"]["asked_at"] > seen_at and one["monitor"]["answer_age_s"] < ASK_TIMEOUT_S
                for one in viewer.statuses
            ),
            "another status",
        )
        check_promptness(viewer, worker)
        if fault is refused:
            eventually(lambda: (watched.metric("clusterd_refused_nodes") or 0) >= 1, "it is refused")
            assert (watched.metric('clusterd_refusals_total{reason="cluster"}') or 0) >= 1
            assert len(watched.events("worker:refused")) > before["refused"]
    eventually(watched.is_well, "it is back")
    eventually(lambda: len(watched.events("worker:back")) > before["back"], "there is an event of it")
    assert watched.check().returncode == 0


def test_port_answers_when_every_other_process_hangs(watched: Watched) -> None:
    eventually(watched.is_well, "all is well before")
    assert watched.ask("/livez") == (200, "ok\n")
    pids = {
        row["name"]: row["pid"] for row in watched.status()["processes"] if row["name"] not in ("supervisor", "monitor")
    }
    assert {"net", "sync", "pool-1", "store"} <= set(pids)
    try:
        for pid in pids.values():
            signal_process(pid, signal.SIGSTOP)
        stopped = psutil.STATUS_STOPPED
        eventually(lambda: all(psutil.Process(pid).status() == stopped for pid in pids.values()), "all are stopped")
        answers = {}
        for path in ("/livez", "/readyz?verbose", "/metrics", "/status.json"):
            answers[path] = watched.ask(path)  # waits for nobody: all but the supervisor would keep it waiting for ever
        code, text = answers["/livez"]
        assert code == 503
        for name in pids:
            assert f"[-]{name} failed: it is stopped by a signal, silent for" in text
        assert "monitor" not in text
        assert answers["/readyz?verbose"][0] == 503
        assert "[+]supervisor ok\n" in answers["/readyz?verbose"][1]
        assert answers["/metrics"][0] == 200
        assert 'clusterd_process_up{process="sync"} 0.0\n' in answers["/metrics"][1]
        assert 'clusterd_process_up{process="supervisor"} 1.0\n' in answers["/metrics"][1]
        eventually(lambda: watched.status()["monitor"]["fresh"] is False, "its answer is said to be old")
        found = watched.status()
        assert found["verdict"]["level"] == "DOWN"
        assert [row["name"] for row in found["workers"]] == [watched.rig.workers[0].name], "as it was known last"
        assert watched.metric("clusterd_answers") == 0
        assert watched.metric('clusterd_workers{state="connected"}') is None, "what nobody knows is not shown"
    finally:
        for pid in pids.values():
            signal_process(pid, signal.SIGCONT)
    eventually(lambda: watched.ask("/livez")[0] == 200, "they go on")
    eventually(lambda: watched.ask("/readyz")[0] == 200, "and answer")
    eventually(watched.is_well, "all is well again")


def test_status_names_the_url_and_the_port_holds_few_descriptors(watched: Watched) -> None:
    url = f"http://127.0.0.1:{watched.port}"
    assert watched.rig.status("master")["rig_manager_1"]["monitor_url"] == url
    assert f"monitoring port {url}" in watched.rig.command(watched.rig.master, "status", timeout_s=60).stdout
    (pid,) = (row["pid"] for row in watched.status()["processes"] if row["name"] == "monitor")
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 20


def test_supervisor_knows_the_verdict_for_systemd(watched: Watched) -> None:
    board = Board.open(board_path(str(watched.rig.master.root)))
    try:
        eventually(lambda: VERDICTS[board.row("monitor").get("verdict")] == "OK", "the verdict is on the board")
    finally:
        board.close()


def test_viewer_of_events_sees_status_and_what_happens(watched: Watched) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{watched.port}/events", timeout=60) as stream:
        seen: dict[str, list[Any]] = {"status": [], "journal": []}
        (watched.rig.master.root / "etc/rules/viewer.xml").write_text(f"<!-- {time.time()} -->")
        kind = ""
        patience = Patience(DEADLINE_S)
        while not (len(seen["status"]) >= 2 and any(one["kind"] == "change" for one in seen["journal"])):
            assert not patience.is_over()
            line = stream.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                seen[kind].append(json.loads(line.removeprefix("data: ")))
    assert seen["status"][0]["node"]["name"] == watched.rig.master.name

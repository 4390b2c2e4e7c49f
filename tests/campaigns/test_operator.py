"""Two operators at once give any order to any node, in any order: start, stop, restart, reload (also with mistakes in
the files), levels of the log, syncs, changes of files, kills of what they dislike, and every command that shows
something. No command ends with a traceback, without a word, late, or with a code that is not documented; no log has a
traceback; as soon as they rest, every node runs, is equal, and says OK.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from clusterd.exits import ExitCode
from clusterd.pidfile import running_pid
from tests.campaigns.frame import MINUTES, Campaign, must_be_well, report, running, sealed
from tests.conftest import MakeRig
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigError, RigNode, run_program
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbError

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 1800)]

WORKERS = 3
ACTS = 20
"""Acts of each operator between two rests."""
COMMAND_S = 240.0
REST_S = 180.0
PLACES = ("etc/rules", "etc/decoders", "etc/lists", "etc/shared/default", "etc/shared/web")
LOG = "logs/cluster.log"


class Operator(threading.Thread):
    def __init__(self, rig: Rig, campaign: Campaign, number: int) -> None:
        super().__init__(name=f"operator {number}")
        self._rig = rig
        self._campaign = campaign
        self._rng = random.Random(f"operator-{campaign.seed}-{number}")
        self._orders = Orders(rig, campaign, self._rng)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(ACTS):
                self._orders.give_one()
        except BaseException as failure:
            self.failure = failure


class Orders:
    """What an operator may do."""

    def __init__(self, rig: Rig, campaign: Campaign, rng: random.Random) -> None:
        self._rig = rig
        self._campaign = campaign
        self._rng = rng
        self._table: list[tuple[int, Callable[[], None]]] = [
            (10, self.edit_file),
            (4, self.edit_tree),
            (3, self.change_of_kind),
            (3, self.new_group),
            (3, self.report_agent),
            (2, self.kill_child),
            (1, self.kill_supervisor),
            (1, self.pause_child),
            (3, self.reload),
            (3, self.reload_with_mistakes),
            (3, self.restart),
            (3, self.stop),
            (5, self.start),
            (3, self.log_level),
            (4, self.sync),
            (10, self.show),
            (2, self.forget),
            (1, self.backup),
            (1, self.support),
            (1, self.user),
            (2, self.interrupt),
            (1, self.rotate_log),
            (1, self.tidy),
            (1, self.close_file),
        ]

    def give_one(self) -> None:
        (act,) = self._rng.choices([act for _, act in self._table], [weight for weight, _ in self._table])
        self._campaign.counts[act.__name__] += 1
        act()

    # -- files

    def _place(self) -> Path:
        place = self._rig.master.root / self._rng.choice(PLACES)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def edit_file(self) -> None:
        path = self._place() / f"file{self._rng.randrange(12)}"
        try:
            if self._rng.random() < 0.2:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(sealed(self._rng, self._rng.choice((0, 10, 3_000, 400_000))))
        except OSError:
            pass  # the other one made a directory of it

    def edit_tree(self) -> None:
        beside = self._rig.master.root / f"tmp/tree{self._rng.randrange(10**9)}"
        beside.mkdir(parents=True)
        for number in range(self._rng.choice((1, 50, 400))):
            (beside / f"dir{number % 7}").mkdir(exist_ok=True)
            (beside / f"dir{number % 7}" / f"file{number}").write_bytes(sealed(self._rng, 100))
        target = self._place() / f"tree{self._rng.randrange(3)}"
        try:
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            beside.rename(target)
        except OSError:
            shutil.rmtree(beside, ignore_errors=True)

    def change_of_kind(self) -> None:
        path = self._place() / f"kind{self._rng.randrange(3)}"
        try:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                path.write_bytes(b"now a file\n")
            else:
                path.unlink(missing_ok=True)
                path.mkdir()
                (path / "inner").write_bytes(b"now a directory\n")
        except OSError:
            pass

    def new_group(self) -> None:
        group = self._rig.master.root / f"etc/shared/group{self._rng.randrange(4)}"
        if group.is_dir():
            shutil.rmtree(group, ignore_errors=True)
        else:
            group.mkdir(parents=True)
            (group / "agent.conf").write_text("<agent_config>\n</agent_config>\n")

    def report_agent(self) -> None:
        try:
            report(self._rng.choice(self._rig.workers), self._rng.randrange(1, 20), f"v{self._rng.randrange(100)}")
        except (WdbError, OSError, EOFError, ValueError):
            self._campaign.counts["reports without a store"] += 1

    def rotate_log(self) -> None:
        node = self._rng.choice(self._rig.nodes)
        with contextlib.suppress(FileNotFoundError):
            (node.root / LOG).rename(node.root / f"{LOG}.{self._rng.randrange(10**9)}")

    def tidy(self) -> None:
        """Somebody removes what looks like remains."""
        node = self._rng.choice(self._rig.nodes)
        below = node.root / self._rng.choice(("queue/cluster", "var/run", "tmp"))
        for path in list(below.glob("*")):
            if path.name.startswith(".") or self._rng.random() < 0.5:
                continue
            self._campaign.counts[f"removed {below.name}/{re.sub('[0-9]+', 'N', path.name)}"] += 1
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def close_file(self) -> None:
        """A file that nobody may write, another that only root may read."""
        for path in list(self._place().glob("file*"))[:3]:
            with contextlib.suppress(OSError):
                path.chmod(self._rng.choice((0o000, 0o400, 0o644, 0o660)))

    # -- violence

    def _child(self, node: RigNode) -> int | None:
        pid = running_pid(str(node.root))
        try:
            children = [child.pid for child in psutil.Process(pid).children()] if pid else []
        except psutil.Error:
            return None
        return self._rng.choice(children) if children else None

    def kill_child(self) -> None:
        if (pid := self._child(self._rng.choice(self._rig.nodes))) is not None:
            self._signal(pid, self._rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))

    def pause_child(self) -> None:
        if (pid := self._child(self._rng.choice(self._rig.nodes))) is not None:
            self._signal(pid, signal.SIGSTOP)
            time.sleep(self._rng.uniform(0.5, 4))
            self._signal(pid, signal.SIGCONT)

    def kill_supervisor(self) -> None:
        pid = running_pid(str(self._rng.choice(self._rig.nodes).root))
        if pid is not None:
            self._signal(pid, signal.SIGKILL)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            signal_process(pid, number)

    # -- orders

    def _give(self, *arguments: str, node: RigNode | None = None, key: str | None = None) -> int:
        node = node or self._rng.choice(self._rig.nodes)
        began = time.monotonic()
        done = self._rig.command(node, *arguments, timeout_s=COMMAND_S, key=key)
        took, what = time.monotonic() - began, f"{node.name}: {' '.join(arguments)}"
        self._campaign.counts["commands"] += 1
        told = f"{what} (exit {done.returncode}, {took:.1f} s)\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stdout + done.stderr, told
        assert done.returncode in set(ExitCode) - {ExitCode.USAGE}, told
        if done.returncode:
            assert done.stderr.strip() or done.stdout.strip(), told
            told = re.sub(r"\d+", "N", f"{arguments[0]} {done.returncode}: {done.stderr.strip()[:100]}")
            self._campaign.counts[told.replace(node.name, "NODE")] += 1
        return done.returncode

    def start(self) -> None:
        self._give("start", "--wait-master", self._rng.choice(("0", "3")))

    def stop(self) -> None:
        self._give("stop", "--timeout", self._rng.choice(("1", "30")))

    def restart(self) -> None:
        self._give("restart")

    def reload(self) -> None:
        node = self._rng.choice(self._rig.nodes)
        path = node.root / "etc/cluster.json"
        if settings := _read(path):
            settings.setdefault("clusterd", {})["journal"] = {"days": self._rng.randrange(5, 40)}
            _write(path, json.dumps(settings))
        self._give("reload", node=node)

    def reload_with_mistakes(self) -> None:
        node = self._rng.choice(self._rig.nodes)
        path = node.root / "etc/cluster.json"
        good = path.read_text()
        if _read(path) is None:
            return
        bad = self._rng.choice(('{"intervals": ', '{"intervals": {"worker": {"sync_integrity": "x"}}}', "", "[]"))
        _write(path, bad)
        self._give(self._rng.choice(("reload", "restart", "check-config")), node=node)
        _write(path, good)

    def log_level(self) -> None:
        level = self._rng.choice(("debug2", "debug", "info", "default"))
        self._give("log-level", level, "--for", self._rng.choice(("1s", "10s")))

    def sync(self) -> None:
        self._give("sync", *self._rng.choice(((), ("--wait", "--timeout", "5"), ("--allow-delete",))))

    def show(self) -> None:
        self._give(*self._rng.choice(SHOWN))

    def forget(self) -> None:
        self._give("forget", self._rng.choice(self._rig.workers).name, node=self._rig.master)

    def backup(self) -> None:
        node = self._rng.choice(self._rig.nodes)
        target = node.root / f"tmp/backup{self._rng.randrange(10**9)}"
        target.parent.mkdir(exist_ok=True)
        self._give("store", "backup", str(target), node=node)

    def support(self) -> None:
        node = self._rng.choice(self._rig.nodes)
        target = node.root / f"tmp/support{self._rng.randrange(10**9)}.tar.gz"
        target.parent.mkdir(exist_ok=True)
        self._give("support", "--output", str(target), node=node)
        target.unlink(missing_ok=True)

    def user(self) -> None:
        self._give("api", "user", "list", node=self._rig.master)

    def interrupt(self) -> None:
        """Ctrl-C at any moment of an order."""
        node = self._rng.choice(self._rig.nodes)
        order = self._rng.choice((("restart",), ("stop",), ("start",), ("reload",), ("sync", "--wait"), ("doctor",)))
        rng = random.Random(self._rng.random())

        def ctrl_c(
            line: Sequence[str], out: IO[str], err: IO[str], environment: Mapping[str, str], timeout_s: float
        ) -> int:
            with subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True
            ) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(rng.uniform(0.05, 2))
                process.send_signal(signal.SIGINT)
                try:
                    return process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise

        rig = Rig.load(self._rig.directory)
        rig.run = ctrl_c
        done = rig.command(node, *order, timeout_s=COMMAND_S)
        told = f"{node.name}: Ctrl-C of {order} (exit {done.returncode})\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stdout + done.stderr, told
        codes = {*ExitCode, -signal.SIGINT} - {ExitCode.USAGE}  # the signal: before a line of ours has run
        assert done.returncode in codes, told


SHOWN: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--json"),
    ("check",),
    ("check-config",),
    ("check-config", "--connect"),
    ("doctor",),
    ("history",),
    ("history", "--json", "--since", "1m"),
    ("log", "-n", "5"),
    ("diff",),
    ("control", "nodes"),
    ("control", "agents"),
    ("control", "health"),
    ("ha", "status"),
    ("log-level",),
    ("version",),
)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "intervals" in found and "clusterd" in found else None


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{threading.get_ident()}")
    beside.write_text(text)
    beside.replace(path)


class Rest:
    """What must hold whenever the operators rest."""

    def __init__(self, rig: Rig, campaign: Campaign) -> None:
        self._rig = rig
        self._campaign = campaign
        self._good = {node.name: (node.root / "etc/cluster.json").read_text() for node in rig.nodes}
        self._read: dict[int, int] = {}

    def check(self) -> None:
        rig = self._rig
        for node in rig.nodes:
            _write(node.root / "etc/cluster.json", self._good[node.name])
            done = rig.command(node, "start", timeout_s=300)
            assert done.returncode in (0, ExitCode.ALREADY_RUNNING), f"{node.name}: {done.stderr}"
        for node in rig.nodes:
            done = rig.command(node, "reload", timeout_s=300)
            assert done.returncode == 0, f"{node.name}: {done.stderr}"
            rig.command(node, "log-level", "info", timeout_s=300)
        rig.command(rig.master, "sync", "--allow-delete", timeout_s=60)
        try:
            rig.wait_equal(REST_S, pause_s=0.3)
        except RigError as problem:
            raise AssertionError(f"{problem}") from None
        for node in rig.nodes:
            self._must_say_ok(node)
            self._must_be_clean(node)

    def _must_say_ok(self, node: RigNode) -> None:
        told: list[str] = []

        def is_ok() -> bool:
            done = self._rig.command(node, "status", timeout_s=60)
            told[:] = [done.stdout[:3000], done.stderr[:500]]
            return done.returncode == 0

        try:
            wait_until(is_ok, 90, f"{node.name} says OK")
        except Exception as failure:
            raise AssertionError(f"{node.name} does not say OK: {told}") from failure

    def _must_be_clean(self, node: RigNode) -> None:
        text = ""
        for path in sorted((node.root / "logs").glob("cluster.log*")):
            with path.open(errors="replace") as log:
                inode = os.fstat(log.fileno()).st_ino
                log.seek(self._read.get(inode, 0))
                text += log.read()
                self._read[inode] = log.tell()
        assert "Traceback" not in text, f"{node.name}: {text[text.index('Traceback') - 600 :][:3000]}"
        for line in text.splitlines():
            if " ERROR: " in line or " CRITICAL: " in line:
                self._campaign.counts["LOG " + re.sub(r"[0-9a-f]{8,}|\d+", "N", line[20:])[:150]] += 1


def test_operators_do_as_they_please(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    with running("operator", capsys) as campaign:
        program = (str(Path(sys.executable).with_name("clusterd")),)
        rig = make_rig(
            WORKERS, files=300, run=run_program, program=program, overrides={"clusterd": {"ha": {"replica": True}}}
        )
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        rest = Rest(rig, campaign)
        rest.check()
        while campaign.goes_on:
            operators = [Operator(rig, campaign, 2 * campaign.counts["rests"] + number) for number in range(2)]
            for operator in operators:
                operator.start()
            for operator in operators:
                operator.join()
            for operator in operators:
                if operator.failure:
                    raise operator.failure
            began = time.monotonic()
            rest.check()
            campaign.counts["rests"] += 1
            campaign.say(f"well {time.monotonic() - began:.1f} s after the last act")
        must_be_well(rig, campaign)

"""A stand-in for the `clusterd` command, made of the rig's own stock peers, so that the rig can be tested by itself.

It knows `init`, `start`, `stop` and `status --json`, and runs a supervisor that restarts one process, `net`. What a
node may not do comes as a word in ROOT/behave: `refuse-start`, `ignore-stop`, `lame` (a worker that never checks).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tools.rig.patience import Patience
from tools.rig.peer import StockMaster, StockWorker

LINE = (sys.executable, "-m", "tests.fakes.rig_node")


def behaviour(root: Path) -> str:
    path = root / "behave"
    return path.read_text() if path.exists() else ""


def init(root: Path, arguments: list[str]) -> int:
    if (root / "toy.json").exists():
        print("already there", file=sys.stderr)
        return 1
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    (root / "etc").mkdir(parents=True)
    (root / "toy.json").write_text(json.dumps(options | {"key": os.environ["CLUSTERD_KEY"]}))
    return 0


def start(root: Path) -> int:
    if behaviour(root) == "refuse-start":
        print("the port is taken; choose another", file=sys.stderr)
        return 1
    line = [*LINE, "--root", str(root), "supervise"]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True)
    patience = Patience(60)
    while not (root / "ready").exists():
        if patience.is_over() or process.poll() is not None:
            return 1
        time.sleep(0.02)
    process.returncode = 0
    return 0


def supervise(root: Path) -> int:
    def stop(*_: object) -> None:
        child.kill()  # not waited for: the handler runs inside child.wait(), which holds its lock
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour(root) == "ignore-stop" else stop)
    incarnation = 0
    while True:
        incarnation += 1
        child = subprocess.Popen([*LINE, "--root", str(root), "serve"])
        pids = {"supervisor": os.getpid(), "net": child.pid, "incarnation": incarnation}
        (root / "pids.new").write_text(json.dumps(pids))
        (root / "pids.new").replace(root / "pids")
        child.wait()


def serve(root: Path) -> int:
    options = json.loads((root / "toy.json").read_text())
    settings: dict[str, Any] = {}
    if (root / "etc/cluster.json").exists():
        settings = json.loads((root / "etc/cluster.json").read_text())["intervals"]
    if options["--type"] == "master":
        scan_s = settings["master"]["recalculate_integrity"] if settings else 8
        port = int(options["--port"])
        with StockMaster(root, options["key"], cluster=options["--cluster"], port=port, scan_interval_s=scan_s):
            (root / "ready").touch()
            signal.pause()
    host, port_text = options["--master"].split(":")
    interval_s = settings["worker"]["sync_integrity"] if settings else 9
    with StockWorker(
        (host, int(port_text)), options["key"], options["--name"], root, cluster=options["--cluster"]
    ) as worker:
        if behaviour(root) != "lame":
            worker.run(interval_s, retry_s=interval_s)
        (root / "ready").touch()
        signal.pause()
    return 0


def stop(root: Path, timeout_s: float) -> int:
    try:
        supervisor = psutil.Process(json.loads((root / "pids").read_text())["supervisor"])
        supervisor.terminate()
        supervisor.wait(timeout_s)
    except (FileNotFoundError, psutil.NoSuchProcess):
        print("not running", file=sys.stderr)
        return 1
    except psutil.TimeoutExpired:
        print("still running", file=sys.stderr)
        return 1
    return 0


def status(root: Path) -> int:
    pids = json.loads((root / "pids").read_text())
    processes = [
        {
            "name": name,
            "pid": pids[name] if psutil.pid_exists(pids[name]) else None,
            "incarnation": pids["incarnation"] if name == "net" else 1,
            "state": "ready",
            "cpu_percent": 0.0,
            "uss_bytes": 10_000_000,
            "restarts": pids["incarnation"] - 1 if name == "net" else 0,
        }
        for name in ("supervisor", "net")
    ]
    print(json.dumps({"running": True, "processes": processes}))
    return 0


def main(arguments: list[str]) -> int:
    root, command, rest = Path(arguments[1]), arguments[2], arguments[3:]
    if command == "stop":
        return stop(root, float(rest[1]))
    if command == "init":
        return init(root, rest)
    return {"start": start, "supervise": supervise, "serve": serve, "status": status}[command](root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

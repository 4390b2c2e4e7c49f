"""A stand-in for the `clusterd` command, made of the rig's own stock peers, so that the rig can be tested by itself.

It knows `init`, `start`, `stop` and `status --json`, and runs a supervisor that restarts one process, `net`. What a
node may not do comes as a word in ROOT/behave: `refuse-start`, `ignore-stop`, `lame` (a worker that never checks).

Each command is a program that a test waits for, so each loads only what it needs; supervisor and net are forks.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tools.rig.patience import Patience

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
    supervisor = forked(lambda: supervise(root))
    patience = Patience(60)
    while not (root / "ready").exists():
        if patience.is_over() or os.waitpid(supervisor, os.WNOHANG)[0]:
            return 1
        patience.rest(0.02)
    return 0


def forked(do: Callable[[], object]) -> int:
    """Returns the pid of a process that does this and ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        do()
    finally:
        os._exit(1)


def supervise(root: Path) -> NoReturn:
    net = 0

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(net, signal.SIGKILL)
        os._exit(0)

    os.setsid()

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour(root) == "ignore-stop" else stop)
    incarnation = 0
    while True:
        incarnation += 1
        net = forked(lambda: serve(root))
        pids = {"supervisor": os.getpid(), "net": net, "incarnation": incarnation}
        (root / "pids.new").write_text(json.dumps(pids))
        (root / "pids.new").replace(root / "pids")
        os.waitpid(net, 0)


def serve(root: Path) -> int:
    from tools.rig.peer import StockMaster, StockWorker

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
    import psutil

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
            "pid": pids[name] if Path(f"/proc/{pids[name]}").exists() else None,
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
    return {"start": start, "status": status}[command](root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

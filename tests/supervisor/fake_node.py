"""A node whose children do nothing but live: `python -m tests.supervisor.fake_node ROOT [OPTION=VALUE ...]` in the
foreground; with a further word `run`, `hang`, `linger` or `die` in the background, which prints the StartResult.

With a file ROOT/behave-api there is a child `api`, which does the same in every role. Each child appends what happens
to it to ROOT/story: `up NAME INCARNATION`, `term NAME`, `hup NAME`. How it behaves is in ROOT/behave-NAME, read at
each birth:

    (no file)        ready at once, ends on SIGTERM
    exit N           ends with code N before it is ready
    refuse TEXT      writes TEXT as the reason and ends with COULD_NOT_START
    crash            raises an exception before it is ready
    mutter TEXT      writes TEXT to stderr, as a C library does, and is ready
    deaf             is ready, ignores SIGTERM
    mute             is ready, then never stamps again and turns in a loop
    late             never says that it is ready
    deposed N        is ready, and says that another node leads in term N, which the disk does not know
    starved          is ready, then computes on CPU 0 only when nobody else wants it, without a heartbeat while it waits
    starved-birth    the same, and is ready only when it has computed for a while
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from clusterd.exits import ExitCode
from clusterd.rundir import reason_path
from clusterd.settings import ClusterBlock, Clusterd, JournalSettings, MonitorSettings, Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.supervisor.child import ChildSpec
from clusterd.supervisor.daemon import start_daemon
from clusterd.supervisor.family import Timing
from clusterd.supervisor.plan import NodeResources
from clusterd.supervisor.run import supervise
from clusterd.supervisor.starter import Starter, StartResult

NAMES = ("net", "sync", "pool-1", "pool-2")
STAGES = {"net": 1, "sync": 2, "pool-1": 3, "pool-2": 3}


def fake_plan(node: NodeResources) -> list[ChildSpec]:
    api = [ChildSpec("api", _main(node, "api"), stage=0, stop_s=0.5, any_role=True)]
    return (api if (Path(node.settings.root) / "behave-api").exists() else []) + [
        ChildSpec(name, _main(node, name), stage=STAGES[name], stop_s=0.5) for name in NAMES
    ]


def _main(node: NodeResources, name: str) -> Callable[[], int]:
    return lambda: live(node, name)


def live(node: NodeResources, name: str) -> int:
    root = Path(node.settings.root)
    row = node.board.row(name)

    def tell(text: str) -> None:
        with open(root / "story", "a") as story:
            story.write(text + "\n")

    def term(number: int, frame: FrameType | None) -> None:
        tell(f"term {name}")
        if behaviour != "deaf":
            raise SystemExit(0)

    def hup(number: int, frame: FrameType | None) -> None:
        tell(f"{'hup' if number == signal.SIGHUP else 'role'} {name}")

    file = root / f"behave-{name}"
    behaviour, _, rest = (file.read_text() if file.exists() else "").partition(" ")
    tell(f"up {name} {row.snapshot().incarnation}")
    if behaviour == "exit":
        return int(rest)
    if behaviour == "refuse":
        Path(reason_path(str(root))).write_text(rest)
        return ExitCode.COULD_NOT_START
    if behaviour == "crash":
        raise RuntimeError("a bug of the fake")
    signal.signal(signal.SIGTERM, term)
    for number in (signal.SIGHUP, ROLE_WRITTEN):
        signal.signal(number, hup)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP, ROLE_WRITTEN})
    if behaviour == "mutter":
        os.write(2, f"{rest}\n".encode())
    if behaviour == "deposed":
        node.board.depose(int(rest))
        os.kill(os.getppid(), ROLE_WRITTEN)
    if behaviour == "starved-birth":
        compute_last()
        compute(0.1)
    if behaviour != "late":
        row.set_ready()
    if behaviour == "starved":
        compute_last()
    while behaviour == "mute":
        os.getpid()
    while True:
        row.stamp()
        if behaviour == "starved":
            compute(0.1)
        time.sleep(0.02)


def compute_last() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for _ in range(50):
        # Where the kernel shares the CPU between sessions. At most ten times a second in the whole system.
        try:
            Path("/proc/self/autogroup").write_text("19")
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return
        else:
            return


def compute(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        os.getpid()


def settings(root: str) -> Settings:
    own = Clusterd(owner="root", journal=JournalSettings(enabled=False), monitor=MonitorSettings(enabled=False))
    return Settings(root, cluster=ClusterBlock(node_name="fake", disabled=False), clusterd=own)


def run(
    given: Settings,
    *,
    stuck_after_s: float = 30.0,
    stuck_busy_after_s: float = 60.0,
    start_s: float = 20.0,
    **more: object,
) -> int:
    pace = Timing(start_s, stuck_after_s, stuck_busy_after_s, dump_s=1.0, tick_s=0.1, asleep_s=0.7)
    return supervise(given, make_plan=fake_plan, pace=pace, **more)  # type: ignore[arg-type]


def hang(given: Settings, **more: object) -> int:
    """A supervisor that never answers the process that started it."""
    while True:
        signal.pause()


def linger(given: Settings, *, ready_fd: int, **more: object) -> int:
    """A supervisor that takes a while to end after it has told why it does not serve."""
    code = Starter(ready_fd, foreground=False).tell(StartResult(False, "not today", 0, int(ExitCode.COULD_NOT_START)))
    time.sleep(0.5)
    return code


def die(given: Settings, **more: object) -> int:
    """A supervisor that ends without a message."""
    return 1


if __name__ == "__main__":
    options = {name: float(value) for name, _, value in (word.partition("=") for word in sys.argv[2:]) if value}
    how = {"run": run, "hang": hang, "linger": linger, "die": die}
    for word in sys.argv[2:]:
        if word in how:
            timeout_s, leave_late = options.get("timeout_s", 30.0), bool(options.get("leave_late"))
            result = start_daemon(settings(sys.argv[1]), timeout_s=timeout_s, leave_late=leave_late, run=how[word])
            print(msgspec.json.encode(result).decode())
            sys.exit(result.code)
    sys.exit(run(settings(sys.argv[1]), foreground=True, **options))

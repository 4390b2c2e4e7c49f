"""`stop` returns when nothing of the node is left."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.supervisor.helpers import until
from tools.outcome import Outcome
from tools.stopping import stop

SLOW_TO_END = """
import signal, sys
from clusterd.pidfile import claim
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
pid_file, _ = claim(sys.argv[1])
print("up", flush=True)
signal.sigwait({signal.SIGTERM})
pid_file.remove()
signal.sigwait({signal.SIGUSR1})
"""


def test_stop_waits_for_a_process_that_has_removed_its_pid_file_and_still_ends(tmp_path: Path) -> None:
    (tmp_path / "var/run").mkdir(parents=True)
    outcomes: list[Outcome] = []
    with subprocess.Popen([sys.executable, "-c", SLOW_TO_END, str(tmp_path)], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline() == b"up\n"
            stopping = threading.Thread(target=lambda: outcomes.append(stop(str(tmp_path), timeout_s=60)))
            stopping.start()
            until(lambda: not [*(tmp_path / "var/run").glob("*.pid")], "the pid file is removed")
            stopping.join(0.3)
            assert stopping.is_alive()
            node.send_signal(signal.SIGUSR1)
            stopping.join(60)
        finally:
            node.kill()
    assert [(outcome.ok, outcome.lines) for outcome in outcomes] == [(True, ["clusterd has stopped."])]

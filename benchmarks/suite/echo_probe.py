"""Asks a master for `echo-c` every few ms over a connection of its own, until its input ends; then prints when and how
long.

A process of its own with real-time priority where that is permitted: it stands for a node on another machine, and must
not wait for one of the cores that all nodes share. Arguments: host, port, cluster name, pause in ms; the key in
CLUSTERD_KEY. Output: `ready`, then JSON: [[monotonic seconds, seconds taken], ...].
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.echo_client import dial
from benchmarks.suite.processes import cpu_s
from tools.rig.peer_frames import HEADER, build_frames

DIAL_TIMEOUT_S = 30.0
PAUSE_MS = 2
MEASURE_S = 0.5


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie; `values` sorted and not empty."""
    return values[min(len(values) - 1, int(len(values) * share))]


@dataclass
class Echoes:
    """What a probe has found."""

    times: list[tuple[float, float]] = field(default_factory=list)

    def figures(self, since: float, until: float) -> dict[str, float]:
        """p50, p99 and max in ms of the echoes asked between two moments; nothing for fewer than ten."""
        taken = sorted(seconds * 1000 for at, seconds in self.times if since <= at <= until)
        if len(taken) < 10:
            return {}
        return {
            "echo_p50_ms": percentile(taken, 0.5),
            "echo_p99_ms": percentile(taken, 0.99),
            "echo_max_ms": taken[-1],
        }


@contextlib.contextmanager
def echoes(host: str, port: int, cluster: str, key: str, pause_ms: float = PAUSE_MS) -> Iterator[Echoes]:
    """Runs a probe during the block; its result exists afterwards."""
    line = [sys.executable, "-m", "benchmarks.suite.echo_probe", host, str(port), cluster, str(pause_ms)]
    found = Echoes()
    environment = os.environ | {"CLUSTERD_KEY": key}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise ConnectionError("the echo probe could not join")
            yield found
            said, _ = process.communicate("", timeout=30)
            if process.returncode:
                raise ConnectionError("the echo probe failed; its reason is above")
            found.times += [(at, seconds) for at, seconds in json.loads(said)]
        finally:
            process.kill()


def cpu_of_one(pids: list[int], host: str, port: int, cluster: str, key: str) -> float:
    """CPU seconds that an echo costs these processes, while they have nothing else to do."""
    before = cpu_s(pids)
    time.sleep(MEASURE_S)
    at_rest = (cpu_s(pids) - before) / MEASURE_S
    with echoes(host, port, cluster, key) as found:
        began, before = time.monotonic(), cpu_s(pids)
        time.sleep(MEASURE_S)
        used, taken = cpu_s(pids) - before, time.monotonic() - began
    asked = sum(1 for at, _ in found.times if began <= at <= began + taken)
    return max(0.0, used - at_rest * taken) / max(1, asked)


def _dial(host: str, port: int, cluster: str) -> tuple[socket.socket, bytes]:
    deadline = time.monotonic() + DIAL_TIMEOUT_S
    while True:
        try:
            return dial(host, port, cluster)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _ask(sock: socket.socket, frame: bytes, incoming: bytearray) -> None:
    """One echo and its answer. What the master asks meanwhile (agent-groups) is refused. Raises ConnectionError."""
    sock.sendall(frame)
    while True:
        while len(incoming) < HEADER.size or len(incoming) < HEADER.size + HEADER.unpack_from(incoming)[1]:
            piece = sock.recv(65536)
            if not piece:
                raise ConnectionError("the master closed the connection")
            incoming += piece
        counter, length, text = HEADER.unpack_from(incoming)
        del incoming[: HEADER.size + length]
        if text.startswith(b"ok-m "):
            return
        if not text.startswith((b"ok ", b"err ")):
            (refusal,) = build_frames(b"err", counter, b"unknown command", os.environ["CLUSTERD_KEY"])
            sock.sendall(refusal)


def main(host: str, port: str, cluster: str, pause_ms: str) -> int:
    with contextlib.suppress(PermissionError):  # needs root; without it the times hold some waits of our own
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    sock, frame = _dial(host, int(port), cluster)
    times: list[tuple[float, float]] = []
    incoming = bytearray()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], float(pause_ms) / 1000)[0]:
        began = time.monotonic()
        _ask(sock, frame, incoming)
        times.append((began, time.monotonic() - began))
    print(json.dumps(times))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

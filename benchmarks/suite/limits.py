"""The limits of the machine, measured in the same run as everything else."""

import hashlib
import os
import random
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lz4.frame
import zmq
from cryptography.fernet import Fernet

MIB = 1 << 20
CHUNK = 5 * MIB


def best_of(count: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of `count` calls."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _blake2b_mb(size: int) -> float:
    data = random.Random(1).randbytes(size)
    return size / best_of(5, lambda: hashlib.blake2b(data).digest()) / 1e6


def measure(tree: Path) -> dict[str, float]:
    """Figures by name with unit. `tree`: some files to stat."""
    cores = os.cpu_count() or 1
    data = random.Random(1).randbytes(CHUNK)
    text = b" ".join(f"word{n % 977} {n}".encode() for n in range(600_000))[:CHUNK]
    sealer = Fernet(Fernet.generate_key())
    token = sealer.encrypt(data)
    target = bytearray(CHUNK)
    paths = [os.path.join(directory, name) for directory, _, names in os.walk(tree) for name in names][:5000]
    with ProcessPoolExecutor(cores) as pool:
        together = sum(pool.map(_blake2b_mb, [64 * MIB] * cores))

    def copy() -> None:
        memoryview(target)[:] = data

    return {
        "blake2b_mb_s": _blake2b_mb(64 * MIB),
        "blake2b_all_cores_mb_s": together,
        "stat_us": best_of(3, lambda: [os.stat(path) for path in paths]) / max(1, len(paths)) * 1e6,
        "zlib1_mb_s": len(text) / best_of(3, lambda: zlib.compress(text, 1)) / 1e6,
        "lz4_mb_s": len(text) / best_of(3, lambda: lz4.frame.compress(text)) / 1e6,
        "fernet_seal_5mib_ms": best_of(3, lambda: sealer.encrypt(data)) * 1000,
        "fernet_open_5mib_ms": best_of(3, lambda: sealer.decrypt(token)) * 1000,
        "memcpy_gb_s": CHUNK / best_of(9, copy) / 1e9,
        "zmq_ipc_round_trip_us": _zmq_round_trip_us(),
    }


def _zmq_round_trip_us(rounds: int = 2000) -> float:
    """Bare sockets, no encoding, both ends in this process."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as other:
        address = f"ipc://@clusterd-bench-{os.getpid()}"
        one.bind(address)
        other.connect(address)

        def answer() -> None:
            for _ in range(rounds):
                other.send(other.recv())

        thread = threading.Thread(target=answer)
        thread.start()
        began = time.perf_counter()
        for _ in range(rounds):
            one.send(b"x" * 64)
            one.recv()
        taken = time.perf_counter() - began
        thread.join()
    return taken / rounds * 1e6

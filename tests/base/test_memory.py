"""How much memory processes keep after they have freed it."""

import subprocess
import sys

import pytest

PROGRAM = """
import hashlib
from concurrent.futures import ThreadPoolExecutor
from clusterd.memory import bound_heaps

def anonymous_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

bound_heaps()
before = anonymous_kb()
with ThreadPoolExecutor(1) as threads:
    for _ in range(3):
        threads.submit(hashlib.scrypt, b"x", salt=b"y" * 16, n=1 << 14, r=8, p=1, maxmem=64 << 20).result()
    print(anonymous_kb() - before)
"""


@pytest.mark.slow
def test_the_memory_of_a_password_s_hash_is_not_kept() -> None:
    """Each hash takes 16 MiB, in a thread. A process that had made two once kept both blocks for good."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 8 << 10

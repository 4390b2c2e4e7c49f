"""Functions that misbehave. The real framework has no such module."""

import ctypes
import os
import subprocess
import time

from wazuh.core import common
from wazuh.core.common import exposed
from wazuh.core.results import AffectedItemsWazuhResult, WazuhResult

leaked = []


@exposed
def sleep(seconds, text=""):
    common.count(f"slept-{text}")
    time.sleep(seconds)
    return {"slept": seconds}


@exposed
def sleep_first(seconds, text):
    """A second request gets an answer at once."""
    calls = common.ROOT / "framework" / "calls"
    has_slept = calls.exists() and f"slept-{text} " in calls.read_text()
    common.count(f"slept-{text}")
    if not has_slept:
        time.sleep(seconds)
    return {"slept": seconds}


@exposed
def compute_for_ever():
    common.count("computing")
    while True:
        pass


@exposed
async def block_the_loop(seconds):
    common.count("blocking")
    time.sleep(seconds)  # noqa: ASYNC251
    return {"blocked": seconds}


@exposed
def say(lines, text="noise"):
    for number in range(lines):
        print(text, number)
    subprocess.run(["echo", text, "of a program"], check=True)
    os.write(2, b"an Error without an end")
    return {"said": lines}


@exposed
def fork(text):
    """Both processes go on from here, as after a mistake."""
    common.count(f"forks-{text}")
    pid = os.fork()
    common.count(f"forked-{text}-{'child' if pid == 0 else 'parent'}")
    return {"pid": pid}


@exposed
def fork_and_stay():
    pid = os.fork()
    if pid == 0:
        time.sleep(3600)
        os._exit(0)
    return {"pid": pid}


@exposed
def leak(megabytes):
    leaked.append(b"x" * (megabytes << 20))
    return {"leaked": sum(len(block) for block in leaked)}


@exposed
def large(megabytes):
    """Many small objects, like a list of agents."""
    item = {"id": "001", "name": "x" * 900, "group": ["default", "web"], "status": "active"}
    return AffectedItemsWazuhResult([item] * (megabytes * 1024))


@exposed
def long_text(megabytes):
    return WazuhResult({"message": "x" * (megabytes << 20)})


@exposed
def odd(kind):
    class OddError(Exception):
        def __str__(self):
            raise RuntimeError("no text either")

    if kind == "exit":
        raise SystemExit(5)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "text":
        raise OddError
    if kind == "value":
        return WazuhResult({"value": object()})
    if kind == "circle":
        circle = []
        circle.append(circle)
        return WazuhResult({"circle": circle})
    if kind == "deep":
        deep = []
        for _ in range(10_000):
            deep = [deep]
        return WazuhResult({"deep": deep})
    return None


@exposed
async def odd_async():
    raise SystemExit(5)


@exposed
def die(text="", signal=9):
    common.count(f"died-{text}")
    if signal == 11:
        ctypes.string_at(0)
    os.kill(os.getpid(), signal)
    time.sleep(60)


def hidden():
    """Never marked."""
    return {"hidden": True}


@exposed
def echo(**arguments):
    return WazuhResult({"types": {key: type(value).__name__ for key, value in arguments.items()}})

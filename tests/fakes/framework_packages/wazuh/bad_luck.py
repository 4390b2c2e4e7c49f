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
def page(agents):
    """What a list of agents is: objects of about 600 bytes with short fields (dapi.md 6)."""
    system = {"arch": "x86_64", "codename": "Jammy Jellyfish", "major": "22", "minor": "04", "name": "Ubuntu"}
    common_fields = {
        "os": {**system, "platform": "ubuntu", "uname": "Linux |web01 |5.15.0", "version": "22.04.3 LTS"},
        "registerIP": "any",
        "status": "active",
        "version": "Wazuh v4.14.1",
        "manager": "wazuh-worker1",
        "node_name": "worker1",
        "mergedSum": "4a8724b20dee0124ff9656783c490c4e",
        "configSum": "ab73af41699f13fdd81903b5f23d8d00",
        "dateAdd": "2025-10-02T08:11:40+00:00",
        "lastKeepAlive": "2025-11-23T10:15:00+00:00",
        "group_config_status": "synced",
        "status_code": 0,
    }
    numbers = range(1, agents + 1)
    return AffectedItemsWazuhResult(
        [
            {"id": f"{n:03}", "name": f"web{n}", "ip": f"10.0.10.{n}", "group": ["default", "web"], **common_fields}
            for n in numbers
        ]
    )


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

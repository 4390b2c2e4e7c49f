"""What a replica costs: `python -m benchmarks.replica [AGENTS [SECONDS]]`, and `... stores [AGENTS]`: the two stores'
parts alone, CPU time only, so that it can be measured beside other load.

A master and a worker, whole nodes. The master's database is filled before it starts. First without replicas, then with:
1 % of the agents send a keepalive every 10 s, and the CPU of all processes of each node is counted, from the second
minute on: a node that has just met 100,000 agents does things that it does once. How long a full copy takes is in the
candidate's own log lines.
"""

import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from clusterd.rundir import REPLICA_FILE
from clusterd.store import change_log, schema
from clusterd.store.replica_copy import ReplicaCopy
from clusterd.store.replica_source import PACE_S, ReplicaSource
from tools.rig.guard import end_in_order, guarded
from tools.rig.nodes import Rig, RigNode
from tools.rig.wdb_client import WdbClient

LOG = "logs/cluster.log"


def fill(root: Path, agents: int) -> None:
    """Rows like those of a real fleet: many values are equal, keys and addresses are not."""
    schema.prepare(str(root), "filled", "4.14.1")
    db = schema.connect(str(root))
    db.execute("begin")
    db.execute("insert into \"group\" (name) values ('default')")
    names = (
        "id, name, ip, register_ip, internal_key, os_name, os_version, os_major, os_minor, os_codename, os_platform,"
        " os_uname, os_arch, version, config_sum, merged_sum, manager_host, node_name, date_add, last_keepalive,"
        ' "group", group_hash, connection_status'
    )
    system = (
        ("Ubuntu", "22.04.3 LTS (Jammy)", "22", "04", "Jammy", "ubuntu")
        + ("Linux |web |5.15.0-91-generic |#101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023 |x86_64", "x86_64")
        + ("Wazuh v4.14.1", "ab73af41699f13fdd81903b5f23d8d00")
    )
    for one in range(1, agents + 1):
        address = f"10.{one >> 16 & 255}.{one >> 8 & 255}.{one & 255}"
        row = (one, f"agent-{one:06d}", address, "any", os.urandom(32).hex(), *system, f"{one % 20:032x}")
        row += ("manager", "node01", 1_700_000_000, 1_700_000_000, "default", "37a8eec1", "active")
        db.execute(f"insert into agent ({names}) values ({', '.join('?' * len(row))})", row)
    db.execute("insert into belongs select id, 1, 0 from agent where id > 0")
    db.execute("insert into labels select id, 'site', 'berlin' from agent where id % 10 = 1")
    db.execute("insert into clusterd_seen select 'key', cast(id as text) from agent where id > 0")
    db.execute("commit")
    db.close()
    (root / "etc/client.keys").write_text(
        "".join(f"{one:03d} agent-{one:06d} any {'k' * 64}\n" for one in range(1, agents + 1))
    )


def set_replica(node: RigNode, wanted: bool) -> None:
    path = node.root / "etc/cluster.json"
    settings = json.loads(path.read_text())
    settings["clusterd"]["ha"] = {"replica": wanted}
    path.write_text(json.dumps(settings))


def cpu_s(rig: Rig, node: RigNode) -> dict[str, float]:
    found = {}
    for name, pid in rig.processes(node.name).items():
        if pid is not None:
            times = psutil.Process(pid).cpu_times()
            found[name] = times.user + times.system
    return found


def loaded(rig: Rig, agents: int, seconds: float) -> dict[str, float]:
    """Returns the CPU of each node as a share of a core, in per cent, while 1 % of the agents change every 10 s."""
    before = {node.name: cpu_s(rig, node) for node in rig.nodes}
    began, sent = time.monotonic(), 0
    rate = agents / 100 / 10
    with WdbClient(rig.master.root) as client:
        while (spent := time.monotonic() - began) < seconds:
            while sent < spent * rate:
                sent += 1
                one = sent * 97 % agents + 1
                client.command(
                    f'global update-keepalive {{"id":{one},"connection_status":"active","sync_status":"synced"}}'
                )
            time.sleep(0.05)
    shares = {}
    for node in rig.nodes:
        after = cpu_s(rig, node)
        for name, used in after.items():
            shares[f"{node.kind} {name}"] = 100 * (used - before[node.name].get(name, 0)) / spent
        shares[node.kind] = sum(value for key, value in shares.items() if key.startswith(f"{node.kind} "))
    return shares


def compared(rig: Rig, node: RigNode) -> bool:
    """Returns whether the first comparison, which reads everything, is over."""
    ha = rig.status(node.name)[node.name].get("ha")
    return bool(ha) and ha.get("digest_equal") is not None


def wait_line(node: RigNode, text: str) -> float:
    """Returns the seconds until the node's log has the line."""
    began = time.monotonic()
    while text not in (node.root / LOG).read_text():
        if time.monotonic() - began > 300:
            raise SystemExit(f"not in 300 s: {text}")
        time.sleep(0.02)
    return time.monotonic() - began


def main(agents: int = 100_000, seconds: float = 90.0) -> None:
    """Prints the figures; a run takes about eight minutes."""
    with guarded("replica-bench-") as base:
        rig = Rig.create(base / "rig", 1)
        try:
            fill(rig.master.root, agents)
            shares = {}
            for wanted in (False, True):
                for node in rig.nodes:
                    set_replica(node, wanted)
                rig.start()
                if wanted:
                    wait_line(rig.workers[0], "A full copy of the master")
                    took = wait_line(rig.workers[0], "The replica is whole")
                    print(f"full copy of {agents} agents: {took:.1f} s")
                    while not compared(rig, rig.workers[0]):
                        time.sleep(1)
                time.sleep(10)
                print(f"load of the machine: {os.getloadavg()[0]:.1f}")
                loaded(rig, agents, seconds)
                shares[wanted] = loaded(rig, agents, seconds)
                rig.stop()
            for key, value in shares[True].items():
                before = shares[False].get(key, 0)
                if value > 0.05 or before > 0.05:
                    print(f"{key:16} off {before:5.2f} %  on {value:5.2f} %  more {value - before:5.2f} %")
        finally:
            rig.down()


CHANGE = "update agent set last_keepalive = last_keepalive + 1 where id = ?"


async def stores(agents: int = 100_000, rounds: int = 30) -> None:
    """1 % of the agents change every 10 s, so a fifth of them between two answers."""
    with tempfile.TemporaryDirectory(prefix="replica-bench-") as base:
        roots = [Path(base, name) for name in ("m", "w", "n")]
        for root in roots:
            (root / "queue/db").mkdir(parents=True)
            (root / "etc").mkdir()
        fill(roots[0], agents)
        db = schema.connect(str(roots[0]))

        def change() -> float:
            began = time.process_time()
            chosen = [(random.randint(1, agents),) for _ in range(int(agents / 100 / 10 * PACE_S))]
            db.execute("begin")
            db.executemany(CHANGE, chosen)
            db.execute("commit")
            return time.process_time() - began

        plain = sum(change() for _ in range(rounds))
        schema.prepare(str(roots[0]), "filled", "4.14.1", log=True)
        source = ReplicaSource(str(roots[0]), synchronous=False, limit_s=1, say=lambda *_: None, pace_s=0)
        copy = ReplicaCopy(str(roots[1]), say=lambda *_: None)
        spent = dict.fromkeys(("triggers", "source", "copy"), 0.0)

        async def step(asked: Any) -> tuple[Any, Any]:
            began = time.process_time()
            changes = await source.tell("w", asked)
            told = time.process_time()
            following = await copy.apply(changes)
            spent["source"] += told - began
            spent["copy"] += time.process_time() - told
            return changes, following

        ask, began = await copy.first(), time.process_time()
        while True:
            changes, ask = await step(ask)
            if changes.behind == 0 and not changes.digest:
                print(f"full copy of {agents} agents: {time.process_time() - began:.1f} s of CPU, both sides")
            if changes.digest:
                break
        spent = dict.fromkeys(spent, 0.0)
        spent["triggers"] = -plain
        for _ in range(rounds):
            spent["triggers"] += change()
            _, ask = await step(ask)
        for name, seconds in spent.items():
            print(f"{name:10} {100 * seconds / (rounds * PACE_S):5.2f} % of a core")
        spent = dict.fromkeys(spent, 0.0)
        copy._compare_at = 0.0
        await step(copy._ask())
        for name in ("source", "copy"):
            print(f"digest, {name:6} {100 * spent[name] / 60:5.2f} % of a core")
        assert change_log.is_on(db)
        # Another candidate has this, and leads soon; ours is some changes further.
        shutil.copytree(roots[1], roots[2], dirs_exist_ok=True)
        for _ in range(10):
            change()
        while ask.held != change_log.head(db):
            _, ask = await step(ask)
        source.close()
        db.close()
        await takeover(roots[2], copy, step_s=10 * PACE_S)
        copy.close()


async def takeover(root: Path, copy: ReplicaCopy, *, step_s: float) -> None:
    """The replica at `root` becomes a master's database, and `copy`, which is so many seconds further, goes on with
    it."""
    schema.BOOT_ID = str(root / "boot")  # another machine: moments are carried over
    Path(schema.BOOT_ID).write_text("another\n")
    began = time.process_time()
    (root / REPLICA_FILE).rename(root / schema.DATABASE)
    schema.prepare(str(root), "taken", "4.14.1", log=True)
    opened = time.process_time()
    source = ReplicaSource(str(root), synchronous=False, limit_s=1, say=lambda *_: None, pace_s=0)
    ask, asked, spent = await copy.first(), time.perf_counter(), time.process_time()
    answers = 0
    while not ask.held or answers == 0:
        changes = await source.tell("w", ask)
        ask = await copy.apply(changes)
        answers += 1
    print(
        f"takeover: {opened - began:.2f} s of CPU until the log is there; a candidate that is {step_s:g} s of changes "
        f"further confirms after {answers} answers, {time.perf_counter() - asked:.2f} s, of which CPU "
        f"{time.process_time() - spent:.2f} s"
    )
    source.close()


if __name__ == "__main__":
    end_in_order()
    if sys.argv[1:2] == ["stores"]:
        asyncio.run(stores(*(int(text) for text in sys.argv[2:3])))
    else:
        main(*(int(text) for text in sys.argv[1:3]))

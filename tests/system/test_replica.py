"""A master, a candidate and a plain worker: whichever process is killed, the candidate has what the master knows, and a
registration that was answered is on its disk."""

import json
import os
import signal
import sqlite3
from typing import Any

import pytest

from clusterd.rundir import REPLICA_DIR, REPLICA_FILE
from clusterd.store import schema
from tests.conftest import MakeRig
from tests.store.change_pair import rows
from tests.system.test_agents import QUICK, assign, make_group, report
from tests.system.test_agents import rows as sql
from tests.warm import read_ha, without_figures
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbError, authd

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0


def candidate_and_plain(make_rig: MakeRig) -> Rig:
    """A master without agents, a candidate and a worker that keeps no replica; not started."""
    made = make_rig(2, overrides=QUICK | {"clusterd": {"ha": {"replica": True, "synchronous_timeout": 60}}})
    (made.master.root / "etc/client.keys").write_text("")
    plain = made.workers[1].root / "etc/cluster.json"
    settings = json.loads(plain.read_text())
    del settings["clusterd"]["ha"]
    plain.write_text(json.dumps(settings))
    return made


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    made = candidate_and_plain(make_rig)
    made.start()
    return made


def content(node: RigNode, name: str) -> dict[str, list[Any]] | None:
    """Returns the rows of a database file; None while there is none."""
    if not (node.root / name).exists():
        return None
    db = schema.connect(str(node.root), readonly=True, name=name)
    try:
        db.execute("begin")
        return rows(db)
    except sqlite3.OperationalError:
        return None
    finally:
        db.close()


def is_equal(rig: Rig) -> bool:
    there = content(rig.workers[0], REPLICA_FILE)
    return there is not None and there == content(rig.master, schema.DATABASE)


def ha(rig: Rig, node: RigNode) -> Any:
    return read_ha(node.root)


def confirms(rig: Rig) -> bool:
    found = ha(rig, rig.master)
    return bool(found) and found.get("registrations") == "synchronous"


def register(node: RigNode, name: str) -> int:
    answer = authd(node.root, {"function": "add", "arguments": {"name": name, "ip": "any"}}, 90.0)
    assert answer["error"] == 0, answer
    return int(answer["data"]["id"])


def ids(node: RigNode) -> set[int]:
    found = content(node, REPLICA_FILE)
    assert found is not None
    return {row[0] for row in found["agent"]}


def test_candidate_holds_what_the_master_knows_whichever_process_is_killed(rig: Rig) -> None:
    master, candidate, plain = rig.master, *rig.workers
    wait_until(lambda: confirms(rig), PATIENCE_S, "a candidate")
    made = [register(node, f"first{number}") for number, node in enumerate((master, candidate, plain))]
    assert set(made) <= ids(candidate), "answered, so a candidate has them"
    make_group(rig, "kept")
    assign(master, made[:2], ["default", "kept"])
    of_agent = f"select version from agent where id = {made[0]}"
    wait_until(lambda: bool(sql(plain, of_agent)), PATIENCE_S, "the agent on the worker")
    report(plain, made[0], "1.2.3")
    wait_until(lambda: sql(master, of_agent) == [{"version": "1.2.3"}], PATIENCE_S, "the report on the master")
    removed = {"function": "remove", "arguments": {"id": f"{made[2]:03d}", "purge": True}}
    assert authd(candidate.root, removed, 90.0)["error"] == 0
    assert made[2] not in ids(candidate)
    wait_until(lambda: is_equal(rig), PATIENCE_S, "an equal replica")
    found = content(candidate, REPLICA_FILE)
    assert found is not None
    assert b"1.2.3" in {value for row in found["agent"] for value in row}
    for number, (node, process) in enumerate(
        [(candidate, "store"), (candidate, "sync"), (master, "sync"), (master, "store"), (candidate, "net")]
    ):
        pid = rig.processes(node.name)[process]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda n=node, p=process, old=pid: rig.processes(n.name)[p] not in (None, old), PATIENCE_S, process)
        wait_until(lambda number=number: _registered(master, f"after{number}"), PATIENCE_S, "a registration")
        wait_until(lambda: is_equal(rig), PATIENCE_S, f"an equal replica after {process}")
    wait_until(lambda: confirms(rig), PATIENCE_S, "the candidate again")
    wait_until(lambda: ha(rig, candidate)["digest_equal"] is True, PATIENCE_S, "equal digests")
    shown = ha(rig, candidate)
    printed = json.loads(rig.command(candidate, "ha", "status", "--json", timeout_s=60).stdout)
    assert without_figures(printed) == without_figures(shown)
    assert (shown["state"], shown["may_not_lead"]) == ("following", None)
    assert shown["greatest_id"] >= made[2] + 5
    assert rig.command(master, "ha", "status", timeout_s=60).returncode == 0
    # The plain worker has none of it, and no key is in a log.
    assert ha(rig, plain) is None
    assert not (plain.root / REPLICA_DIR).exists()
    keys = [line.split()[3] for line in (master.root / "etc/client.keys").read_text().splitlines()]
    logs = "".join((node.root / "logs/cluster.log").read_text() for node in rig.nodes)
    assert keys
    assert not any(key in logs for key in keys)


def _registered(node: RigNode, name: str) -> bool:
    """Tries once: a registration that was interrupted may have been done."""
    try:
        answer = authd(node.root, {"function": "add", "arguments": {"name": name, "ip": "any"}}, 90.0)
    except (WdbError, OSError):
        return False
    return answer["error"] in (0, 9008)

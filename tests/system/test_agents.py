"""Agent state up, groups down, registration from anywhere: whole nodes with their own stores."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeRig, rigs
from tests.contracts.helpers import trigger
from tests.fakes.wazuh_db import FakeWazuhDb
from tests.system.new_lines import NewLines
from tools.rig.faults import tell_link
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbClient, WdbError, authd

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "intervals": {"master": {"agent_group_start_delay": 0.5}, "worker": {"agent_groups_mismatch_limit": 2}}
}


def make(make_rig: MakeRig) -> Rig:
    made = make_rig(2, overrides=QUICK, links=True)
    (made.master.root / "etc/client.keys").write_text("")
    return made


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with rigs() as make_rig:
        made = make(make_rig)
        made.start()
        yield made


@pytest.fixture
def rig(running: Rig) -> Rig:
    """A running master and two workers behind links, without agents and with the groups of a new rig."""
    for worker in running.workers:
        assert worker.link_control is not None
        tell_link(worker.link_control, "mend")
    shared = running.master.root / "etc/shared"
    for name in ("shop", "late", "bare"):
        shutil.rmtree(shared / name, ignore_errors=True)
    groups = {"default"} | {path.name for path in shared.iterdir() if path.is_dir()}

    def is_as_new(node: RigNode) -> bool:
        with WdbClient(node.root) as client:
            agents = client.ids("get-all-agents last_id")
            for agent_id in agents:
                client.command(f"global delete-agent {agent_id}")
            return not agents and groups == {row["name"] for row in client.rows('select name from "group"')}

    def are_as_new() -> bool:
        # All, and once more: groups on their way to a worker make their agents there again.
        return all(answers(is_as_new, node) for _ in range(2) for node in running.nodes)

    wait_until(are_as_new, 60, "no agents, no other groups")
    wait_until(running.are_connected, 60, "the workers are connected")
    running.wait_equal(60)
    return running


def answers(question: Callable[[RigNode], bool], node: RigNode) -> bool:
    """What this says of the node; False while its store does not answer."""
    try:
        return question(node)
    except WdbError:
        return False


def ask(node: RigNode, request: str) -> str:
    with WdbClient(node.root) as client:
        return client.command(request)


def rows(node: RigNode, statement: str) -> list[dict[str, Any]]:
    with WdbClient(node.root) as client:
        return client.rows(statement)


def group_hash(node: RigNode) -> str | None:
    with WdbClient(node.root) as client:
        return client.group_hash()


def log_of(node: RigNode) -> str:
    """All that a node has logged."""
    return (node.root / "logs/cluster.log").read_text()


def add_agents(nodes: list[RigNode], count: int) -> None:
    for node in nodes:
        with WdbClient(node.root) as client:
            for agent_id in range(1, count + 1):
                client.command(
                    f'global insert-agent {{"id":{agent_id},"name":"agent{agent_id}","date_add":1700000000}}'
                )


def report(node: RigNode, agent_id: int, version: str, status: str = "active") -> None:
    ask(
        node,
        "global update-agent-data "
        + json.dumps(
            {
                "id": agent_id,
                "version": version,
                "node_name": node.name,
                "agent_ip": "10.0.0.7",
                "connection_status": status,
                "sync_status": "syncreq",
                "group_config_status": "synced",
                "labels": f"env:{version}\nsite:berlin",
            }
        ),
    )


def facts(node: RigNode, agent_id: int) -> dict[str, Any]:
    """Yields nothing while the store is being replaced."""
    try:
        found = rows(
            node, f"select version, node_name, connection_status, sync_status from agent where id = {agent_id}"
        )
    except WdbError:
        return {}
    return found[0]


def make_group(rig: Rig, name: str) -> None:
    directory = rig.master.root / "etc/shared" / name
    directory.mkdir(mode=0o770)
    directory.chmod(0o777)
    (directory / "agent.conf").write_text("<agent_config></agent_config>\n")
    wait_until(
        lambda: all({"name": name} in rows(node, 'select name from "group"') for node in rig.nodes), 30, "the group"
    )


def assign(node: RigNode, ids: list[int], groups: list[str]) -> None:
    with WdbClient(node.root) as client:
        client.set_groups("override", [{"id": one, "name": f"agent{one}", "groups": groups} for one in ids], "syncreq")


def all_equal(rig: Rig) -> bool:
    found = [group_hash(node) for node in rig.nodes]
    return found[0] is not None and found.count(found[0]) == len(found)


def waiting(node: RigNode) -> int:
    (row,) = rows(node, "select count(*) as n from agent where sync_status != 'synced' and id > 0")
    return int(row["n"])


# ---- state up --------------------------------------------------------------------------------------------------------


def test_state_reaches_the_master_and_counts_as_reported_then(rig: Rig) -> None:
    add_agents(rig.nodes, 20)
    for agent_id in range(1, 21):
        report(rig.workers[agent_id % 2], agent_id, "v1")
    wait_until(lambda: sum(map(waiting, rig.workers)) == 0, 60, "all is reported")
    for agent_id in range(1, 21):
        found = facts(rig.master, agent_id)
        assert (found["version"], found["node_name"]) == ("v1", rig.workers[agent_id % 2].name)
        assert found["sync_status"] == "synced"
    assert ask(rig.master, "global get-labels 7") == (
        '[{"id":7,"key":"env","value":"v1"},{"id":7,"key":"site","value":"berlin"}]'
    )
    status: dict[str, Any] = {}

    def is_counted() -> bool:
        status.update(rig.status(rig.master.name)[rig.master.name])
        return bool(status["agents"]["nodes"].get("rig_manager_2") == {"active": 10})

    wait_until(is_counted, 60, "the counts of the status")
    assert status["agents"]["syncs"]["rig_manager_2"]["info_at"] is not None


def test_cut_link_keeps_reports_until_it_is_mended(rig: Rig) -> None:
    add_agents(rig.nodes, 5)
    worker, log = rig.workers[0], NewLines(rig.workers[0])
    assert worker.link_control is not None
    tell_link(worker.link_control, "cut")
    report(worker, 1, "later")
    wait_until(lambda: "Could not connect to master" in log.text or "closed" in log.text, 60, "the cut")
    assert waiting(worker) == 1
    tell_link(worker.link_control, "mend")
    wait_until(lambda: facts(rig.master, 1).get("version") == "later", 60, "the report after the link is back")
    wait_until(lambda: waiting(worker) == 0, 60, "the confirmation")


def test_late_report_of_an_agent_that_moved_hides_nothing(rig: Rig) -> None:
    """A worker without a link keeps what it knew, while the agent has moved to another worker."""
    add_agents(rig.nodes, 3)
    old, new = rig.workers
    assert old.link_control is not None
    tell_link(old.link_control, "cut")
    report(old, 1, "old")
    report(new, 1, "new")
    wait_until(lambda: facts(rig.master, 1).get("version") == "new", 60, "the report of the new worker")
    tell_link(old.link_control, "mend")
    wait_until(lambda: waiting(old) == 0, 60, "the late report")
    found = facts(rig.master, 1)
    assert (found["version"], found["node_name"]) == ("new", new.name)


def test_absence_of_the_masters_store_is_logged_once_and_loses_nothing(rig: Rig) -> None:
    add_agents(rig.nodes, 3)
    pid = rig.processes(rig.master.name)["store"]
    assert pid is not None
    for round_ in range(3):
        report(rig.workers[0], 1, f"v{round_}")
        rig.command(rig.master, "status", timeout_s=20)
        current = rig.processes(rig.master.name)["store"]
        if current is not None:
            os.kill(current, signal.SIGKILL)
    wait_until(lambda: facts(rig.master, 1).get("version") == "v2", 60, "the last report")
    wait_until(lambda: waiting(rig.workers[0]) == 0, 60, "the confirmation")
    assert rig.processes(rig.master.name)["store"] not in (None, pid)


def test_agent_deleted_on_the_master_while_a_worker_reports_it(rig: Rig) -> None:
    add_agents(rig.nodes, 3)
    log = NewLines(rig.workers[0])
    ask(rig.master, "global delete-agent 2")
    for agent_id in (1, 2, 3):
        report(rig.workers[0], agent_id, "v1")
    wait_until(lambda: waiting(rig.workers[0]) == 0, 60, "all is reported")
    assert [row["id"] for row in rows(rig.master, "select id from agent where id > 0 order by id")] == [1, 3]
    assert "ERROR: [Worker rig_manager_2] [Agent-info sync]" not in log.text


def test_refused_agent_is_named_and_delays_no_other(rig: Rig) -> None:
    add_agents(rig.nodes, 3)
    log = NewLines(rig.workers[0])
    refusing = (
        "before update of version on agent when new.id = 2 begin select raise(abort, 'agent 2 is not wanted'); end"
    )
    with trigger(rig.master.root, refusing):
        for agent_id in (1, 2, 3):
            report(rig.workers[0], agent_id, "v1")
        wait_until(lambda: waiting(rig.workers[0]) == 0, 60, "all is reported")
    assert [facts(rig.master, agent_id).get("version") for agent_id in (1, 2, 3)] == ["v1", None, "v1"]
    assert "agent 2: agent 2 is not wanted" in log.text


# ---- groups down -----------------------------------------------------------------------------------------------------


def test_groups_reach_every_worker_and_count_as_handed_out_then(rig: Rig) -> None:
    make_group(rig, "shop")
    add_agents([rig.master], 50)
    assign(rig.master, list(range(1, 51)), ["default", "shop"])
    wait_until(lambda: all_equal(rig), 60, "equal groups")
    wait_until(
        lambda: rows(rig.master, "select count(*) as n from agent where group_sync_status = 'syncreq'") == [{"n": 0}],
        30,
        "handed out",
    )
    for worker in rig.workers:
        with WdbClient(worker.root) as client:
            assert client.command("global select-group-belong 50") == '["default","shop"]'


def test_groups_of_agents_registered_before_the_clock_was_set_back_arrive(rig: Rig) -> None:
    """The change travels in rows of changes, and in the full set that a worker asks for."""
    in_a_day = int(time.time()) + 86_400
    for agent_id in (1, 2):
        ask(rig.master, f'global insert-agent {{"id":{agent_id},"name":"agent{agent_id}","date_add":{in_a_day}}}')
    assign(rig.master, [1, 2], ["default"])
    wait_until(lambda: all_equal(rig), 60, "equal groups")
    worker, log = rig.workers[0], NewLines(rig.workers[0])
    ask(worker, "global sql update agent set `group` = null, group_hash = null where id > 0")
    ask(worker, "global sql delete from belongs")
    wait_until(lambda: all_equal(rig), 60, "equal groups again")
    assert "Sent request to obtain all agent-groups" in log.text


def test_group_of_a_directory_that_comes_later_arrives(rig: Rig) -> None:
    """The rows reach the worker before the files of the group."""
    add_agents(rig.nodes, 3)
    log = NewLines(rig.workers[0])
    (rig.master.root / "etc/shared/late").mkdir()
    (rig.master.root / "etc/shared/late").chmod(0o777)
    wait_until(lambda: {"name": "late"} in rows(rig.master, 'select name from "group"'), 60, "the group")
    assign(rig.master, [1, 2, 3], ["late"])
    wait_until(lambda: "An error occurred during the set of the groups" in log.text, 60, "a refusal")
    (rig.master.root / "etc/shared/late/agent.conf").write_text("<agent_config></agent_config>\n")
    wait_until(lambda: all_equal(rig), 60, "equal groups")


def test_deleted_group_is_deleted_everywhere(rig: Rig) -> None:
    make_group(rig, "shop")
    add_agents([rig.master], 5)
    assign(rig.master, [1, 2, 3, 4, 5], ["shop"])
    wait_until(lambda: all_equal(rig), 60, "equal groups")
    (rig.master.root / "etc/shared/shop").rename(rig.master.root / "taken-away")
    wait_until(
        lambda: all({"name": "shop"} not in rows(node, 'select name from "group"') for node in rig.nodes),
        60,
        "deletion",
    )
    wait_until(lambda: all_equal(rig), 60, "equal groups")
    assert ask(rig.workers[0], "global select-agent-group 3") == '[{"group":"default"}]'


def test_worker_that_joins_late_and_one_with_a_new_database_converge(make_rig: MakeRig) -> None:
    rig = make(make_rig)
    late, other = rig.workers
    rig.start(rig.master.name, other.name)
    add_agents([rig.master], 30)
    assign(rig.master, list(range(1, 31)), ["default"])
    wait_until(lambda: group_hash(other) == group_hash(rig.master) is not None, 60, "the first worker")
    rig.start(late.name)
    wait_until(lambda: all_equal(rig), 60, "the late worker")
    rig.stop(other.name)
    for path in (other.root / "queue/db").glob("global.db*"):
        path.unlink()
    rig.start(other.name)
    wait_until(lambda: all_equal(rig), 60, "the worker with a new database")
    assert "Sent request to obtain all agent-groups information" in log_of(other)


def test_lasting_difference_is_reported_once(rig: Rig) -> None:
    add_agents([rig.master], 3)
    assign(rig.master, [1, 2, 3], ["default"])
    wait_until(lambda: all_equal(rig), 60, "equal groups")
    worker, log = rig.workers[0], NewLines(rig.workers[0])
    ask(worker, 'global insert-agent {"id":99,"name":"mine","date_add":1}')
    assign(worker, [99], ["default"])
    text = "still differ from the master's after everything was sent again"
    wait_until(lambda: text in log.text, 60, "the report")
    asked = log.text.count("Sent request to obtain all agent-groups")
    ended = time.monotonic() + 6
    while time.monotonic() < ended:
        time.sleep(0.2)
    assert log.text.count(text) == 1
    assert log.text.count("Sent request to obtain all agent-groups") <= asked + 2
    ask(worker, "global delete-agent 99")
    wait_until(lambda: "equal the master's again" in log.text, 60, "the end of it")


# ---- registration ----------------------------------------------------------------------------------------------------


def test_registration_through_a_worker_reaches_all_nodes(make_rig: MakeRig) -> None:
    rig = make(make_rig)  # of its own: nodes forget an agent, however it came, seconds after its key has gone
    rig.start()
    make_group(rig, "shop")
    answer = authd(
        rig.workers[1].root, {"function": "add", "arguments": {"name": "web-01", "ip": "any", "groups": "shop"}}
    )
    data = answer["data"]
    line = f"{data['id']} web-01 any {data['key']}\n"

    def has_key(node: RigNode) -> bool:
        path: Path = node.root / "etc/client.keys"
        return path.exists() and line in path.read_text()

    assert has_key(rig.master)
    wait_until(lambda: all(map(has_key, rig.nodes)), 60, "the key on all nodes")
    wait_until(lambda: all_equal(rig), 60, "equal groups")
    assert authd(rig.workers[0].root, {"function": "get", "arguments": {"id": data["id"]}}) == answer
    refused = authd(rig.workers[0].root, {"function": "add", "arguments": {"name": "web-01", "ip": "any"}})
    assert refused == {"error": 9008, "message": "Duplicate name"}
    removed = authd(rig.workers[0].root, {"function": "remove", "arguments": {"id": data["id"]}})
    assert removed["error"] == 0
    wait_until(lambda: not any(map(has_key, rig.nodes)), 60, "the key gone from all nodes")
    for node in rig.nodes:
        assert data["key"] not in log_of(node)


def test_registration_without_a_master_says_why(make_rig: MakeRig) -> None:
    alone = make_rig(1)
    alone.start("rig_manager_2")
    began = time.monotonic()
    answer = authd(alone.workers[0].root, {"function": "add", "arguments": {"name": "web-01", "ip": "any"}})
    assert answer["error"] == 9001
    assert "not connected to" in answer["message"]
    assert time.monotonic() - began >= 8


# ---- whose store -----------------------------------------------------------------------------------------------------


def test_node_refuses_to_start_beside_the_daemon_it_should_replace(make_rig: MakeRig) -> None:
    rig = make_rig(0, overrides={"clusterd": {"store": "on"}})
    with FakeWazuhDb(rig.master.root):
        done = rig.command(rig.master, "start", timeout_s=60)
        assert done.returncode != 0
        assert "queue/db/wdb" in done.stderr
        assert "clusterd.store" in done.stderr
    assert rig.command(rig.master, "start", timeout_s=60).returncode == 0


def test_group_without_files_reaches_every_worker_and_is_deleted_with_its_directory(rig: Rig) -> None:
    add_agents(rig.nodes, 1)
    (rig.master.root / "etc/shared/bare").mkdir()
    wait_until(lambda: "bare" in {row["name"] for row in rows(rig.master, 'select name from "group"')}, 60, "the group")
    with WdbClient(rig.master.root) as client:
        client.set_groups("override", [{"id": 1, "groups": ["bare"]}], "syncreq")

    def knows(node: RigNode) -> bool:
        return rows(node, 'select "group" from agent where id = 1') == [{"group": "bare"}]

    wait_until(lambda: all(map(knows, rig.nodes)), 60, "the agent's group on every worker")
    for worker in rig.workers:
        assert (worker.root / "etc/shared/bare/merged.mg").read_text() == "#bare\n"
    shutil.rmtree(rig.master.root / "etc/shared/bare")
    wait_until(lambda: not any((node.root / "etc/shared/bare").exists() for node in rig.nodes), 60, "no directory")
    statement = "select id from \"group\" where name = 'bare'"
    wait_until(lambda: all(rows(node, statement) == [] for node in rig.nodes), 60, "no group")

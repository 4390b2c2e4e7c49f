"""The journals of a cluster's nodes have what happens there, and no secret."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.agent_keys import parse_keys
from clusterd.monitor.journal_reader import Filter, JournalReader
from clusterd.rundir import AUTH_SOCKET, journal_path
from clusterd.store.stream import program_of
from tests.conftest import KEY, rigs
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import LocalClient, wait_until

pytestmark = pytest.mark.slow
RULE = "etc/rules/journal.xml"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A master and a worker that are equal."""
    with rigs() as make:
        rig = make(1)
        rig.start()
        rig.wait_equal(60)
        yield rig


def events(node: RigNode, *kinds: str, path: str = "") -> list[dict[str, Any]]:
    return JournalReader(journal_path(str(node.root))).following(Filter(kinds=kinds, path=path))


def wait_for(node: RigNode, what: str, *kinds: str, path: str = "", **members: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [one for one in events(node, *kinds, path=path) if {**one, **members} == one]
        return bool(found)

    wait_until(is_there, 60, what)
    return found[-1]


def ask_authd(node: RigNode, function: str, **arguments: Any) -> Any:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(node.root / AUTH_SOCKET))
        data = json.dumps({"function": function, "arguments": arguments}).encode()
        sock.sendall(len(data).to_bytes(4, "little") + data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return json.loads(answer[4:])


def test_a_change_is_followed_from_the_master_to_the_worker(rig: Rig) -> None:
    master, worker = rig.master, rig.workers[0]
    (master.root / RULE).write_text("<group name='one'/>")
    made = wait_for(master, "the master has seen it", "change", path=RULE, added=1)
    sent = wait_for(master, "it was sent", "sync", worker=worker.name, manifest=made["manifest"])
    assert (sent["what"] in ("ahead", "files"), sent["result"], sent["files"] >= 1, sent["bytes"] > 0) == (
        True,
        "ok",
        True,
        True,
    )
    wait_for(worker, "the worker has applied it", "sync:ok", worker=worker.name)
    taken = wait_for(worker, "the worker has it", "change", path=RULE, added=1)
    assert taken["files"][0]["digest"] == made["files"][0]["digest"]
    (master.root / RULE).write_text("<group name='longer'/>")
    changed = wait_for(master, "the change is seen", "change", path=RULE, changed=1)
    assert (changed["files"][0]["size_before"], changed["files"][0]["size"]) == (19, 22)
    assert changed["files"][0]["digest_before"] == made["files"][0]["digest"]
    (master.root / RULE).unlink()
    wait_for(master, "it is gone", "change", path=RULE, deleted=1)
    rig.wait_equal(60)


def test_events_of_registrations_say_who_and_through_which_node_without_the_key(rig: Rig) -> None:
    master, worker = rig.master, rig.workers[0]
    ends = socket.socketpair()
    program = program_of(ends[0])
    for end in ends:
        end.close()
    assert program
    for node, name, through in ((master, "at-master", ""), (worker, "at-worker", worker.name)):
        added = ask_authd(node, "add", name=name, ip="any")
        found = wait_for(master, f"{name} is registered", "registration:added", name=name)
        assert (found["agent"], found["through"], found["who"]) == (added["data"]["id"], through, program)
    assert ask_authd(worker, "add", name="at-master", ip="any")["error"] == 9008
    wait_for(master, "it was refused", "registration:refused", name="at-master", through=worker.name, who=program)


def test_api_request_that_changes_something_is_an_event_with_user_and_outcome(rig: Rig) -> None:
    name = {
        "__name__": "create_group",
        "__module__": "wazuh.agent",
        "__qualname__": "create_group",
        "__type__": "function",
    }
    request = {"f": {"__callable__": name}, "f_kwargs": {"group_id": "told"}, "current_user": "ann"}
    with LocalClient(rig.master.root / "queue/cluster/c-internal.sock") as client:
        client.ask("dapi", json.dumps(request))
        client.answer_of("dapi_res")
    found = wait_for(rig.master, "the request is told", "request:done", function="create_group", user="ann")
    assert "told" in found["about"]
    wait_for(rig.master, "the group is told", "group:created", group="told")


def test_leaving_and_returning_worker_causes_events(rig: Rig) -> None:
    master, worker = rig.master, rig.workers[0]
    wait_for(master, "it has connected", "worker:connected", worker=worker.name)
    rig.stop(worker.name)
    wait_for(master, "it is lost", "worker:lost", worker=worker.name)
    rig.start(worker.name)
    wait_for(master, "it is back", "worker:back", worker=worker.name)


def test_leaving_and_returning_master_causes_events_of_the_worker(rig: Rig) -> None:
    master, worker = rig.master, rig.workers[0]
    there = wait_for(worker, "it has connected", "master:connected")
    rig.stop(master.name)
    lost = wait_for(worker, "it is lost", "master:lost", master=there["master"])
    assert lost["why"]
    rig.start(master.name)
    wait_for(worker, "it is back", "master:back", master=there["master"])
    rig.wait_equal(60)


def test_no_secret_is_in_any_journal(rig: Rig) -> None:
    ask_authd(rig.master, "add", name="with-a-key", ip="any")
    wait_for(rig.master, "it is registered", "registration:added", name="with-a-key")
    rig.wait_equal(60)
    for node in rig.nodes:
        wait_for(node, "its key has come", "change", path="etc/client.keys")
    keys = [key.key for key in parse_keys((rig.master.root / "etc/client.keys").read_text())[0]]
    assert keys
    for node in rig.nodes:
        everything = "".join(path.read_bytes().decode(errors="replace") for path in files(node))
        assert everything.count("registration") + everything.count("change")
        assert [secret for secret in (KEY, *keys) if secret in everything] == []


def files(node: RigNode) -> list[Path]:
    path = Path(journal_path(str(node.root)))
    return list(path.parent.glob("journal.db*"))

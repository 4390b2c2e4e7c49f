"""Requests that cross nodes and end at a framework (docs/protocol/framework.md, section 6): a master and a worker, each
with a fake framework of its own; the worker's has a module that the master's lacks."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import KEY, rigs
from tests.fakes.framework import FakeFramework
from tests.supervisor.helpers import until
from tests.system.dapi_client import ask, audit_of, client_of, failure, later, request, result
from tools.rig.nodes import Rig, RigNode

pytestmark = pytest.mark.slow
MINE = {"basic_services": ["wazuh-clusterd"]}
SLOW = """
import time
from pathlib import Path

from wazuh.core import common
from wazuh.core.common import exposed


def _wait(what):
    common.count(what)
    while not (common.ROOT / "framework" / "go-on").exists():
        time.sleep(0.02)


@exposed
def files(**others):
    _wait("read")
    return {"read": True}


@exposed
def run(**others):
    _wait("changed")
    common.count("ended")
    return {"changed": True}
"""


class Site:
    """A rig and its frameworks, by node."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.worker = rig.workers[0]
        self.frameworks = {node.name: FakeFramework(node.root) for node in rig.nodes}
        (self.of(self.worker).site / "wazuh/syscheck.py").write_text(SLOW)

    def of(self, node: RigNode) -> FakeFramework:
        return self.frameworks[node.name]

    def to(self, node: RigNode, **fields: Any) -> dict[str, Any]:
        """A distributed request for one node."""
        names = [one.name for one in self.rig.nodes]
        return MINE | {"request_type": "distributed_master", "nodes": names, "wait_for_complete": True} | fields


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with rigs() as make:
        rig = make(1)
        made = Site(rig)
        rig.start()
        rig.wait_equal(60)
        yield made


def test_what_a_worker_asks_is_done_by_the_framework_of_the_master(site: Site) -> None:
    created = ask(
        site.worker,
        "wazuh.security",
        "create_user",
        {"username": "ann", "password": "pw-of-ann"},
        current_user="root",
        **MINE,
    )
    assert result(created)["affected_items"] == [{"username": "ann"}]
    for node in site.rig.nodes:
        answer = ask(node, "api.authentication", "check_user_master", {"user": "ann", "password": "pw-of-ann"}, **MINE)
        assert result(answer)["result"] == {"result": True}
        assert result(ask(node, "wazuh.security", "get_user_me", current_user="ann", **MINE))["affected_items"]
    denied = ask(
        site.worker, "wazuh.security", "create_user", {"username": "eve"}, rbac_permissions={"rbac_mode": "white"}
    )
    assert failure(denied)["code"] == 4000
    (line,) = (line for line in audit_of(site.rig.master) if "create_user" in line and "'root'" in line)
    assert line.endswith(f"create_user (username \"ann\"), user 'root', asked by worker {site.worker.name}: 1 done.")
    assert "pw-of-ann" not in "".join(audit_of(site.rig.master))


def test_the_configuration_of_each_node_is_read_on_it_and_shows_no_key(site: Site) -> None:
    for asked in site.rig.nodes:
        for node in site.rig.nodes:
            for arguments in ({}, {"raw": True}):
                given = arguments | {"node_id": node.name}
                answer = ask(asked, "wazuh.manager", "read_ossec_conf", given, **site.to(node))
                text = json.dumps(result(answer))
                assert KEY not in text
                assert "*****" in text
                assert not arguments or f"<node_name>{node.name}</node_name>" in text


def _killed(site: Site, function: str) -> Any:
    """The answer to a request of the worker whose process was killed in the middle, and which may end after that."""
    framework = site.of(site.worker)
    gate = framework.directory / "go-on"
    gate.unlink(missing_ok=True)
    before = len(framework.calls)
    answers: list[Any] = []
    node = {"node_id": site.worker.name}
    asking = threading.Thread(
        target=lambda: answers.append(ask(site.worker, "wazuh.syscheck", function, node, **site.to(site.worker)))
    )
    asking.start()
    try:
        until(lambda: len(framework.calls) > before, "it runs", 120)
        os.kill(framework.pids[before], signal.SIGKILL)
    finally:
        gate.touch()
        asking.join(120)
    return answers[0], framework.calls[before:]


def test_what_reads_runs_again_when_its_process_is_killed(site: Site) -> None:
    """The worker's master has no such function: the master passes the request on."""
    answer, calls = _killed(site, "files")
    assert result(answer)["result"] == {"read": True}
    assert calls == ["read", "read"]


def test_what_changes_something_never_runs_twice(site: Site) -> None:
    answer, calls = _killed(site, "run")
    assert failure(answer)["code"] == 1000
    assert calls == ["changed"]


def test_an_api_that_is_restarted_meanwhile_changes_nothing_twice_and_hears_no_old_answer(site: Site) -> None:
    """Its connection ends in the middle: the function runs to its end, once, and the new connection gets only what it
    has asked for itself."""
    framework = site.of(site.worker)
    gate = framework.directory / "go-on"
    gate.unlink(missing_ok=True)
    before = len(framework.calls)
    node = {"node_id": site.worker.name}
    with client_of(site.worker) as old:
        old.ask("dapi", request("wazuh.syscheck", "run", node, **site.to(site.worker)))
        until(lambda: len(framework.calls) > before, "it runs", 120)
    with client_of(site.worker) as new:
        try:
            new.ask("dapi", request("wazuh.manager", "read_ossec_conf", node, **site.to(site.worker)))
            assert "cluster" in json.dumps(result(json.loads(new.answer_of("dapi_res"))))
        finally:
            gate.touch()
        until(lambda: len(framework.calls) > before + 1, "it ends", 120)
        answer = ask(site.worker, "wazuh.syscheck", "files", node, **site.to(site.worker))
        assert result(answer)["result"] == {"read": True}
        assert len(later(new, "dapi_res", "dapi_err")) == 1
    assert framework.calls[before:] == ["changed", "ended", "read"]


def test_a_master_that_misses_a_function_says_so(site: Site) -> None:
    master = {"node_id": site.rig.master.name}
    answer = ask(site.worker, "wazuh.syscheck", "files", master, **site.to(site.rig.master))
    assert failure(answer)["code"] == 3009
    assert failure(answer)["ids"] == [site.rig.master.name]


def test_a_revocation_reaches_every_node(site: Site) -> None:
    """The framework revokes tokens of the stock API, the changed secret those of clusterd's."""

    def secret(node: RigNode) -> Path:
        return node.root / "etc/clusterd-api-token.key"

    owner = psutil.Process(site.rig.processes("master")["sync"]).uids().real
    for node in site.rig.nodes:
        secret(node).write_text("ab" * 64)
        os.chmod(secret(node), 0o600)
        os.chown(secret(node), owner, -1)
    arguments = MINE | {"request_type": "distributed_master", "broadcasting": True}
    answer = ask(site.worker, "wazuh.core.security", "revoke_tokens", **arguments)
    assert result(answer)["result"] == {"msg": "Tokens were successfully revoked"}
    for node in site.rig.nodes:
        assert site.of(node).calls.count("revoked") == 1
        assert secret(node).read_text() != "ab" * 64

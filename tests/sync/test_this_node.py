"""Requests of the distributed API that the installed framework answers on this node."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.dapi.protocol.envelope import read_envelope
from clusterd.dapi.protocol.policy import Origin
from clusterd.errors import ClusterError
from clusterd.messages.base import INLINE_BYTES, Text
from clusterd.settings import WorkerApi
from clusterd.sync.ports.pool_port import DIED, JobError
from clusterd.sync.requests.runner import LONGEST_CHANGE_S
from clusterd.sync.requests.this_node import MAY_BE_DONE
from tests.fakes.clock import FakeClock
from tests.sync.framework_node import (
    DM,
    DONE,
    FRAMEWORK_ONLY,
    LA,
    LM,
    MASTER,
    WORKER,
    FakePort,
    Node,
    ask,
    asked,
    code_of,
    text_of,
)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("api.authentication:check_user_master", True),
        ("wazuh.security:get_users", True),
        ("wazuh.security:create_user", False),
        ("wazuh.agent:get_full_overview", True),
        ("wazuh.agent:add_agent", False),
        ("wazuh.core.agent:Agent.get_agents_overview", True),
    ],
)
@pytest.mark.parametrize("origin", ["client", "worker"])
def test_a_request_reaches_the_framework_as_it_came(tmp_path: Path, name: str, reads: bool, origin: Origin) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked(
        name,
        {"date": {"__wazuh_datetime__": "2025-11-23"}, "user_ids": ["1"]},
        rbac_permissions={"rbac_mode": "white", "security:read": {"user:id:1": "allow"}},
        current_user="ann",
        basic_services=["wazuh-db"],
        broadcasting=True,
        nodes=["m", "w1"],
        remove_denied_nodes=True,
        api_timeout=77,
        wait_for_complete=False,
    )
    assert ask(node, content, origin) == json.loads(DONE)
    assert port.contents == [content]
    (how,) = port.asked
    assert (how["is_read_only"], how["timeout_s"], how["asker"]) == (reads, 77, "somebody")
    assert node.jobs.ran == [], "no process of the pool has to do with it"


@pytest.mark.parametrize(("name", "most_s"), [("get_full_overview", 200.0), ("delete_agents", LONGEST_CHANGE_S)])
@pytest.mark.parametrize("limit", [{"wait_for_complete": True}, {"api_timeout": 1e9}])
def test_a_request_may_take_its_time_and_does_not_run_for_ever(
    tmp_path: Path, name: str, most_s: float, limit: dict[str, Any]
) -> None:
    """Functions that hang would take the places of all others: nobody waits for longer than 200 s."""
    port = FakePort()
    ask(Node(tmp_path, port), asked(f"wazuh.agent:{name}", **limit))
    assert port.asked[0]["timeout_s"] == most_s


@pytest.mark.parametrize(
    ("name", "waits", "passed_s", "is_begun"),
    [
        ("create_user", True, 194.0, True),
        ("create_user", True, 196.0, False),
        ("create_user", False, 29.0, True),
        ("create_user", False, 31.0, False),
        ("get_users", False, 500.0, True),
    ],
)
def test_change_does_not_begin_when_its_asker_has_gone(
    tmp_path: Path, name: str, waits: bool, passed_s: float, is_begun: bool
) -> None:
    """Others may have had all processes meanwhile. Ours waits for 200 s with `wait_for_complete`, else for 45 s more
    than the function may take."""
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked(f"wazuh.security:{name}", wait_for_complete=waits, api_timeout=10)
    envelope = node.runner.arrived(read_envelope(content))
    cast(FakeClock, node.context.clock).move(passed_s)
    answer = asyncio.run(node.runner.run(Text(content), envelope, "client", "somebody"))
    assert bool(port.asked) == is_begun
    if not is_begun:
        assert code_of(json.loads(node.texts.read(answer, 1 << 20))) == 3021


def test_large_requests_and_answers_pass_and_leave_no_file(tmp_path: Path) -> None:
    node = Node(tmp_path, None)
    large = b'{"a": "' + b"x" * 2 * INLINE_BYTES + b'"}'

    class Large(FakePort):
        async def run(self, request: Text, **how: Any) -> Text:
            await super().run(request, **how)
            return node.texts.write(large)

    port = Large()
    node.context.framework = cast(Any, port)
    content = asked("wazuh.rule:upload_rule_file", {"content": "y" * 4_000_000})
    assert ask(node, content) == json.loads(large)
    assert port.contents == [content]


@pytest.mark.parametrize(
    ("role", "name", "request_type", "origin"),
    [
        (MASTER, FRAMEWORK_ONLY, LM, "client"),
        (MASTER, "wazuh.security:get_users", DM, "worker"),
        (MASTER, "wazuh.security:get_users", LA, "client"),
        (MASTER, "wazuh.manager:read_ossec_conf", LA, "worker"),
        (WORKER, "wazuh.security:get_users", LM, "master"),
        (WORKER, "wazuh.manager:read_ossec_conf", LA, "master"),
    ],
)
def test_types_and_origins_outside_of_the_table_do_not_reach_the_framework(
    tmp_path: Path, role: str, name: str, request_type: str, origin: Origin
) -> None:
    port = FakePort()
    node = Node(tmp_path, port, role)
    assert code_of(ask(node, asked(name, request_type=request_type, from_cluster=True), origin)) == 4000
    assert (port.asked, node.jobs.ran) == ([], [])


@pytest.mark.parametrize(
    "name", ["os:system", "wazuh.security:os.system", "wazuh.security:get_user", "wazuh.core.utils:rm"]
)
@pytest.mark.parametrize("request_type", [LM, DM, LA])
def test_unknown_names_do_not_reach_the_framework(tmp_path: Path, name: str, request_type: str) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    answer = ask(node, asked(name, request_type=request_type))
    assert code_of(answer) == 3009
    assert text_of(answer) == f"function not available: {name.replace(':', '.')}"
    assert (port.asked, node.jobs.ran, node.given) == ([], [], {})


def test_markers_and_foreign_keys_do_not_reach_the_framework(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    for bad in (
        asked("wazuh.security:get_users", {"a": [{"b": {"__callable__": {"__module__": "os"}}}]}),
        asked("wazuh.security:get_users", {"a": {"__unhandled_exc__": {"__class__": "x", "__args__": ["1"]}}}),
        asked("wazuh.security:get_users", {"a": {"__wazuh_exception__": {"__class__": "x", "__object__": {}}}}),
        asked("wazuh.security:get_users", logger="x"),
        asked("wazuh.security:get_users", local_client_arg="lc"),
    ):
        assert code_of(ask(node, bad)) == 1000
    assert (port.asked, node.jobs.ran) == ([], [])


@pytest.mark.parametrize(("setting", "reads"), [("read", True), ("off", False)])
def test_what_workers_may_not_ask_does_not_reach_the_framework(tmp_path: Path, setting: WorkerApi, reads: bool) -> None:
    port = FakePort()
    node = Node(tmp_path, port, worker_api=setting)
    for change in ("wazuh.security:create_user", "wazuh.agent:get_agents_keys", "wazuh.security:remove_users"):
        refusal = ask(node, asked(change), "worker")
        assert code_of(refusal) == 4000
        assert f"worker_api is {setting}" in text_of(refusal)
        assert ask(node, asked(change), "client") == json.loads(DONE), "its own programs may"
    port.asked.clear()
    for kind, name in ((DM, "wazuh.syscheck:run"), (DM, "wazuh.manager:read_ossec_conf")):
        assert code_of(ask(node, asked(name, {"node_list": ["w1"]}, kind, nodes=["w1"]), "worker")) == 4000
    assert (port.asked, node.given) == ([], {})
    assert (ask(node, asked("wazuh.security:get_users"), "worker") == json.loads(DONE)) == reads


@pytest.mark.parametrize(
    ("failure", "code", "wire_class"),
    [
        (ClusterError(3021), 3021, "WazuhInternalError"),
        (ClusterError(1000, "it died"), 1000, "WazuhInternalError"),
    ],
)
def test_failures_of_the_framework_are_the_outcome(
    tmp_path: Path, failure: Exception, code: int, wire_class: str
) -> None:
    node = Node(tmp_path, FakePort(failure))
    answer = ask(node, asked("wazuh.cdb_list:get_path_lists"))
    assert (code_of(answer), answer["__wazuh_exception__"]["__class__"]) == (code, wire_class)
    assert node.jobs.ran == [], "it may have been done"


@pytest.mark.parametrize(("name", "changes"), [("wazuh.agent:create_group", True), ("wazuh.agent:get_agents", False)])
def test_death_of_the_process_of_a_change_is_told_as_what_may_have_been_done(
    tmp_path: Path, name: str, changes: bool
) -> None:
    node = Node(tmp_path, None)

    async def dies(job: Any, **_: Any) -> Any:
        assert job.may_run_again is not changes
        raise JobError(DIED, "it died")

    node.jobs.run = dies  # type: ignore[method-assign]
    answer = ask(node, asked(name, {"group_id": "web"} if changes else {}))
    assert code_of(answer) == 1000
    assert text_of(answer) == (MAY_BE_DONE if changes else "None")


def test_digests_of_twenty_thousand_files_are_compared(tmp_path: Path) -> None:
    """Such a request has 3 MiB."""
    node = Node(tmp_path, None, WORKER)
    digests = {f"etc/lists/list-{number}": f"{number:0128x}" for number in range(20_000)}

    class Cluster:
        async def ruleset_hashes(self) -> dict[str, str]:
            return digests

    node.runner._here._cluster = cast(Any, Cluster())
    content = asked("wazuh.cluster:get_ruleset_sync_status", {"master_md5": digests}, DM, from_cluster=True)
    answer = ask(node, content, "master")
    assert answer["__wazuh_result__"]["__object__"]["affected_items"] == [{"name": "w1", "synced": True}]

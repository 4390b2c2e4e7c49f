"""Who answers a request: our own function, the framework of this node, or another node."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.api import RunFunction
from clusterd.messages.base import Text
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.ports.framework_port import MissingFramework, NotBegun
from tests.sync.framework_node import (
    DM,
    DONE,
    FRAMEWORK_ONLY,
    LA,
    LM,
    WORKER,
    FakePort,
    Node,
    ask,
    asked,
    code_of,
    text_of,
)

# ---- who is first ----------------------------------------------------------------------------------------------------


def test_ours_is_asked_first_where_it_is_as_good(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    assert "__wazuh_result__" in ask(node, asked("wazuh.manager:get_status", request_type=LA))
    assert [type(job) for job in node.jobs.ran] == [RunFunction]
    assert port.asked == []


def test_arguments_that_clusterd_does_not_accept_go_to_the_framework(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked("wazuh.manager:get_status", {"something_new": 1}, LA)
    assert ask(node, content) == json.loads(DONE)
    assert port.contents == [content]
    for without in (None, FakePort(state="failed"), FakePort(lacks=("get_status",))):
        assert code_of(ask(Node(tmp_path, without), content)) == 1000


@pytest.mark.parametrize(
    "port", [FakePort(NotBegun("busy")), FakePort(state="failed"), FakePort(lacks=("get_basic_info",))]
)
def test_ours_stands_in_for_a_framework_that_did_nothing(tmp_path: Path, port: FakePort) -> None:
    node = Node(tmp_path, port)
    answer = ask(node, asked("wazuh.manager:get_basic_info", request_type=LA))
    assert answer["__wazuh_result__"]["__object__"]["affected_items"][0]["path"] == str(tmp_path)


@pytest.mark.parametrize(
    "port", [FakePort(NotBegun("busy")), FakePort(state="failed"), FakePort(lacks=("check_token",))]
)
def test_no_other_function_answers_for_its_users(tmp_path: Path, port: FakePort) -> None:
    """Its users differ from clusterd's: they would be logged out, or get the rights of another user."""
    node = Node(tmp_path, port)
    token = {"username": "ann", "roles": [1], "token_nbf_time": 1, "run_as": False, "origin_node_type": "master"}
    answer = ask(node, asked("api.authentication:check_token", token), "worker")
    assert code_of(answer) == 3009
    assert "check_token (" in text_of(answer)
    assert node.jobs.ran == []


@pytest.mark.parametrize("name", ["api.authentication:check_token", "wazuh.security:wrapper_revoke_tokens"])
def test_framework_that_is_installed_in_part_is_one_that_fails(tmp_path: Path, name: str) -> None:
    """A revocation of clusterd's own tokens alone would be answered as done."""
    missing = MissingFramework("installed in part", "auto")
    node = Node(tmp_path, cast(Any, missing))
    answer = ask(node, asked(name, request_type=LM if "check" in name else LA))
    assert code_of(answer) == 3009
    assert "installed in part" in text_of(answer)
    assert node.jobs.ran == []
    assert "__wazuh_result__" in ask(node, asked("wazuh.manager:get_basic_info", request_type=LA))
    assert missing.shown()["state"] == "failed"


def test_what_only_a_framework_has_is_not_available_without_one(tmp_path: Path) -> None:
    for port in (None, FakePort(state="off"), FakePort(state="absent")):
        answer = ask(Node(tmp_path, port), asked("wazuh.agent:get_full_overview"))
        assert code_of(answer) == 3009
        assert text_of(answer) == "function not available: wazuh.agent.get_full_overview"
        assert answer["__wazuh_exception__"]["__object__"]["ids"] == ["m"]


# ---- other nodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [None, FakePort()])
def test_a_master_passes_on_what_it_cannot_do_itself(tmp_path: Path, port: FakePort | None) -> None:
    node = Node(tmp_path, port)
    permissions = {"rbac_mode": "black", "cluster:read": {"node:id:*": "allow"}}
    content = asked(
        "wazuh.manager:read_ossec_conf",
        {"node_id": "w2", "section": "auth"},
        DM,
        nodes=["m", "w1", "w2"],
        rbac_permissions=permissions,
        current_user="ann",
        basic_services=["wazuh-db"],
        wait_for_complete=True,
    )
    assert ask(node, content, "worker") == json.loads(DONE)
    assert list(node.given) == ["w2"]
    given = json.loads(node.given["w2"])
    assert given["f"] == json.loads(content)["f"]
    assert given["f_kwargs"] == {"section": "auth"}
    assert given["rbac_permissions"] == permissions
    assert (given["from_cluster"], given["current_user"], given["basic_services"], given["wait_for_complete"]) == (
        True,
        "ann",
        ["wazuh-db"],
        True,
    )
    assert port is None or port.asked == []


def test_a_broadcast_asks_the_framework_for_this_node_only(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port)
    content = asked("wazuh.manager:get_api_config", {"node_list": "*"}, DM, nodes=["m", "w1", "w2"], broadcasting=True)
    ask(node, content, "worker")
    assert sorted(node.given) == ["w1", "w2"]
    assert json.loads(port.contents[0])["f_kwargs"] == {}
    assert not any(isinstance(job, RunFunction) for job in node.jobs.ran)


class Files:
    """The files of a master. `done`: what happened, in order."""

    def __init__(self, done: list[str], failure: Exception | None = None) -> None:
        self._done = done
        self._failure = failure

    async def scan(self, *, fresh: bool) -> None:
        assert fresh
        self._done.append("looked at files")
        if self._failure is not None:
            raise self._failure


@pytest.mark.parametrize("failure", [None, ScanFailed("unreadable")])
def test_workers_reload_rules_after_the_master_has_seen_what_was_uploaded(
    tmp_path: Path, failure: Exception | None
) -> None:
    node = Node(tmp_path, FakePort())
    done: list[str] = []
    node.context.manifests = cast(Any, Files(done, failure))

    async def given(name: str, request: Text, limit_s: float | None) -> Text:
        done.append(name)
        return Text(DONE)

    node.runner._ask = given
    for name in ("wazuh.analysis:reload_ruleset", "wazuh.manager:get_api_config"):
        done.clear()
        ask(node, asked(name, {"node_list": ["w1"]}, DM, nodes=["m", "w1"]), "worker")
        assert done == (["looked at files", "w1"] if "reload" in name else ["w1"])


def test_node_that_is_away_takes_no_other_answer_away_however_large_the_request_is(tmp_path: Path) -> None:
    node = Node(tmp_path, FakePort())
    found = '{"__wazuh_result__": {"__class__": "AffectedItemsWazuhResult", "__object__": %s}}'
    fields = {
        "affected_items": ["w1"], "sort_fields": None, "sort_casting": ["str"], "sort_ascending": [True],
        "total_affected_items": 1, "total_failed_items": 0, "dikt": {}, "all_msg": "", "some_msg": "", "none_msg": "",
        "failed_items_keys": [], "failed_items_values": [],
    }  # fmt: skip
    node.others = {"w1": (found % json.dumps(fields)).encode(), "w2": b""}

    async def without_w2(name: str, request: Text, limit_s: float | None) -> Text:
        if name == "w2":
            raise ClusterError(3022, name)
        return Text(node.others[name])

    node.runner._ask = without_w2
    content = asked(
        "wazuh.manager:update_ossec_conf",
        {"node_list": ["w1", "w2"], "new_conf": "x" * 2_000_000},
        DM,
        nodes=["m", "w1", "w2"],
    )
    answer = ask(node, content, "worker")["__wazuh_result__"]["__object__"]
    assert answer["affected_items"] == ["w1"]
    assert answer["failed_items_values"] == [["w2"]]
    assert answer["failed_items_keys"][0]["__object__"]["code"] == 3022


def test_what_the_master_spreads_is_executed_by_the_framework_of_a_worker(tmp_path: Path) -> None:
    port = FakePort()
    node = Node(tmp_path, port, WORKER)
    content = asked(FRAMEWORK_ONLY, {"agent_list": ["001"]}, DM, from_cluster=True)
    assert ask(node, content, "master") == json.loads(DONE)
    assert port.contents == [content]
    assert code_of(ask(node, asked(FRAMEWORK_ONLY, {"agent_list": ["001"]}, DM), "master")) == 1000
    assert len(port.asked) == 1

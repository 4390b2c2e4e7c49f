"""Who may ask for what, and who answers: the table, row by row (docs/protocol/framework.md)."""

import csv
import itertools
import sys
from pathlib import Path

import pytest

from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.policy import NO_FRAMEWORK, ORIGINS, TABLE, Answerer, Origin, Row, find
from clusterd.dapi.protocol.request import DISTRIBUTED, LOCAL_ANY, LOCAL_MASTER
from clusterd.wire.results import WireCallable

TYPES = (LOCAL_MASTER, DISTRIBUTED, LOCAL_ANY)
MAY = {
    (LOCAL_MASTER, "client"),
    (LOCAL_MASTER, "worker"),
    (DISTRIBUTED, "client"),
    (DISTRIBUTED, "worker"),
    (DISTRIBUTED, "master"),
    (LOCAL_ANY, "client"),
}
"""Which request goes to which node (dapi.md 3.1): a worker passes its API's requests to its master, the master passes
on what it spreads."""
STATES = ("off", "absent", "idle", "starting", "ready", "failed")
BEYOND = {
    "wazuh.core.cluster.control.get_node_ruleset_integrity",
    "wazuh.core.manager.status",
    "wazuh.core.security.rbac_db_factory_reset",
}
"""Rows that no endpoint of the API asks for: a second name, what stock nodes were recorded to ask each other, and
requests of a console tool."""
OF_TOOLS = {
    "wazuh.agent": (
        *("get_agent_groups", "get_agents", "get_agents_in_group", "get_agents_sync_group", "get_group_files"),
        *("create_group", "delete_groups", "assign_agents_to_group", "remove_agent_from_groups"),
        *("upgrade_agents", "get_upgrade_result", "reconnect_agents"),
    ),
    "wazuh.security": ("update_user",),
    "wazuh.core.security": ("rbac_db_factory_reset",),
    "wazuh.cluster": ("get_nodes_info",),
}
"""What stock's console tools ask of the master, all as `local_master` (dapi.md 5.8)."""
FUNCTIONS_TSV = Path(__file__).parents[2] / "docs/protocol/framework_functions.tsv"
ids = {"ids": lambda row: f"{row.module}.{row.qualname}"}


def named(row: Row) -> WireCallable:
    return WireCallable(row.shown, row.module, row.qualname)


def row_of(name: str) -> Row:
    (found,) = (row for row in TABLE if row.shown == name)
    return found


@pytest.mark.parametrize("row", TABLE, **ids)
def test_exactly_the_types_and_origins_of_a_row_pass(row: Row) -> None:
    assert find(named(row)) is row
    for request_type, origin in itertools.product(TYPES, ("client", "worker", "master")):
        may = request_type in row.types and (request_type, origin) in MAY
        refusal = row.refusal(request_type, origin, "full")  # type: ignore[arg-type]
        assert (refusal == "") == may, (request_type, origin)
        if not may:
            assert refusal == f"{row.shown} cannot be asked as {request_type} by a {origin}"


@pytest.mark.parametrize("row", TABLE, **ids)
def test_a_master_may_keep_its_workers_from_changes_and_secrets(row: Row) -> None:
    for request_type in row.types:
        for origin in ORIGINS[request_type]:
            by_setting = {setting: row.refusal(request_type, origin, setting) for setting in ("full", "read", "off")}  # type: ignore[arg-type]
            assert by_setting["full"] == ""
            assert bool(by_setting["read"]) == (origin == "worker" and (row.changes or row.gives_secrets))
            assert bool(by_setting["off"]) == (origin == "worker")


def test_the_table_is_the_list_of_what_stock_sends() -> None:
    with FUNCTIONS_TSV.open() as file:
        listed = {
            line["function"]: (set(line["request types"].split(",")), line["coroutine"] == "yes")
            for line in csv.DictReader(file, delimiter="\t")
        }
    ours = {f"{row.module}.{row.qualname}": (set(row.types), row.is_coroutine) for row in TABLE}
    assert len(ours) == len(TABLE)
    for name in ("wazuh.agent.upgrade_agents", "wazuh.agent.reconnect_agents"):
        listed[name][0].add(LOCAL_MASTER)  # OF_TOOLS
    assert {name: what for name, what in ours.items() if name not in BEYOND} == listed


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in OF_TOOLS for name in OF_TOOLS[module]])
@pytest.mark.parametrize("origin", ["client", "worker"])
def test_console_tools_may_ask_through_any_node(module: str, name: str, origin: Origin) -> None:
    row = find(WireCallable(name, module, name))
    assert row is not None
    assert row.refusal(LOCAL_MASTER, origin, "full") == ""


def test_every_function_of_clusterd_has_its_row() -> None:
    for function in FUNCTIONS:
        row = find(WireCallable(function.shown, function.module, function.qualname))
        assert row is not None, function.shown
        changes = any(not need.action.endswith((":read", ":status")) for need in function.needs)
        assert row.changes == changes or (row.changes and not function.needs), function.shown


def test_what_only_ours_answers_is_there() -> None:
    for row in TABLE:
        if row.who in ("ours", "ours>framework", "framework+ours"):
            assert FUNCTIONS.find(named(row)) is not None, row.shown


def test_who_answers_when_both_can() -> None:
    """By kind of function: framework.md 4, and the words of the issue."""
    for row in TABLE:
        if row.module.startswith(("api.", "wazuh.security", "wazuh.rbac", "wazuh.core.security")):
            assert row.who in ("framework|ours", "framework+ours"), row
        elif row.changes:
            assert row.who == "framework>ours", row
    for different in (
        "get_path_lists", "get_file_conf", "get_agents_keys", "get_distinct_agents", "get_agents_summary",
        "get_agents_sync_group", "get_basic_info", "assign_agents_to_group", "get_agents_overview",
        "get_agents", "get_agents_in_group", "get_agent_groups", "get_group_files", "get_lists", "ossec_log",
        "ossec_log_summary", "get_sca_list",
    ):  # fmt: skip
        assert row_of(different).who == "framework>ours"
    # The framework would ask the daemon again.
    for own in ("get_nodes_info", "get_health_nodes", "get_ruleset_sync_status", "get_status_json"):
        assert row_of(own).who == "ours"
    assert {row.shown for row in TABLE if row.is_for_all} == {"revoke_tokens", "wrapper_revoke_tokens"}
    assert {row.shown for row in TABLE if row.has_configuration} == {
        "get_config",
        "read_ossec_conf",
        "update_ossec_conf",
    }
    assert {row.shown for row in TABLE if row.gives_secrets} == {
        "add_agent",
        "get_agents_keys",
        "get_config",
        "read_ossec_conf",
    }


@pytest.mark.parametrize("row", TABLE, **ids)
def test_order_of_candidates_that_may_lead(row: Row) -> None:
    for state, can_run, has_ours in itertools.product(STATES, (False, True), (False, True)):
        found = row.answerers(has_ours=has_ours, can_run=can_run, state=state)
        ours: list[Answerer] = ["ours"] if has_ours else []
        if row.who == "ours" or state in NO_FRAMEWORK:
            assert found == ours, "as without a framework"
        elif "|" in row.who or "+" in row.who:
            assert found == ["framework"], "users and tokens of another kind are not looked at"
        elif not has_ours:
            assert found == ["framework"], "it says why it cannot"
        elif not can_run:
            assert found == ours
        else:
            assert found == row.who.split(">")


@pytest.mark.parametrize(
    ("name", "module", "qualname"),
    [
        ("system", "os", "system"),
        ("get_users", "wazuh.security", "get_roles"),
        ("get_roles", "wazuh.security", "get_users"),
        ("get_users", "wazuh.security", "get_users.get_users"),
        ("get_users", "wazuh.security", "x.get_users"),
        ("get_users", "wazuh.security", ".get_users"),
        ("get_users", "wazuh.security", "get_users."),
        ("get_users", "wazuh.Security", "get_users"),
        ("get_users", "wazuh", "security.get_users"),
        ("get_users", "wazuh.security.", "get_users"),
        ("get_users", " wazuh.security", "get_users"),
        ("get_users", "wazuh.security\x00", "get_users"),
        ("ｇet_users", "wazuh.security", "ｇet_users"),
        ("__class__", "wazuh.security", "get_users.__class__"),
        ("__globals__", "wazuh.security", "get_users.__globals__"),
        ("__init__", "wazuh.security", "__init__"),
        ("get_agents_overview", "wazuh.core.agent", "get_agents_overview"),
        ("get_agents_overview", "wazuh.core.agent", "Agent.Agent.get_agents_overview"),
        ("Agent", "wazuh.core.agent", "Agent"),
        ("", "", ""),
        ("", "wazuh.security", ""),
    ],
)
def test_names_that_only_look_like_one_of_the_table_are_none(name: str, module: str, qualname: str) -> None:
    before = set(sys.modules)
    assert find(WireCallable(name, module, qualname)) is None
    assert set(sys.modules) == before


def test_methods_of_the_node_object_are_none() -> None:
    row = row_of("get_basic_info")
    assert find(WireCallable(row.shown, row.module, row.qualname, "method", {"path": "/"})) is None

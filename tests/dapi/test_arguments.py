"""Each function accepts what the stock API sends to it (dapi.md 5, framework.md 4). The table is copied from there by
hand."""

import datetime
from typing import Any

import pytest

from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.registry import arguments_of
from clusterd.wire.results import WireCallable, WireException

PAGE: dict[str, Any] = {"offset": 0, "limit": 500, "select": ["name"], "q": "name=a", "distinct": False}
WORDS = PAGE | {
    "sort_by": ["name"],
    "sort_ascending": True,
    "search_text": "a",
    "complementary_search": False,
    "search_in_fields": ["name"],
}
OBJECTS = PAGE | {
    "sort": {"fields": ["name"], "order": "asc"},
    "search": {"value": "a", "negation": False},
    "search_in_fields": ["name"],
    "filters": {"name": "a", "status": ["active"]},
}
FILES = WORDS | {"filename": ["a.xml"], "relative_dirname": "etc/rules", "status": "enabled"}
GROUP: dict[str, Any] = {"group_list": ["web"]}
AGENTS: dict[str, Any] = {"agent_list": ["001"]}
SENT: list[tuple[str, dict[str, Any]]] = [
    ("wazuh.cluster get_nodes_info", PAGE | {"sort": None, "search": None, "filter_node": ["m"], "filter_type": "all"}),
    ("wazuh.cluster get_health_nodes", {"filter_node": ["m"]}),
    ("wazuh.cluster get_status_json", {}),
    ("wazuh.cluster get_node_wrapper", {}),
    ("wazuh.cluster read_config_wrapper", {}),
    ("wazuh.cluster get_ruleset_sync_status", {"master_md5": {"etc/rules/a.xml": "0"}}),
    ("wazuh.core.cluster.control get_node_ruleset_integrity", {}),
    ("wazuh.cluster get_node_ruleset_integrity", {}),
    ("wazuh.core.agent Agent.get_agents_overview", OBJECTS | {"count": True, "get_data": True, "limit": None}),
    ("wazuh.manager get_basic_info", {}),
    ("wazuh.manager get_status", {}),
    ("wazuh.core.manager status", {}),
    ("wazuh.manager ossec_log", WORDS | {"tag": "wazuh-db", "level": "error"}),
    ("wazuh.manager ossec_log_summary", {}),
    ("wazuh.stats totals", {"date": datetime.datetime(2025, 11, 23)}),
    ("wazuh.stats hourly", {}),
    ("wazuh.stats weekly", {}),
    ("wazuh.agent get_agents", OBJECTS | AGENTS),
    ("wazuh.agent get_agents_in_group", OBJECTS | GROUP | {"status": ["active"]}),
    ("wazuh.agent get_agents_summary_status", {}),
    ("wazuh.agent get_agents_summary_os", {}),
    ("wazuh.agent get_agents_summary", AGENTS),
    ("wazuh.agent get_distinct_agents", OBJECTS | {"fields": ["os.name"]}),
    ("wazuh.agent get_outdated_agents", OBJECTS),
    ("wazuh.agent get_agents_sync_group", AGENTS),
    ("wazuh.agent get_agents_keys", AGENTS),
    ("wazuh.agent get_agent_groups", WORDS | GROUP | {"hash_algorithm": "md5"}),
    ("wazuh.agent create_group", {"group_id": "web"}),
    ("wazuh.agent delete_groups", GROUP),
    ("wazuh.agent assign_agents_to_group", GROUP | AGENTS | {"replace": True, "replace_list": ["db"]}),
    ("wazuh.agent remove_agents_from_group", AGENTS | {"group_id": "web"}),
    ("wazuh.agent remove_agents_from_group", AGENTS | GROUP),
    ("wazuh.agent remove_agent_from_group", AGENTS | GROUP),
    ("wazuh.agent remove_agent_from_groups", AGENTS | GROUP),
    (
        "wazuh.agent add_agent",
        {"name": "a", "ip": "any", "agent_id": "001", "key": "k" * 64, "force": {"enabled": True}},
    ),
    (
        "wazuh.agent delete_agents",
        AGENTS | {"purge": True, "filters": {"status": ["all"], "older_than": "7d"}, "q": "id>1"},
    ),
    ("wazuh.agent get_group_files", WORDS | GROUP | {"hash_algorithm": "sha256"}),
    ("wazuh.agent get_file_conf", GROUP | {"filename": "agent.conf", "type_conf": "conf", "raw": True}),
    ("wazuh.rule get_rules_files", FILES),
    ("wazuh.rule get_rule_file", {"filename": "a.xml", "raw": True, "relative_dirname": "etc/rules"}),
    (
        "wazuh.rule upload_rule_file",
        {"filename": "a.xml", "content": "<a/>", "overwrite": True, "relative_dirname": None},
    ),
    ("wazuh.rule delete_rule_file", {"filename": "a.xml", "relative_dirname": "etc/rules"}),
    (
        "wazuh.rule get_rules",
        FILES
        | {
            "rule_ids": [1002],
            "group": "syslog",
            "level": "2-4",
            "pci_dss": "1",
            "gdpr": "1",
            "gpg13": "1",
            "hipaa": "1",
        }
        | {"nist_800_53": "1", "tsc": "1", "mitre": "T1"},
    ),
    ("wazuh.rule get_rules", {"rule_ids": ["1002"], "level": 4}),
    ("wazuh.rule get_groups", WORDS),
    ("wazuh.rule get_requirement", WORDS | {"requirement": "pci_dss"}),
    ("wazuh.decoder get_decoders_files", FILES),
    ("wazuh.decoder get_decoder_file", {"filename": "a.xml", "raw": False}),
    ("wazuh.decoder upload_decoder_file", {"filename": "a.xml", "content": "<a/>", "overwrite": True}),
    ("wazuh.decoder delete_decoder_file", {"filename": "a.xml"}),
    ("wazuh.decoder get_decoders", FILES | {"names": ["sshd"], "parents": True}),
    ("wazuh.cdb_list get_lists", WORDS | {"filename": ["a"], "relative_dirname": "etc/lists"}),
    ("wazuh.cdb_list get_path_lists", WORDS | {"filename": ["a"], "relative_dirname": "etc/lists"}),
    ("wazuh.cdb_list get_list_file", {"filename": ["a"], "raw": True}),
    ("wazuh.cdb_list upload_list_file", {"filename": "a", "content": "a:b", "overwrite": True}),
    ("wazuh.cdb_list delete_list_file", {"filename": "a"}),
    ("wazuh.sca get_sca_list", OBJECTS | AGENTS),
    ("wazuh.sca get_sca_checks", OBJECTS | AGENTS | {"policy_id": "cis"}),
    ("api.authentication check_user_master", {"user": "a", "password": "b"}),
    ("api.authentication get_security_conf", {}),
    (
        "api.authentication check_token",
        {"username": "a", "roles": [1], "token_nbf_time": 1, "run_as": False, "origin_node_type": "worker"},
    ),
    ("wazuh.rbac.preprocessor get_permissions", {"user_id": "a", "auth_context": {"a": 1}}),
    ("wazuh.core.security revoke_tokens", {}),
    ("wazuh.security wrapper_revoke_tokens", {}),
]


@pytest.mark.parametrize(("name", "sent"), SENT, ids=[f"{number} {name}" for number, (name, _) in enumerate(SENT)])
def test_what_stock_sends_is_taken(name: str, sent: dict[str, Any]) -> None:
    module, qualname = name.split()
    function = FUNCTIONS.find(WireCallable(qualname.rpartition(".")[2], module, qualname))
    assert function is not None
    arguments_of(function, sent)
    with pytest.raises(WireException):
        arguments_of(function, sent | {"nobody_sends_this": 1})


def test_the_table_has_every_function() -> None:
    assert {name for name, _ in SENT} == {f"{one.module} {one.qualname}" for one in FUNCTIONS}


def test_whatever_can_be_searched_can_be_searched_by_field() -> None:
    for function in FUNCTIONS:
        fields = set(function.arguments.__struct_fields__)
        if function.qualname != "get_nodes_info" and fields & {"search", "search_text"}:
            assert "search_in_fields" in fields, function.qualname

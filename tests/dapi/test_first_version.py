"""Everything that dapi.md marks for the first version exists: functions by their stock names and request types,
endpoints by method and path. The lists are copied by hand from its sections 5.2 to 5.8, so that a lost entry is
noticed."""

import pytest

from clusterd.api.table import ENDPOINTS
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.policy import find
from clusterd.wire.results import WireCallable

LA, LM, DM = "local_any", "local_master", "distributed_master"
REQUIRED = """
GET /cluster/nodes                           LM cluster.get_nodes_info
GET /cluster/healthcheck                     LM cluster.get_health_nodes
GET /cluster/status                          LM cluster.get_status_json
GET /cluster/local/info                      LA cluster.get_node_wrapper
GET /cluster/local/config                    LA cluster.read_config_wrapper
GET /cluster/{node_id}/info                  DM manager.get_basic_info
GET /cluster/{node_id}/status                DM manager.get_status
GET /cluster/{node_id}/logs                  DM manager.ossec_log
GET /cluster/{node_id}/logs/summary          DM manager.ossec_log_summary
GET /cluster/{node_id}/stats                 DM stats.totals
GET /cluster/{node_id}/stats/hourly          DM stats.hourly
GET /cluster/{node_id}/stats/weekly          DM stats.weekly
GET /cluster/ruleset/synchronization         DM cluster.get_ruleset_sync_status
-                                            LM core.cluster.control.get_node_ruleset_integrity
-                                            LM core.agent.Agent.get_agents_overview
GET /agents                                  LM agent.get_agents
GET /agents/no_group                         LM agent.get_agents
GET /agents/summary/status                   LM agent.get_agents_summary_status
GET /agents/summary/os                       LM agent.get_agents_summary_os
GET /groups                                  LM agent.get_agent_groups
GET /groups/{group_id}/agents                LM agent.get_agents_in_group
POST /groups                                 LM agent.create_group
DELETE /groups                               LM agent.delete_groups
PUT /agents/group                            LM agent.assign_agents_to_group
PUT /agents/{agent_id}/group/{group_id}      LM agent.assign_agents_to_group
DELETE /agents/group                         LM agent.remove_agents_from_group
DELETE /agents/{agent_id}/group/{group_id}   LM agent.remove_agent_from_group
GET /groups/{group_id}/files                 LM agent.get_group_files
GET /groups/{group_id}/files/{file_name}     LM agent.get_file_conf
GET /rules/files                             LA rule.get_rules_files
GET /decoders/files                          LA decoder.get_decoders_files
GET /rules/files/{filename}                  LM rule.get_rule_file
GET /decoders/files/{filename}               LM decoder.get_decoder_file
PUT /rules/files/{filename}                  LM rule.upload_rule_file
PUT /decoders/files/{filename}               LM decoder.upload_decoder_file
DELETE /rules/files/{filename}               LM rule.delete_rule_file
DELETE /decoders/files/{filename}            LM decoder.delete_decoder_file
GET /lists/files                             LM cdb_list.get_path_lists
GET /lists                                   LM cdb_list.get_lists
GET /lists/files/{filename}                  LM cdb_list.get_list_file
PUT /lists/files/{filename}                  LM cdb_list.upload_list_file
DELETE /lists/files/{filename}               LM cdb_list.delete_list_file
GET /sca/{agent_id}                          DM sca.get_sca_list
GET /manager/info                            LA manager.get_basic_info
GET /manager/status                          LA manager.get_status
GET /manager/logs                            LA manager.ossec_log
GET /manager/logs/summary                    LA manager.ossec_log_summary
-                                            LM api.authentication.check_user_master
-                                            LM rbac.preprocessor.get_permissions
-                                            LM api.authentication.get_security_conf
-                                            LM api.authentication.check_token
"""
ROWS = [line.split() for line in REQUIRED.strip().splitlines()]


@pytest.mark.parametrize(("request_type", "name"), sorted({(row[-2], row[-1]) for row in ROWS}))
def test_function_of_the_first_version_is_registered(request_type: str, name: str) -> None:
    words = name.split(".")
    place = -2 if words[-2][0].isupper() else -1
    module = ".".join(words[:place] if words[0] == "api" else ["wazuh", *words[:place]])
    asked = WireCallable(words[-1], module, ".".join(words[place:]))
    row = find(asked)
    assert FUNCTIONS.find(asked) is not None
    assert row is not None
    assert {"LA": LA, "LM": LM, "DM": DM}[request_type] in row.types


@pytest.mark.parametrize(("method", "path", "name"), [(row[0], row[1], row[-1]) for row in ROWS if row[0] != "-"])
def test_endpoint_of_the_first_version_asks_its_function(method: str, path: str, name: str) -> None:
    (endpoint,) = (one for one in ENDPOINTS if (one.method, one.path) == (method, path))
    assert f"{endpoint.function.module}.{endpoint.function.qualname}" == f"wazuh.{name}"


def test_no_endpoint_asks_what_is_not_registered() -> None:
    for endpoint in ENDPOINTS:
        asked = endpoint.function
        row = find(asked.name)
        assert FUNCTIONS.find(asked.name) is not None, endpoint.path
        assert row is not None
        assert asked.request_type in row.types

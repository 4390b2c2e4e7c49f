"""An example of each answer, by the endpoint's operationId. The schemas of the OpenAPI document are generated from
them.

For a list of affected items, one item; for an object, the value of `data`; for a message, its text.
tests/api/test_examples.py compares them with the answers of the functions.
"""

from collections.abc import Mapping
from typing import Any

from clusterd import __version__
from clusterd.api.endpoint import Endpoint

_KEY = "MDAxIHdlYi0wMSBhbnkgOWY4NmQwODE4ODRjN2Q2NTlhMmZlYWEwYzU1YWQwMTVhM2JmNGYxYjJiMGI4MjJjZDE1ZDZjMTViMGYwMGEwOA=="
_AGENT = {
    "os": {
        "name": "Ubuntu", "version": "22.04.3 LTS", "platform": "ubuntu", "codename": "Jammy Jellyfish", "major": "22",
        "minor": "04", "uname": "Linux |web-01 |5.15.0", "arch": "x86_64", "build": "22621",
    },
    "id": "001", "name": "web-01", "ip": "10.0.10.21", "registerIP": "any", "status": "active",
    "version": "Wazuh v4.14.1", "manager": "wazuh-worker1", "node_name": "worker1",
    "dateAdd": "2025-10-02T08:11:40+00:00", "lastKeepAlive": "2025-11-23T10:15:00+00:00",
    "disconnection_time": "2025-11-20T09:00:00+00:00",
    "group": ["default", "web"], "mergedSum": "4a8724b20dee0124ff9656783c490c4e",
    "configSum": "ab73af41699f13fdd81903b5f23d8d00", "group_config_status": "synced", "status_code": 0,
}  # fmt: skip
_INFO = {
    "path": "/var/ossec", "version": "v4.14.1", "type": "server", "max_agents": "unlimited", "openssl_support": "yes",
    "tz_offset": "+0000", "tz_name": "UTC", "uuid": None,
}  # fmt: skip
_STATES = {"wazuh-analysisd": "running", "wazuh-authd": "running", "wazuh-clusterd": "running", "wazuh-db": "stopped"}
_LINE = {
    "timestamp": "2025-11-23T10:15:02Z", "tag": "wazuh-remoted", "level": "warning", "description": " Queue is full.",
}  # fmt: skip
_LINES = {"wazuh-remoted": {"all": 5, "info": 3, "error": 0, "critical": 0, "warning": 2, "debug": 0}}
_HOUR = {
    "hour": 10, "alerts": [{"sigid": 5710, "level": 5, "times": 3}], "totalAlerts": 3, "events": 1200, "syscheck": 4,
    "firewall": 0,
}  # fmt: skip
_HOURS = [
    310,
    280,
    240,
    220,
    215,
    230,
    260,
    340,
    610,
    720,
    760,
    745,
    700,
    715,
    730,
    720,
    690,
    600,
    480,
    430,
    400,
    380,
    350,
    330,
]
_AVERAGES = {"averages": _HOURS, "interactions": 12}
_WEEK = {"Sun": {"hours": _HOURS, "interactions": 3}}
_STATUS = {
    "sync_integrity_free": True,
    "last_check_integrity": {
        "date_start_master": "2025-11-23T10:15:02.118340Z", "date_end_master": "2025-11-23T10:15:02.204877Z",
    },
    "last_sync_integrity": {
        "date_start_master": "2025-11-23T09:58:11.004512Z", "date_end_master": "2025-11-23T09:58:11.731903Z",
        "total_extra_valid": 0, "total_files": {"missing": 4, "extra": 0, "shared": 1},
    },
    "sync_agent_info_free": True,
    "last_sync_agentinfo": {
        "date_start_master": "2025-11-23T10:15:05.300114Z", "date_end_master": "2025-11-23T10:15:05.318290Z",
        "n_synced_chunks": 3,
    },
    "last_sync_agentgroup": {
        "date_start": "2025-11-23T10:15:04.551020Z", "date_end": "2025-11-23T10:15:04.553911Z", "n_synced_chunks": 1,
    },
    "last_sync_full_agentgroup": {
        "date_start": "2025-11-23T09:58:45.002118Z", "date_end": "2025-11-23T09:58:45.040771Z", "n_synced_chunks": 1,
    },
    "last_keep_alive": "2025-11-23T10:14:31.770204Z",
}  # fmt: skip
_NODE = {"name": "worker1", "type": "worker", "version": "4.14.1", "ip": "10.0.0.12"}
_RULE = {
    "filename": "0095-sshd_rules.xml", "relative_dirname": "ruleset/rules", "id": 5710, "level": 5, "status": "enabled",
    "details": {"if_sid": "5700", "match": "illegal user|invalid user"}, "pci_dss": ["10.2.4", "10.2.5"],
    "gpg13": ["7.1"], "gdpr": ["IV_35.7.d"], "hipaa": ["164.312.b"], "nist_800_53": ["AU.14"], "tsc": ["CC6.1"],
    "mitre": ["T1110"], "groups": ["syslog", "sshd"], "description": "sshd: attempt to log in as a user that is none",
}  # fmt: skip
_DECODER = {
    "filename": "0310-ssh_decoders.xml", "relative_dirname": "ruleset/decoders", "name": "sshd-success", "position": 1,
    "status": "enabled", "details": {"parent": "sshd", "prematch": "^Accepted"},
}  # fmt: skip
_CHECK = {
    "id": 28500, "policy_id": "cis_ubuntu22-04", "title": "Ensure that /tmp is a partition of its own",
    "description": "The directory /tmp can be written by everybody.", "rationale": "It fills up.",
    "remediation": "Mount it.", "file": "/etc/fstab", "process": "", "directory": "/tmp", "registry": "",
    "command": "findmnt --kernel /tmp", "references": "https://example.org/cis", "result": "failed",
    "reason": "Not mounted", "condition": "all", "compliance": [{"key": "cis", "value": "1.1.2.1"}],
    "rules": [{"type": "command", "rule": "c:findmnt --kernel /tmp -> r:tmpfs"}],
}  # fmt: skip
_POLICY = {
    "policy_id": "cis_ubuntu22-04", "name": "CIS Ubuntu Linux 22.04", "description": "Hardening of Ubuntu 22.04",
    "references": "https://example.org/cis", "pass": 70, "fail": 110, "score": 38, "invalid": 2, "total_checks": 182,
    "hash_file": "a9a2f7c1", "start_scan": "2025-11-23T08:00:00+00:00", "end_scan": "2025-11-23T08:00:04+00:00",
}  # fmt: skip
_COUNTS = {"active": 41, "disconnected": 3, "never_connected": 1, "pending": 0}


def _file(name: str, directory: str) -> dict[str, Any]:
    return {"filename": name, "relative_dirname": directory, "status": "enabled"}


EXAMPLES: Mapping[str, Any] = {
    "get_cluster_nodes": _NODE,
    "get_cluster_healthcheck": {"info": _NODE | {"n_active_agents": 41}, "status": _STATUS},
    "get_cluster_status": {"enabled": "yes", "running": "yes"},
    "get_cluster_local_info": {"node": "worker1", "cluster": "wazuh", "type": "worker"},
    "get_cluster_local_config": {
        "name": "wazuh", "node_name": "worker1", "node_type": "worker", "key": "*****", "port": 1516,
        "bind_addr": "0.0.0.0", "nodes": ["10.0.0.11"], "hidden": "no", "disabled": False,
    },
    "get_cluster_ruleset_synchronization": {"name": "worker1", "synced": True},
    "get_cluster_node_id_info": _INFO,
    "get_cluster_node_id_status": _STATES,
    "get_cluster_node_id_logs": _LINE,
    "get_cluster_node_id_logs_summary": _LINES,
    "get_cluster_node_id_stats": _HOUR,
    "get_cluster_node_id_stats_hourly": _AVERAGES,
    "get_cluster_node_id_stats_weekly": _WEEK,
    "get_agents": _AGENT,
    "get_agents_no_group": {name: _AGENT[name] for name in ("id", "name", "ip", "registerIP", "status", "dateAdd")},
    "get_agents_outdated": _AGENT | {"version": "Wazuh v4.12.0"},
    "get_agents_stats_distinct": {"os": {"platform": "ubuntu"}, "count": 41},
    "get_agents_summary": {"status": _COUNTS, "os": {"ubuntu": 41}, "groups": {"default": 40, "web": 12}},
    "get_agents_summary_status": {
        "connection": _COUNTS | {"total": 45},
        "configuration": {"synced": 40, "not_synced": 5, "total": 45},
    },
    "get_agents_summary_os": "ubuntu",
    "get_agents_agent_id_group_is_sync": {"id": "001", "synced": True},
    "get_agents_agent_id_key": {"id": "001", "key": _KEY},
    "post_agents": {"id": "001", "key": _KEY},
    "post_agents_insert": {"id": "001", "key": _KEY},
    "post_agents_insert_quick": {"id": "001", "key": _KEY},
    "delete_agents": "001",
    "put_agents_group": "001",
    "delete_agents_group": "001",
    "put_agents_agent_id_group_group_id": "001",
    "delete_agents_agent_id_group_group_id": "Agent '001' was removed from 'web'",
    "delete_agents_agent_id_group": "web",
    "get_groups": {
        "name": "web", "count": 12, "mergedSum": "4a8724b20dee0124ff9656783c490c4e",
        "configSum": "ab73af41699f13fdd81903b5f23d8d00",
    },
    "post_groups": "Group 'web' was created",
    "delete_groups": "web",
    "get_groups_group_id_agents": _AGENT,
    "get_groups_group_id_files": {"filename": "agent.conf", "hash": "ab73af41699f13fdd81903b5f23d8d00"},
    "get_groups_group_id_files_file_name": {
        "total_affected_items": 1,
        "affected_items": [
            {
                "filters": {"os": "Linux"},
                "config": {"localfile": [{"location": "/var/log/app.log", "log_format": "syslog"}]},
            }
        ],
    },
    "get_rules": _RULE,
    "get_rules_groups": "sshd",
    "get_rules_requirement_requirement": "10.2.4",
    "get_rules_files": _file("0095-sshd_rules.xml", "ruleset/rules"),
    "get_rules_files_filename": {"group": {"@name": "local,", "rule": {"@id": "100100", "@level": "3"}}},
    "put_rules_files_filename": "etc/rules/local_rules.xml",
    "delete_rules_files_filename": "etc/rules/local_rules.xml",
    "get_decoders": _DECODER,
    "get_decoders_parents": _DECODER | {"name": "sshd", "position": 0, "details": {"program_name": "^sshd"}},
    "get_decoders_files": _file("0310-ssh_decoders.xml", "ruleset/decoders"),
    "get_decoders_files_filename": {"decoder": {"@name": "local", "prematch": "^local: "}},
    "put_decoders_files_filename": "etc/decoders/local_decoder.xml",
    "delete_decoders_files_filename": "etc/decoders/local_decoder.xml",
    "get_lists": {
        "items": [{"key": "10.0.0.1", "value": "scanner"}], "relative_dirname": "etc/lists", "filename": "addresses",
    },
    "get_lists_files": {"relative_dirname": "etc/lists", "filename": "addresses"},
    "get_lists_files_filename": {"10.0.0.1": "scanner"},
    "put_lists_files_filename": "etc/lists/addresses",
    "delete_lists_files_filename": "etc/lists/addresses",
    "get_sca_agent_id": _POLICY,
    "get_sca_agent_id_checks_policy_id": _CHECK,
    "get_manager_info": _INFO,
    "get_manager_status": _STATES,
    "get_manager_logs": _LINE,
    "get_manager_logs_summary": _LINES,
    "get_manager_stats": _HOUR,
    "get_manager_stats_hourly": _AVERAGES,
    "get_manager_stats_weekly": _WEEK,
}  # fmt: skip
BODIES: Mapping[str, Any] = {
    "post_agents": {"name": "web-01", "ip": "10.0.10.21"},
    "post_agents_insert": {"name": "web-01", "ip": "any", "id": "001", "key": "0123456789abcdef" * 4},
    "post_groups": {"group_id": "web"},
}
"""Bodies of requests with a JSON body."""
VALUES: Mapping[str, str] = {
    "agent_id": "001", "agents_list": "001,002", "agent_name": "web-01", "group_id": "web", "groups_list": "web",
    "file_name": "agent.conf", "node_id": "worker1", "policy_id": "cis_ubuntu22-04", "requirement": "pci_dss",
    "status": "disconnected",
}  # fmt: skip
"""Values of required parameters."""
FILE_NAMES = {"Rules": "local_rules.xml", "Decoders": "local_decoder.xml", "Lists": "addresses"}
_FREE = frozenset({"details"})
"""Objects whose members depend on the file."""
ABOUT = {
    "title": "clusterd REST API", "api_version": __version__, "revision": 1, "license_name": "Apache-2.0",
    "license_url": "https://www.apache.org/licenses/LICENSE-2.0", "hostname": "worker1",
    "timestamp": "2025-11-23T10:15:02Z",
}  # fmt: skip


def answer_of(endpoint: Endpoint) -> dict[str, Any]:
    """Returns the body of a successful answer."""
    example = EXAMPLES[endpoint.name]
    match endpoint.answer:
        case "items":
            data = {"affected_items": [example], "total_affected_items": 1, "total_failed_items": 0, "failed_items": []}
            return {"data": data, "message": "All selected ...", "error": 0}
        case "object":
            return {"data": example, "error": 0}
        case _:
            return {"message": example, "error": 0}


def request_of(endpoint: Endpoint) -> str:
    """Returns path and query of a request with all required parameters."""
    path, query = endpoint.path, []
    for parameter in endpoint.parameters:
        value = VALUES.get(parameter.name, FILE_NAMES.get(endpoint.tag, ""))
        if parameter.place == "path":
            path = path.replace(f"{{{parameter.name}}}", value)
        elif parameter.is_required:
            query.append(f"{parameter.name}={value}")
    return f"{path}?{'&'.join(query)}" if query else path


def schema_of(example: Any) -> dict[str, Any]:
    """Returns the schema that an example implies: types, and the names of members, all of them optional."""
    match example:
        case None:
            return {}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": schema_of(example[0])}
        case _:
            members = {
                name: {"type": "object"} if name in _FREE else schema_of(value) for name, value in example.items()
            }
            return {"type": "object", "properties": members}

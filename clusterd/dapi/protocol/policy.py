"""The table of functions that a request of the distributed API may name: in which type of request, from which origin,
and who answers (docs/protocol/framework.md).

A name that is not in the table has no effect: nothing is imported, looked up or called for it. The node that executes a
request checks it here; a node that passes it on leaves the decision to the other one.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import msgspec

from clusterd.dapi.protocol.request import DISTRIBUTED, LOCAL_ANY, LOCAL_MASTER, RequestType
from clusterd.settings import WorkerApi
from clusterd.wire.results import WireCallable

Origin = Literal["client", "worker", "master"]
"""Where the request is from: a program on this machine, a worker (of a master), the master (of a worker)."""
Answerer = Literal["ours", "framework"]
"""Our registry's function, in sync or in the pool; or the framework that is installed on the node."""
Who = Literal["ours", "ours>framework", "framework>ours", "framework|ours", "framework+ours"]
"""`a>b`: a, else b. `framework|ours`: the framework wherever one is installed, even while it fails; ours only where
there is none. `framework+ours`: the same, and our function runs as well."""
NO_FRAMEWORK = frozenset({"off", "absent"})
"""States of a node that is not expected to have a framework."""

ORIGINS: Mapping[RequestType, frozenset[Origin]] = {
    LOCAL_MASTER: frozenset({"client", "worker"}),
    DISTRIBUTED: frozenset({"client", "worker", "master"}),
    LOCAL_ANY: frozenset({"client"}),
}
"""The origins of each type of request. Only the master sends what it distributes, and what any node answers itself is
asked from its own machine (dapi.md 3.1)."""


_ELSEWHERE = frozenset({"reconnect_agents", "upgrade_agents", "end_logtest_session", "run_logtest", "restart"})
"""Functions of a master that change something at agents, or in a daemon."""
_OF_GROUPS = frozenset(
    {
        "assign_agents_to_group",
        "create_group",
        "delete_groups",
        "remove_agent_from_group",
        "remove_agent_from_groups",
        "remove_agents_from_group",
    }
)


class Row(msgspec.Struct, frozen=True):
    """A function that may be requested. `changes`: it must not run twice. `gives_secrets`: what it reads is as
    dangerous as a change. `has_configuration`: it shows or takes the node's configuration, which contains the cluster
    key (masking.py)."""

    module: str
    qualname: str
    types: frozenset[RequestType]
    is_coroutine: bool
    changes: bool
    gives_secrets: bool
    has_configuration: bool
    who: Who

    @property
    def shown(self) -> str:
        """The name in log lines and refusals."""
        return self.qualname.rpartition(".")[2]

    @property
    def is_sensitive(self) -> bool:
        """Whether it changes something or discloses secrets."""
        return self.changes or self.gives_secrets

    @property
    def changes_master(self) -> bool:
        """Whether a master has changed something of its own afterwards, which the next master must have: files, agents,
        users."""
        return self.changes and LOCAL_MASTER in self.types and self.shown not in _ELSEWHERE

    @property
    def changes_groups(self) -> bool:
        """Whether it changes the groups of agents. Candidates have them in their replica; agents are there, too, but
        authd waits for candidates itself."""
        return self.module == "wazuh.agent" and self.shown in _OF_GROUPS

    @property
    def is_login(self) -> bool:
        """Whether it tells if a password is right (dapi.md 5.8)."""
        return (self.module, self.qualname) == ("api.authentication", "check_user_master")

    @property
    def is_for_all(self) -> bool:
        """Whether it is sent to every connected node, including nodes that the asker may not read: revoked tokens are
        revoked everywhere."""
        return self.who == "framework+ours"

    def refusal(self, request_type: RequestType, origin: Origin, worker_api: WorkerApi) -> str:
        """Returns why this origin may not ask for it in this type of request; empty if it may. `worker_api`: this
        node's setting."""
        if request_type not in self.types or origin not in ORIGINS[request_type]:
            return f"{self.shown} cannot be asked as {request_type} by a {origin}"
        if origin == "worker" and (worker_api == "off" or (worker_api == "read" and self.is_sensitive)):
            return f"this master's clusterd.worker_api is {worker_api}: ask the master for {self.shown}"
        return ""

    def answerers(self, *, has_ours: bool, can_run: bool, state: str) -> list[Answerer]:
        """Returns who is asked, in this order, until one begins. If the list is empty, the function is not available.
        `has_ours`: our registry has it; `can_run` and `state`: reported by the framework's port. A framework that has
        no substitute is asked in any case: its answer explains why it cannot run."""
        ours: list[Answerer] = ["ours"] if has_ours else []
        framework: list[Answerer] = ["framework"]
        if self.who == "ours" or state in NO_FRAMEWORK:
            return ours
        if self.who in ("framework|ours", "framework+ours") or not ours:
            return framework
        if not can_run:
            return ours
        return ours + framework if self.who == "ours>framework" else framework + ours


_TYPES: Mapping[str, RequestType] = {"M": LOCAL_MASTER, "D": DISTRIBUTED, "A": LOCAL_ANY}


_KINDS = {"plain": False, "coroutine": True}
_WHO: Mapping[str, Who] = {who: who for who in get_args(Who)}


def _row(line: str) -> Row:
    """Parses a row. Raises LookupError for an unknown word: a bug."""
    name, types, kind, effect, who = line.split()
    module, qualname = name.split(":")
    what, _, about = effect.partition("+")
    return Row(
        module,
        qualname,
        frozenset(_TYPES[letter] for letter in types),
        is_coroutine=_KINDS[kind],
        changes={"reads": False, "changes": True}[what],
        gives_secrets={"": False, "secrets": True, "configuration": what == "reads"}[about],
        has_configuration=about == "configuration",
        who=_WHO[who],
    )


# M: local_master, D: distributed_master, A: local_any. Every function that a stock 4.14 API requests, and, at the end,
# those of its tools. Its tools also request some functions of the API in another type, M (dapi.md 5.8).
TABLE: tuple[Row, ...] = tuple(
    _row(line)
    for line in """
api.authentication:check_token                         M   plain     reads                 framework|ours
api.authentication:check_user_master                   M   plain     reads                 framework|ours
api.authentication:get_security_conf                   M   plain     reads                 framework|ours
wazuh.active_response:run_command                      D   plain     changes               framework>ours
wazuh.agent:add_agent                                  M   plain     changes+secrets       framework>ours
wazuh.agent:assign_agents_to_group                     M   coroutine changes               framework>ours
wazuh.agent:check_uninstall_permission                 M   plain     reads                 framework>ours
wazuh.agent:create_group                               M   plain     changes               framework>ours
wazuh.agent:delete_agents                              M   plain     changes               framework>ours
wazuh.agent:delete_groups                              M   plain     changes               framework>ours
wazuh.agent:get_agent_conf                             M   plain     reads                 framework>ours
wazuh.agent:get_agent_config                           D   plain     reads                 framework>ours
wazuh.agent:get_agent_groups                           M   plain     reads                 framework>ours
wazuh.agent:get_agents                                 M   plain     reads                 framework>ours
wazuh.agent:get_agents_in_group                        M   plain     reads                 framework>ours
wazuh.agent:get_agents_keys                            M   plain     reads+secrets         framework>ours
wazuh.agent:get_agents_summary                         M   coroutine reads                 framework>ours
wazuh.agent:get_agents_summary_os                      M   plain     reads                 ours>framework
wazuh.agent:get_agents_summary_status                  M   plain     reads                 ours>framework
wazuh.agent:get_agents_sync_group                      M   plain     reads                 framework>ours
wazuh.agent:get_distinct_agents                        M   plain     reads                 framework>ours
wazuh.agent:get_file_conf                              M   plain     reads                 framework>ours
wazuh.agent:get_full_overview                          M   plain     reads                 framework>ours
wazuh.agent:get_group_files                            M   plain     reads                 framework>ours
wazuh.agent:get_outdated_agents                        M   plain     reads                 framework>ours
wazuh.agent:get_upgrade_result                         M   plain     reads                 framework>ours
wazuh.agent:reconnect_agents                           MD  plain     changes               framework>ours
wazuh.agent:remove_agent_from_group                    M   coroutine changes               framework>ours
wazuh.agent:remove_agent_from_groups                   M   coroutine changes               framework>ours
wazuh.agent:remove_agents_from_group                   M   coroutine changes               framework>ours
wazuh.agent:restart_agents                             D   coroutine changes               framework>ours
wazuh.agent:restart_agents_by_group                    D   coroutine changes               framework>ours
wazuh.agent:restart_agents_by_node                     D   coroutine changes               framework>ours
wazuh.agent:upgrade_agents                             MD  plain     changes               framework>ours
wazuh.agent:upload_group_file                          M   plain     changes               framework>ours
wazuh.analysis:reload_ruleset                          DA  coroutine changes               framework>ours
wazuh.cdb_list:delete_list_file                        M   plain     changes               framework>ours
wazuh.cdb_list:get_list_file                           M   plain     reads                 ours>framework
wazuh.cdb_list:get_lists                               M   plain     reads                 framework>ours
wazuh.cdb_list:get_path_lists                          M   plain     reads                 framework>ours
wazuh.cdb_list:upload_list_file                        M   plain     changes               framework>ours
wazuh.ciscat:get_ciscat_results                        D   plain     reads                 framework>ours
wazuh.cluster:get_health_nodes                         M   coroutine reads                 ours
wazuh.cluster:get_node_ruleset_integrity               M   coroutine reads                 ours
wazuh.cluster:get_node_wrapper                         A   plain     reads                 ours
wazuh.cluster:get_nodes_info                           M   coroutine reads                 ours
wazuh.cluster:get_ruleset_sync_status                  D   coroutine reads                 ours
wazuh.cluster:get_status_json                          M   plain     reads                 ours
wazuh.cluster:read_config_wrapper                      A   plain     reads                 ours
wazuh.core.manager:query_update_check_service          M   coroutine reads                 framework>ours
wazuh.core.security:revoke_tokens                      DA  plain     changes               framework+ours
wazuh.decoder:delete_decoder_file                      M   plain     changes               framework>ours
wazuh.decoder:get_decoder_file                         M   plain     reads                 ours>framework
wazuh.decoder:get_decoders                             A   plain     reads                 ours>framework
wazuh.decoder:get_decoders_files                       A   plain     reads                 ours>framework
wazuh.decoder:upload_decoder_file                      M   plain     changes               framework>ours
wazuh.event:send_event_to_analysisd                    A   plain     changes               framework>ours
wazuh.logtest:end_logtest_session                      M   plain     changes               framework>ours
wazuh.logtest:run_logtest                              M   plain     changes               framework>ours
wazuh.manager:get_api_config                           DA  plain     reads                 framework>ours
wazuh.manager:get_basic_info                           DA  plain     reads                 framework>ours
wazuh.manager:get_config                               DA  plain     reads+configuration   framework>ours
wazuh.manager:get_status                               DA  plain     reads                 ours>framework
wazuh.manager:get_update_information                   M   plain     reads                 framework>ours
wazuh.manager:ossec_log                                DA  plain     reads                 framework>ours
wazuh.manager:ossec_log_summary                        DA  plain     reads                 framework>ours
wazuh.manager:read_ossec_conf                          DA  plain     reads+configuration   framework>ours
wazuh.manager:restart                                  MDA plain     changes               framework>ours
wazuh.manager:update_ossec_conf                        DA  plain     changes+configuration framework>ours
wazuh.manager:validation                               DA  plain     reads                 framework>ours
wazuh.mitre:mitre_groups                               A   plain     reads                 framework>ours
wazuh.mitre:mitre_metadata                             A   plain     reads                 framework>ours
wazuh.mitre:mitre_mitigations                          A   plain     reads                 framework>ours
wazuh.mitre:mitre_references                           A   plain     reads                 framework>ours
wazuh.mitre:mitre_software                             A   plain     reads                 framework>ours
wazuh.mitre:mitre_tactics                              A   plain     reads                 framework>ours
wazuh.mitre:mitre_techniques                           A   plain     reads                 framework>ours
wazuh.rbac.preprocessor:get_permissions                M   plain     reads                 framework|ours
wazuh.rootcheck:clear                                  D   plain     changes               framework>ours
wazuh.rootcheck:get_last_scan                          D   plain     reads                 framework>ours
wazuh.rootcheck:get_rootcheck_agent                    D   plain     reads                 framework>ours
wazuh.rootcheck:run                                    D   plain     changes               framework>ours
wazuh.rule:delete_rule_file                            M   plain     changes               framework>ours
wazuh.rule:get_groups                                  A   plain     reads                 ours>framework
wazuh.rule:get_requirement                             A   plain     reads                 ours>framework
wazuh.rule:get_rule_file                               M   plain     reads                 ours>framework
wazuh.rule:get_rules                                   A   plain     reads                 ours>framework
wazuh.rule:get_rules_files                             A   plain     reads                 ours>framework
wazuh.rule:upload_rule_file                            M   plain     changes               framework>ours
wazuh.sca:get_sca_checks                               D   plain     reads                 framework>ours
wazuh.sca:get_sca_list                                 D   plain     reads                 framework>ours
wazuh.security:add_policy                              M   plain     changes               framework|ours
wazuh.security:add_role                                M   plain     changes               framework|ours
wazuh.security:add_rule                                M   plain     changes               framework|ours
wazuh.security:create_user                             M   plain     changes               framework|ours
wazuh.security:edit_run_as                             M   plain     changes               framework|ours
wazuh.security:get_policies                            M   plain     reads                 framework|ours
wazuh.security:get_rbac_actions                        A   plain     reads                 framework|ours
wazuh.security:get_rbac_resources                      A   plain     reads                 framework|ours
wazuh.security:get_roles                               M   plain     reads                 framework|ours
wazuh.security:get_rules                               M   plain     reads                 framework|ours
wazuh.security:get_security_config                     M   plain     reads                 framework|ours
wazuh.security:get_user_me                             M   plain     reads                 framework|ours
wazuh.security:get_users                               M   plain     reads                 framework|ours
wazuh.security:remove_policies                         M   plain     changes               framework|ours
wazuh.security:remove_role_policy                      M   plain     changes               framework|ours
wazuh.security:remove_role_rule                        M   plain     changes               framework|ours
wazuh.security:remove_roles                            M   plain     changes               framework|ours
wazuh.security:remove_rules                            M   plain     changes               framework|ours
wazuh.security:remove_user_role                        M   plain     changes               framework|ours
wazuh.security:remove_users                            M   plain     changes               framework|ours
wazuh.security:revoke_current_user_tokens              M   plain     changes               framework|ours
wazuh.security:set_role_policy                         M   plain     changes               framework|ours
wazuh.security:set_role_rule                           M   plain     changes               framework|ours
wazuh.security:set_user_role                           M   plain     changes               framework|ours
wazuh.security:update_policy                           M   plain     changes               framework|ours
wazuh.security:update_role                             M   plain     changes               framework|ours
wazuh.security:update_rule                             M   plain     changes               framework|ours
wazuh.security:update_security_config                  M   plain     changes               framework|ours
wazuh.security:update_user                             M   plain     changes               framework|ours
wazuh.security:wrapper_revoke_tokens                   DA  plain     changes               framework+ours
wazuh.stats:deprecated_get_daemons_stats               DA  plain     reads                 framework>ours
wazuh.stats:get_agents_component_stats_json            D   plain     reads                 framework>ours
wazuh.stats:get_daemons_stats                          DA  plain     reads                 framework>ours
wazuh.stats:get_daemons_stats_agents                   D   plain     reads                 framework>ours
wazuh.stats:hourly                                     DA  plain     reads                 ours>framework
wazuh.stats:totals                                     DA  plain     reads                 ours>framework
wazuh.stats:weekly                                     DA  plain     reads                 ours>framework
wazuh.syscheck:clear                                   D   plain     changes               framework>ours
wazuh.syscheck:files                                   D   plain     reads                 framework>ours
wazuh.syscheck:last_scan                               D   plain     reads                 framework>ours
wazuh.syscheck:run                                     D   plain     changes               framework>ours
wazuh.syscollector:get_item_agent                      D   plain     reads                 framework>ours
wazuh.task:get_task_status                             M   plain     reads                 framework>ours
wazuh.core.agent:Agent.get_agents_overview             M   plain     reads                 framework>ours
wazuh.core.cluster.control:get_node_ruleset_integrity  MA  coroutine reads                 ours
wazuh.core.manager:status                              MD  plain     reads                 ours
wazuh.core.security:rbac_db_factory_reset              M   plain     changes               framework|ours
""".strip().splitlines()
)

_BY_NAME = {(row.module, row.qualname): row for row in TABLE}


def find(name: WireCallable) -> Row | None:
    """Returns the row that a request names, None for any other name. Nothing is looked up elsewhere."""
    if name.wazuh is not None or name.qualname.rpartition(".")[2] != name.name:
        return None
    return _BY_NAME.get((name.module, name.qualname))

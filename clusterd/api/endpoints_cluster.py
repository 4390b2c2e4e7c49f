"""Endpoints of the cluster, the manager and SCA (dapi.md 5.2, 5.7)."""

import msgspec

from clusterd.api.endpoint import Endpoint, Function
from clusterd.api.parameters import (
    AGENT_ID,
    NODE,
    NODES,
    Parameter,
    list_parameters,
    today_at_midnight,
)
from clusterd.dapi.protocol.request import DISTRIBUTED, LOCAL_ANY, LOCAL_MASTER, RequestType

MOST_LOG_LINES = 500
LEVELS = ("critical", "debug", "error", "info", "warning")
TEXT = r"^[^\u0000-\u001f\u007f]{1,512}$"


def _cluster(name: str, request_type: RequestType, *, is_async: bool = False, client: str | None = None) -> Function:
    return Function(
        module="wazuh.cluster",
        qualname=name,
        request_type=request_type,
        is_async=is_async,
        client_argument=client,
    )


def _manager(name: str, request_type: RequestType) -> Function:
    return Function(module="wazuh.manager", qualname=name, request_type=request_type)


def _stats(name: str, request_type: RequestType = DISTRIBUTED) -> Function:
    return Function(module="wazuh.stats", qualname=name, request_type=request_type)


POLICY_FILTERS = ("name", "description", "references")
CHECK_FILTERS = (
    "title", "description", "rationale", "remediation", "command", "reason", "file", "process", "directory", "registry",
    "references", "result", "condition",
)  # fmt: skip


def _filter(name: str, about: str) -> Parameter:
    return Parameter(name=name, pattern=TEXT, group="filters", about=about)


_LOG = (
    *list_parameters(
        "words",
        sort="-timestamp",
        limit=Parameter(
            name="limit", kind="whole", lowest=1, highest=MOST_LOG_LINES, default=500, about="Most lines to return."
        ),
    ),
    Parameter(name="tag", pattern=r"^[A-Za-z0-9_:.\-]{1,128}$", about="Which daemon wrote the line.", is_lowered=True),
    Parameter(name="level", choices=LEVELS, about="The line's level.", is_lowered=True),
)
_FILTER_NODE = msgspec.structs.replace(NODES, keyword="filter_node")
_DAY = Parameter(name="date", kind="date", default=today_at_midnight, about="A day, like 2025-11-23; today without it.")

CLUSTER = (
    Endpoint(
        method="GET",
        path="/cluster/nodes",
        tag="Cluster",
        summary="The nodes that are connected",
        function=_cluster("get_nodes_info", LOCAL_MASTER, is_async=True, client="lc"),
        parameters=(
            Parameter(
                name="type",
                keyword="filter_type",
                choices=("all", "worker", "master"),
                default="all",
                is_lowered=True,
                about="Nodes of this role only.",
            ),
            _FILTER_NODE,
            *list_parameters("objects"),
        ),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/healthcheck",
        tag="Cluster",
        summary="How the nodes are: last checks and syncs, active agents",
        function=_cluster("get_health_nodes", LOCAL_MASTER, is_async=True, client="lc"),
        parameters=(_FILTER_NODE,),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/status",
        tag="Cluster",
        summary="Whether the cluster is enabled and runs",
        function=_cluster("get_status_json", LOCAL_MASTER),
        answer="object",
    ),
    Endpoint(
        method="GET",
        path="/cluster/local/info",
        tag="Cluster",
        summary="This node's name, cluster and role",
        function=_cluster("get_node_wrapper", LOCAL_ANY),
    ),
    Endpoint(
        method="GET",
        path="/cluster/local/config",
        tag="Cluster",
        summary="The cluster's configuration on this node, without its key",
        function=_cluster("read_config_wrapper", LOCAL_ANY),
    ),
    Endpoint(
        method="GET",
        path="/cluster/ruleset/synchronization",
        tag="Cluster",
        summary="Whether nodes have the master's rules, decoders and lists",
        function=_cluster("get_ruleset_sync_status", DISTRIBUTED, is_async=True),
        parameters=(msgspec.structs.replace(NODES, keyword="node_list"),),
        adjust="ruleset_status",
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/info",
        tag="Cluster",
        summary="Version, paths and time zone of a node",
        function=_manager("get_basic_info", DISTRIBUTED),
        parameters=(NODE,),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/status",
        tag="Cluster",
        summary="The daemons of a node and their states",
        function=_manager("get_status", DISTRIBUTED),
        parameters=(NODE,),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/logs",
        tag="Cluster",
        summary="The last lines of a node's log",
        function=_manager("ossec_log", DISTRIBUTED),
        parameters=(NODE, *_LOG),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/logs/summary",
        tag="Cluster",
        summary="How many lines of each level the daemons of a node wrote",
        function=_manager("ossec_log_summary", DISTRIBUTED),
        parameters=(NODE,),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/stats",
        tag="Cluster",
        summary="Events and alerts of a day on a node, hour by hour",
        function=_stats("totals"),
        parameters=(NODE, _DAY),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/stats/hourly",
        tag="Cluster",
        summary="Average events of a node by hour of the day",
        function=_stats("hourly"),
        parameters=(NODE,),
        needs_nodes=True,
    ),
    Endpoint(
        method="GET",
        path="/cluster/{node_id}/stats/weekly",
        tag="Cluster",
        summary="Average events of a node by day and hour of the week",
        function=_stats("weekly"),
        parameters=(NODE,),
        needs_nodes=True,
    ),
)

MANAGER = (
    Endpoint(
        method="GET",
        path="/manager/info",
        tag="Manager",
        summary="Version, paths and time zone of this node",
        function=_manager("get_basic_info", LOCAL_ANY),
    ),
    Endpoint(
        method="GET",
        path="/manager/status",
        tag="Manager",
        summary="The daemons of this node and their states",
        function=_manager("get_status", LOCAL_ANY),
    ),
    Endpoint(
        method="GET",
        path="/manager/logs",
        tag="Manager",
        summary="The last lines of this node's log",
        function=_manager("ossec_log", LOCAL_ANY),
        parameters=_LOG,
    ),
    Endpoint(
        method="GET",
        path="/manager/logs/summary",
        tag="Manager",
        summary="How many lines of each level the daemons of this node wrote",
        function=_manager("ossec_log_summary", LOCAL_ANY),
    ),
    Endpoint(
        method="GET",
        path="/manager/stats",
        tag="Manager",
        summary="Events and alerts of a day on this node, hour by hour",
        function=_stats("totals", LOCAL_ANY),
        parameters=(_DAY,),
    ),
    Endpoint(
        method="GET",
        path="/manager/stats/hourly",
        tag="Manager",
        summary="Average events of this node by hour of the day",
        function=_stats("hourly", LOCAL_ANY),
    ),
    Endpoint(
        method="GET",
        path="/manager/stats/weekly",
        tag="Manager",
        summary="Average events of this node by day and hour of the week",
        function=_stats("weekly", LOCAL_ANY),
    ),
)

SCA = (
    Endpoint(
        method="GET",
        path="/sca/{agent_id}",
        tag="SCA",
        summary="The results of an agent's security checks, policy by policy",
        function=Function(module="wazuh.sca", qualname="get_sca_list", request_type=DISTRIBUTED),
        parameters=(
            AGENT_ID,
            *list_parameters("objects"),
            *(_filter(name, f"Policies with this {name.removesuffix('s')}.") for name in POLICY_FILTERS),
        ),
        constants={"filters": {}},
    ),
    Endpoint(
        method="GET",
        path="/sca/{agent_id}/checks/{policy_id}",
        tag="SCA",
        summary="The checks of one policy on an agent, with their results",
        function=Function(module="wazuh.sca", qualname="get_sca_checks", request_type=DISTRIBUTED),
        parameters=(
            AGENT_ID,
            Parameter(name="policy_id", place="path", pattern=r"^[A-Za-z0-9_.-]{1,255}$", about="A policy's id."),
            *list_parameters("objects"),
            *(_filter(name, f"Checks with this {name.removesuffix('s')}.") for name in CHECK_FILTERS),
        ),
        constants={"filters": {}},
    ),
)

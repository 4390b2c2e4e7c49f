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


def _cluster(name: str, request_type: RequestType, client: str | None = None) -> Function:
    return Function("wazuh.cluster", name, request_type, client)


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


def _of_managers(
    path: str, whose: str, request_type: RequestType, node: tuple[Parameter, ...] = ()
) -> tuple[Endpoint, ...]:
    """Returns what is asked of any manager, or, with the parameter `node`, of the one that this names."""
    return tuple(
        Endpoint(
            f"GET {path}/{word}",
            summary,
            Function(f"wazuh.{function.partition(':')[0]}", function.partition(":")[2], request_type),
            (*node, *parameters),
            needs_nodes=bool(node),
        )
        for word, summary, function, parameters in (
            ("info", f"Version, paths and time zone of {whose}", "manager:get_basic_info", ()),
            ("status", f"The daemons of {whose} and their states", "manager:get_status", ()),
            ("logs", f"The last lines of {whose}'s log", "manager:ossec_log", _LOG),
            (
                "logs/summary",
                f"How many lines of each level the daemons of {whose} wrote",
                "manager:ossec_log_summary",
                (),
            ),
            ("stats", f"Events and alerts of a day on {whose}, hour by hour", "stats:totals", (_DAY,)),
            ("stats/hourly", f"Average events of {whose} by hour of the day", "stats:hourly", ()),
            ("stats/weekly", f"Average events of {whose} by day and hour of the week", "stats:weekly", ()),
        )
    )


CLUSTER = (
    Endpoint(
        "GET /cluster/nodes",
        "The nodes that are connected",
        _cluster("get_nodes_info", LOCAL_MASTER, client="lc"),
        (
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
        "GET /cluster/healthcheck",
        "How the nodes are: last checks and syncs, active agents",
        _cluster("get_health_nodes", LOCAL_MASTER, client="lc"),
        (_FILTER_NODE,),
        needs_nodes=True,
    ),
    Endpoint(
        "GET /cluster/status",
        "Whether the cluster is enabled and runs",
        _cluster("get_status_json", LOCAL_MASTER),
        answer="object",
    ),
    Endpoint("GET /cluster/local/info", "This node's name, cluster and role", _cluster("get_node_wrapper", LOCAL_ANY)),
    Endpoint(
        "GET /cluster/local/config",
        "The cluster's configuration on this node, without its key",
        _cluster("read_config_wrapper", LOCAL_ANY),
    ),
    Endpoint(
        "GET /cluster/ruleset/synchronization",
        "Whether nodes have the master's rules, decoders and lists",
        _cluster("get_ruleset_sync_status", DISTRIBUTED),
        (msgspec.structs.replace(NODES, keyword="node_list"),),
        adjust="ruleset_status",
        needs_nodes=True,
    ),
    *_of_managers("/cluster/{node_id}", "a node", DISTRIBUTED, (NODE,)),
)
MANAGER = _of_managers("/manager", "this node", LOCAL_ANY)

SCA = (
    Endpoint(
        "GET /sca/{agent_id}",
        "The results of an agent's security checks, policy by policy",
        Function("wazuh.sca", "get_sca_list", DISTRIBUTED),
        (
            AGENT_ID,
            *list_parameters("objects"),
            *(_filter(name, f"Policies with this {name.removesuffix('s')}.") for name in POLICY_FILTERS),
        ),
        constants={"filters": {}},
    ),
    Endpoint(
        "GET /sca/{agent_id}/checks/{policy_id}",
        "The checks of one policy on an agent, with their results",
        Function("wazuh.sca", "get_sca_checks", DISTRIBUTED),
        (
            AGENT_ID,
            Parameter(name="policy_id", place="path", pattern=r"^[A-Za-z0-9_.-]{1,255}$", about="A policy's id."),
            *list_parameters("objects"),
            *(_filter(name, f"Checks with this {name.removesuffix('s')}.") for name in CHECK_FILTERS),
        ),
        constants={"filters": {}},
    ),
)

"""The cluster and its state (dapi.md 5.2): nodes, health, status, own configuration, ruleset equality."""

from typing import Any

from clusterd.dapi.protocol.actions import CLUSTER_STATUS, SOME_NODES, THIS_NODE
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Arguments, Call, NoArguments, Registry, SyncCall
from clusterd.dapi.query.arrays import ListArguments, cut_list
from clusterd.wire.results import WireException

registry = Registry()
MOST_NODES = 500
LARGEST_LIMIT = 100_000
NODES = (
    "All selected nodes information was returned",
    "Some nodes information was not returned",
    "No information was returned",
)


class NodesInfo(Arguments, frozen=True):
    """In the form that stock's API sends: `filter_node` is a name or a list of names."""

    filter_node: list[str] | str | None = None
    filter_type: str = "all"
    select: list[str] | None = None
    search: dict[str, Any] | None = None
    sort: dict[str, Any] | None = None
    offset: int = 0
    limit: int | None = MOST_NODES
    distinct: bool = False
    q: str | None = None


class HealthNodes(Arguments, frozen=True):
    filter_node: list[str] | str | None = None


class RulesetStatus(Arguments, frozen=True):
    """`master_md5`: path to digest of the master's rules, decoders and lists."""

    master_md5: dict[str, str]


@registry.function("wazuh.cluster", "get_nodes_info", needs=(SOME_NODES,))
async def get_nodes_info(call: SyncCall, given: NodesInfo) -> Items:
    """Returns `{name, type, version, ip}` of each node; `q` is applied to the listing here (dapi.md 6.3). Nodes that
    are not connected are failed items and do not hide the others."""
    arguments: dict[str, Any] = {name: getattr(given, name) for name in given.__struct_fields__ if name != "q"}
    arguments["filter_node"], absent = await _connected(call, given.filter_node)
    if given.q:
        arguments |= {"offset": 0, "limit": MOST_NODES}
    listed = await call.cluster.list_nodes(arguments)
    found, total = listed["items"], listed["totalItems"]
    if given.q:
        found, total = cut_list(found, ListArguments(q=given.q, offset=given.offset, limit=given.limit))
    return _with_absent(Items(*NODES, affected=found, total=total, sort_fields=["name"]), absent)


async def _connected(call: SyncCall, wanted: list[str] | str | None) -> tuple[list[str] | None, list[str]]:
    """Splits the requested names into connected nodes and others. None means all connected nodes."""
    if wanted is None:
        return None, []
    names = list(dict.fromkeys([wanted] if isinstance(wanted, str) else wanted))
    listed = await call.cluster.list_nodes({"select": ["name"], "limit": LARGEST_LIMIT})
    there = {item["name"] for item in listed["items"]}
    return [name for name in names if name in there], [name for name in names if name not in there]


def _with_absent(items: Items, absent: list[str]) -> Items:
    items.fail_all(absent, WireException(1730, None))
    return items


@registry.function("wazuh.cluster", "get_health_nodes", needs=(SOME_NODES,))
async def get_health_nodes(call: SyncCall, given: HealthNodes) -> Items:
    """Returns `{info, status}` of each node, sorted by name (dapi.md 1.7). Nodes that are not connected are failed
    items."""
    wanted, absent = await _connected(call, given.filter_node)
    health = await call.cluster.health(wanted)
    nodes = health["nodes"]
    items = Items(
        "All selected nodes healthcheck information was returned",
        "Some nodes healthcheck information was not returned",
        "No healthcheck information was returned",
        affected=[nodes[name] for name in sorted(nodes)],
        sort_fields=["info.name"],
    )
    return _with_absent(items, absent)


@registry.function("wazuh.cluster", "get_node_ruleset_integrity", needs=())
@registry.function("wazuh.core.cluster.control", "get_node_ruleset_integrity", needs=())
async def get_node_ruleset_integrity(call: SyncCall, given: NoArguments) -> dict[str, str]:
    """Returns path to digest of rules, decoders and lists (dapi.md 1.8). Registered under two names: of the module that
    defines it and of one that imports it."""
    return await call.cluster.ruleset_hashes()


@registry.function("wazuh.cluster", "get_ruleset_sync_status", needs=(THIS_NODE,))
async def get_ruleset_sync_status(call: SyncCall, given: RulesetStatus) -> Items:
    """Tells whether this node has the master's rules, decoders and lists."""
    own = await call.cluster.ruleset_hashes()
    item = {"name": call.settings.cluster.node_name, "synced": own == given.master_md5}
    return Items(
        "Nodes ruleset synchronization status was successfully read",
        "Could not read ruleset synchronization status in some nodes",
        "Could not read ruleset synchronization status",
        affected=[item],
        sort_fields=["name"],
    )


@registry.function("wazuh.cluster", "get_status_json", checks_daemons=False, needs=(CLUSTER_STATUS,))
def get_status_json(call: Call, given: NoArguments) -> dict[str, Any]:
    """Tells whether a cluster is configured and running. A node that answers is always running."""
    enabled = "no" if call.settings.cluster.disabled else "yes"
    return {"data": {"enabled": enabled, "running": "yes"}}


@registry.function("wazuh.cluster", "get_node_wrapper", needs=(THIS_NODE,))
def get_node_wrapper(call: Call, given: NoArguments) -> Items:
    """Returns this node's name, cluster and type."""
    cluster = call.settings.cluster
    item = {"node": cluster.node_name, "cluster": cluster.name, "type": cluster.node_type}
    return Items("All selected information was returned", "", "No information was returned", affected=[item])


@registry.function("wazuh.cluster", "read_config_wrapper", needs=(THIS_NODE,))
def read_config_wrapper(call: Call, given: NoArguments) -> Items:
    """Returns the cluster's configuration on this node, without the key (dapi.md 8, number 7)."""
    return Items(
        "All selected information was returned",
        "",
        "No information was returned",
        affected=[call.settings.cluster.shown()],
    )

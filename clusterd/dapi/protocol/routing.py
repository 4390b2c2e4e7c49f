"""Where a request runs, and which node gets which part of it (dapi.md 3.1, 3.4, 3.6). Pure, except for the lookup of
agents."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from clusterd.dapi.protocol.actions import READ_NODES, may_read_node
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.merge import PLAIN, Value, merge
from clusterd.dapi.protocol.permissions import permitted
from clusterd.dapi.protocol.policy import find
from clusterd.dapi.protocol.request import DISTRIBUTED, LOCAL_ANY, ApiRequest
from clusterd.errors import ClusterError
from clusterd.wire.results import BAD_REQUEST, WireException, WireResult

Place = Literal["here", "forward", "refuse"]
UNKNOWN = "unknown"
_NODE_KEYS = ("node_id", "node_list")
DEFAULT_LIMIT = 500


def place_of(request_type: str, *, from_cluster: bool, is_master: bool, is_enabled: bool = True) -> Place:
    """Decides what the daemon does with a request that reached it (dapi.md 3.1, context D). A worker that receives a
    request for the master cannot pass it on, because it came from the master."""
    if not is_enabled or request_type == LOCAL_ANY:
        return "here"
    if request_type == DISTRIBUTED:
        return "here" if from_cluster else ("forward" if is_master else "refuse")
    return "here" if is_master else "refuse"


class Agents(Protocol):
    """Agents by node, from the master's database. Ids are digits with at least three places; a missing node is ''."""

    def of_node(self, node: str) -> Mapping[str, str]:
        """Returns id to node, for the agents that report to `node`."""
        ...

    def named(self, ids: Collection[str]) -> Mapping[str, str]:
        """Returns id to node, for those of `ids` that exist."""
        ...

    def all(self) -> Mapping[str, str]: ...

    def nodes(self) -> Sequence[str]:
        """Returns every node that agents report to."""
        ...


class Plan(msgspec.Struct, frozen=True):
    """`requests`: each node with its request, in the order in which answers are merged. `allowed`: the listing of the
    requested nodes, whose failures are added to the answer."""

    requests: list[tuple[str, ApiRequest]]
    allowed: Items


def plan(request: ApiRequest, *, master: str, connected: Sequence[str], agents: Agents, timeout_s: float) -> Plan:
    """Decides which nodes solve a distributed request on the master. `connected`: the master first, then workers in
    order of connection. Raises WireException."""
    if _is_for_all(request):
        whole = msgspec.structs.replace(request, from_cluster=True, api_timeout=timeout_s)
        return Plan([(node, whole) for node in connected], Items(""))
    solvers = _solvers(request, master, agents)
    by_node = any(key in request.f_kwargs for key in _NODE_KEYS)
    if by_node:
        allowed = _listing(request, solvers, connected)
        solvers = {node: solvers.get(node, []) for node in [*allowed.affected, *(n for n in solvers if n == UNKNOWN)]}
    else:
        allowed = Items("", affected=list(solvers))
        solvers = solvers or {node: [] for node in _permitted_nodes(request, connected)}
    solvers = _cleaned(solvers, master)
    agent_key = _agent_key(request)
    arguments = {key: value for key, value in request.f_kwargs.items() if key not in _NODE_KEYS}
    requests = []
    for node, ids in solvers.items():
        own = arguments | {agent_key: ids} if agent_key else arguments
        changed = msgspec.structs.replace(request, f_kwargs=own, from_cluster=True, api_timeout=timeout_s)
        requests.append((node, changed))
    return Plan(requests, allowed)


def _is_for_all(request: ApiRequest) -> bool:
    row = find(request.f)
    return row is not None and row.is_for_all


def _agent_key(request: ApiRequest) -> str | None:
    return next((key for key in ("agent_list", "agent_id") if key in request.f_kwargs), None)


def _solvers(request: ApiRequest, master: str, agents: Agents) -> dict[str, list[str]]:
    """Returns each node with the agents that its request is about (dapi.md 3.4, cases A to D)."""
    given = request.f_kwargs
    if _agent_key(request) is not None:
        return _solvers_of_agents(request, master, agents)
    if given.get("node_id") is not None:
        return {str(given["node_id"]): []}
    nodes = given.get("node_list")
    if nodes is not None and nodes != "*":
        if not isinstance(nodes, str | list):
            raise WireException(1000, "nodes must be a list of names")
        return {str(node): [] for node in ([nodes] if isinstance(nodes, str) else nodes)}
    if request.broadcasting:
        return {}
    return {node: [] for node in sorted(agents.nodes(), reverse=True)}


def _solvers_of_agents(request: ApiRequest, master: str, agents: Agents) -> dict[str, list[str]]:
    given = request.f_kwargs
    requested = given.get("agent_list") or ([given["agent_id"]] if given.get("agent_id") else [])
    if not requested:
        raise WireException(1000, "no agents were named")
    if requested != "*" and not (isinstance(requested, list) and all(isinstance(item, str) for item in requested)):
        raise WireException(1000, "agents must be a list of ids")
    node = given.get("node_id")
    if node is not None:
        found = agents.of_node(str(node))
    elif requested != "*":
        found = agents.named(requested)
    else:
        found = agents.all()
    solvers: dict[str, list[str]] = {}
    for agent_id, where in found.items():
        solvers.setdefault(where, []).append(agent_id)
    if node is not None and not solvers:
        solvers[str(node)] = []
    if requested != "*":
        known = set(found)
        missing = [agent_id for agent_id in requested if agent_id not in known]
        if missing:
            solvers.setdefault(master, []).extend(missing)
    return solvers


def _permitted_nodes(request: ApiRequest, nodes: Iterable[str]) -> list[str]:
    listed = list(nodes)
    allowed = permitted(request.rbac_permissions, READ_NODES, "node", listed)
    return [node for node in listed if node in allowed]


def _listing(request: ApiRequest, solvers: Mapping[str, Any], connected: Sequence[str]) -> Items:
    """Returns the nodes that exist, are connected and may be read; the others as failed items (dapi.md 3.4, point 1).

    A node that existed when the asker looked and is gone now fails alone; stock fails the whole request."""
    wanted = [node for node in solvers if node != UNKNOWN]
    items = Items(
        "All selected nodes information was returned",
        "Some nodes information was not returned",
        "No information was returned",
    )
    if not solvers:
        items.affected = _permitted_nodes(request, connected)
        return items
    known = frozenset(request.nodes)
    readable = permitted(request.rbac_permissions, READ_NODES, "node", known)
    there = frozenset(connected)
    absent = [node for node in wanted if node not in known or (node in readable and node not in there)]
    items.fail_all(absent, WireException(1730))
    denied = [node for node in wanted if node in known and node not in readable]
    items.fail_all(denied, WireException(4000, "Resource type: node:id"))
    asked = frozenset(wanted)
    items.affected = [node for node in connected if node in asked and node in known and node in readable]
    return items


def _cleaned(solvers: dict[str, list[str]], master: str) -> dict[str, list[str]]:
    """Moves the agents that report to no node to the master, which answers for them."""
    orphans = [ids for node, ids in solvers.items() if node in (UNKNOWN, "")]
    cleaned = {node: ids for node, ids in solvers.items() if node not in (UNKNOWN, "")}
    for ids in orphans:
        cleaned.setdefault(master, [])
        cleaned[master] = cleaned[master] + ids
    return cleaned


def not_connected(node: str, permissions: Mapping[str, Any]) -> WireException:
    """Returns what a node that cannot be asked adds to the answer (dapi.md 3.5)."""
    return not_answered(node, permissions, ClusterError(3022, node))


def not_answered(node: str, permissions: Mapping[str, Any], failure: ClusterError) -> WireException:
    """Returns what a node that was asked and did not answer adds to the other nodes' answers: a failed item, like that
    of a missing node. `permissions`: the request's."""
    if not may_read_node(permissions, node):
        return WireException(4000, "Resource type: node:id", ids=[node])
    title = "Wazuh Cluster Error" if failure.code == 3022 else None
    return WireException(failure.code, failure.extra, wire_class=BAD_REQUEST, ids=[node], title=title)


def combine(request: ApiRequest, allowed: Items, answers: Sequence[Value]) -> Value:
    """Builds the answer to the asker (dapi.md 3.6). `answers` are in the order of the plan. A request for all nodes has
    failed if it failed on one."""
    answer: Value
    if _is_for_all(request):
        return next((answer for answer in answers if isinstance(answer, WireException)), answers[0])
    if allowed.total_affected > 1 and answers:
        answer = answers[0]
        for other in answers[1:]:
            answer = merge(answer, other)
        answer = _page(answer, request)
    else:
        answer = answers[0] if answers else allowed.wire()
        if not answers:
            return answer
    if isinstance(answer, WireResult) and answer.wire_class != PLAIN:
        try:
            items = Items.of_wire(answer)
        except WireException as malformed:
            return malformed
        for error, ids in allowed.failed:
            if ids == [UNKNOWN] or (error.code == 4000 and request.remove_denied_nodes):
                continue
            items.fail_all(ids, error)
        return items.wire()
    return answer


def _page(answer: Value, request: ApiRequest) -> Value:
    """`limit` and `offset` cut only plain results that have `data.items`."""
    if not isinstance(answer, WireResult) or answer.wire_class != PLAIN:
        return answer
    result = answer.fields.get("result")
    data = result.get("data") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(data, dict) or not isinstance(data.get("items"), list):
        return answer
    limit, offset = request.f_kwargs.get("limit", DEFAULT_LIMIT), request.f_kwargs.get("offset", 0)
    if type(limit) is not int or type(offset) is not int:
        return answer
    cut = data | {"items": data["items"][offset : offset + limit]}
    return WireResult(PLAIN, answer.fields | {"result": result | {"data": cut}})

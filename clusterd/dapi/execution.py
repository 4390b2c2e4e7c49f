"""Executes a request on its solver (dapi.md 3.7): checks, the function, and its result or failure as an answer."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from clusterd.dapi.files.daemons import not_ready
from clusterd.dapi.functions.table import FUNCTIONS
from clusterd.dapi.protocol.access import NOT_ASKED_FOR, Access, Scope, check
from clusterd.dapi.protocol.actions import may_read_node
from clusterd.dapi.protocol.envelope import read_permissions
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.merge import PLAIN, Value
from clusterd.dapi.protocol.registry import ArgumentsRefused, Call, RegisteredFunction, arguments_of, not_available
from clusterd.dapi.protocol.request import ApiRequest, parse_request
from clusterd.dapi.ruleset.config import loaded_names
from clusterd.errors import ClusterError
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import INTERNAL_ERROR, WireException, WireResult

LOG = "WAZUH_HOME/logs/cluster.log"
INTERNAL = frozenset({"WazuhException", INTERNAL_ERROR, "WazuhClusterError", "WazuhHAPHelperError"})
UNEXPECTED = "Unexpected error: see the log of this node"
UNKNOWN_NODE = "unknown-node"


def run(
    data: bytes,
    settings: Settings,
    *,
    serves_store: bool,
    may_decline: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Value:
    """Returns the answer of a function of the pool. `on_step` is called at each query of the database.

    Raises ArgumentsRefused if it `may_decline`; any other exception is a bug."""
    node = settings.cluster.node_name
    try:
        request = parse_request(data)
        function = FUNCTIONS.find(request.f)
        if function is None or function.place != "pool":
            return not_available(request.f, node)
        must_name(function, request)
        request = without_star(request)
        if function.checks_daemons:
            check_daemons(request, settings, serves_store=serves_store)
        with BlockingDatabase(settings.root, on_step=on_step) as database:
            scope = Scope(settings.root, node, database, lambda kind: loaded_names(settings, kind))
            access = check(function, request, scope)
            arguments = arguments_of(function, access.request.f_kwargs)
            answer = as_value(function.work(Call(settings, access.request, database), arguments))
    except ArgumentsRefused as failure:
        if may_decline:
            raise
        return as_answer(failure, shown_node(read_permissions(data), node))
    except ClusterError as failure:
        return as_answer(failure, shown_node(read_permissions(data), node))
    return with_denied(answer, access)


def with_denied(answer: Value, access: Access) -> Value:
    """Adds what was not permitted to the answer, as failed items."""
    if not isinstance(answer, WireResult) or answer.wire_class == PLAIN or not (access.denied or access.names_none):
        return answer
    items = Items.of_wire(answer)
    for names, error in access.denied:
        items.fail_all(names, error)
    if access.names_none:
        items.drop_failed(NOT_ASKED_FOR)
    return items.wire()


def must_name(function: RegisteredFunction, request: ApiRequest) -> None:
    """Looks at the request as it came: permissions fill in what it does not name. Raises WireException 1000."""
    wanted = function.arguments.one_of
    if wanted and all(_is_nothing(request.f_kwargs.get(name)) for name in wanted):
        raise WireException(1000, f"one of {', '.join(wanted)} must be given")


def _is_nothing(value: Any) -> bool:
    """Tells whether it names and excludes nothing; an empty list is one of no agents."""
    return value in (None, "") or (isinstance(value, dict) and all(one is None for one in value.values()))


def without_star(request: ApiRequest) -> ApiRequest:
    """Removes `agent_list: "*"`: it means all agents, which is what a function does without the argument (dapi.md 3.7,
    point 1)."""
    if request.f_kwargs.get("agent_list") != "*":
        return request
    kept = {key: value for key, value in request.f_kwargs.items() if key != "agent_list"}
    return msgspec.structs.replace(request, f_kwargs=kept)


def check_daemons(request: ApiRequest, settings: Settings, *, serves_store: bool) -> None:
    """Raises WireException 1017 when a daemon that the request needs is not up."""
    missing = not_ready(settings.root, request.basic_services, serves_store=serves_store)
    if missing:
        extra = {"node_name": settings.cluster.node_name, "not_ready_daemons": ", ".join(missing)}
        raise WireException(1017, extra)


def as_value(returned: Any) -> Value:
    """Turns what a function returned into a result (dapi.md 3.7, point 6)."""
    match returned:
        case Items():
            return returned.wire()
        case WireResult() | WireException():
            return returned
        case str():
            try:
                return as_value(json.loads(returned))
            except (ValueError, RecursionError):
                return as_value({"message": returned})
        case _:
            return WireResult(PLAIN, {"str_priority": None, "result": returned})


def shown_node(permissions: Mapping[str, Any], node: str) -> str:
    """Returns the node's name in `dapi_errors`: not its own for a user who may not read it (dapi.md 3.7)."""
    return node if may_read_node(permissions, node) else UNKNOWN_NODE


def as_answer(failure: ClusterError, node: str) -> WireException:
    """Turns a failure into the answer of this node, with its entry in `dapi_errors` (dapi.md 3.7, point 7). `node`: see
    shown_node."""
    if isinstance(failure, WireException):
        answer = failure
    else:
        answer = WireException(failure.code, failure.extra)
    if not answer.dapi_errors:
        shown: dict[str, Any] = {"error": answer.message}
        if answer.wire_class in INTERNAL:
            shown["logfile"] = LOG
        answer.dapi_errors = {node: shown}
    return answer


def unexpected(node: str) -> WireException:
    """Returns the answer for a function that failed unexpectedly. It shows no internal details (dapi.md 8, number
    15)."""
    return WireException(1000, None, dapi_errors={node: {"error": UNEXPECTED}})


def refused(text: str, node: str) -> WireException:
    """Returns the answer to a function that this asker may not call, or not in this way."""
    return WireException(4000, text, dapi_errors={node: {"error": text}})

"""Carries out an endpoint: turns its values into keywords, asks the functions, returns their answer."""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from clusterd.api.endpoint import Endpoint, Function
from clusterd.api.node import Asker
from clusterd.api.parameters import COMMON
from clusterd.api.problem import Refused
from clusterd.dapi.protocol.request import LARGEST_REQUEST, LOCAL_MASTER, encode_request
from clusterd.settings import ApiSettings
from clusterd.wire.results import WireResult

ALL_NODES = "*"
WITHOUT_GROUP = "id!=000;group=null"
_RULESET = Function("wazuh.core.cluster.control", "get_node_ruleset_integrity", LOCAL_MASTER, client_argument="lc")


WaitsS = Callable[[float, bool], float]
"""How many seconds to wait for the answer of a function that may run so many seconds, or (True) to its end."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request. `body`: keywords from the body."""

    endpoint: Endpoint
    arguments: Mapping[str, Any]
    user: str
    wait_for_complete: bool


def read_values(
    endpoint: Endpoint, values: Mapping[str, str], today: Callable[[], datetime.date]
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns the function's keywords, and the common parameters, from path and query. Raises Refused."""
    arguments: dict[str, Any] = {
        name: dict(value) if isinstance(value, dict) else value for name, value in endpoint.constants.items()
    }
    for parameter in endpoint.parameters:
        keywords = parameter.keywords(values.get(parameter.name), today)
        if parameter.group:
            arguments[parameter.group].update(keywords)
        else:
            arguments.update(keywords)
    common = {
        parameter.name: parameter.keywords(values.get(parameter.name), today).get(parameter.name, False)
        for parameter in COMMON
    }
    return arguments, common


class Caller:
    """Carries out requests on one node."""

    def __init__(self, asker: Asker, settings: ApiSettings, *, waits_s: WaitsS) -> None:
        self._asker = asker
        self._settings = settings
        self._waits_s = waits_s

    async def call(self, asked: Asked) -> WireResult:
        """Returns the answer of the endpoint's function. Raises Refused, WireException."""
        endpoint = asked.endpoint
        nodes = await self._asker.nodes() if endpoint.needs_nodes else ()
        arguments = dict(asked.arguments)
        if endpoint.adjust == "without_group":
            arguments["q"] = without_group(arguments.get("q"))
        broadcasting = False
        if endpoint.adjust == "ruleset_status":
            hashes = await self._ask(_RULESET, {}, asked, nodes)
            arguments["master_md5"] = hashes.fields.get("result")
            broadcasting = "node_list" not in arguments
            arguments.setdefault("node_list", ALL_NODES)
        return await self._ask(endpoint.function, arguments, asked, nodes, broadcasting=broadcasting)

    async def _ask(
        self,
        function: Function,
        arguments: Mapping[str, Any],
        asked: Asked,
        nodes: tuple[str, ...],
        *,
        broadcasting: bool = False,
    ) -> WireResult:
        timeout_s = self._settings.request_timeout_s
        request = function.request(
            arguments,
            user=asked.user,
            timeout_s=timeout_s,
            wait_for_complete=asked.wait_for_complete,
            nodes=nodes,
            broadcasting=broadcasting,
        )
        encoded = encode_request(request)
        if len(encoded) > LARGEST_REQUEST:
            raise Refused(
                413, f"the request would have {len(encoded)} bytes inside the cluster, above {LARGEST_REQUEST}"
            )
        return await self._asker.ask(encoded, timeout_s=self._waits_s(timeout_s, asked.wait_for_complete))


def without_group(q: str | None) -> str:
    """Combines the condition for agents without a group with the caller's condition. The latter is in parentheses, so
    that its `,` is not an `or` of the whole; in stock it is, and other agents are listed too."""
    if not q:
        return WITHOUT_GROUP
    return f"{WITHOUT_GROUP};({q})" if "," in q else f"{WITHOUT_GROUP};{q}"

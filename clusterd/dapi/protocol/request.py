"""The request object of the distributed API (dapi.md 2). Reads it from a peer or client and checks every field; writes
it for stock peers with the keys that they know, in their order."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from clusterd.errors import ClusterError
from clusterd.wire.results import WireCallable, dump_json, load_request

RequestType = Literal["local_any", "local_master", "distributed_master"]
LOCAL_ANY: RequestType = "local_any"
LOCAL_MASTER: RequestType = "local_master"
DISTRIBUTED: RequestType = "distributed_master"

BASIC_SERVICES = ("wazuh-modulesd", "wazuh-analysisd", "wazuh-execd", "wazuh-db", "wazuh-remoted")
ALLOW_ALL: Mapping[str, Any] = {"rbac_mode": "black"}
LARGEST_REQUEST = 5 * 1024 * 1024 - 1024
"""Most bytes of a request's JSON, which may contain an uploaded file. It fits into one frame with the id before it."""


class ApiRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys and defaults of dapi.md 2. `f` is a name, never a function. `api_timeout`: seconds, None for the node's
    own."""

    f: WireCallable
    f_kwargs: dict[str, Any] = {}
    request_type: RequestType = LOCAL_MASTER
    wait_for_complete: bool = False
    from_cluster: bool = False
    is_async: bool = False
    local_client_arg: str | None = None
    basic_services: tuple[str, ...] = BASIC_SERVICES
    rbac_permissions: dict[str, Any] = msgspec.field(default_factory=lambda: dict(ALLOW_ALL))
    current_user: str = ""
    broadcasting: bool = False
    nodes: tuple[str, ...] = ()
    api_timeout: float | None = None
    debug: bool = False
    remove_denied_nodes: bool = False


_SENT = (
    "f",
    "f_kwargs",
    "request_type",
    "wait_for_complete",
    "from_cluster",
    "is_async",
    "local_client_arg",
    "basic_services",
    "rbac_permissions",
    "current_user",
    "broadcasting",
    "nodes",
    "api_timeout",
)
"""The keys that stock writes, in its order (dapi.md 2, the keys with a dot)."""
_NULL_MEANS_DEFAULT = ("f_kwargs", "basic_services", "rbac_permissions", "nodes")


def parse_request(data: bytes | memoryview) -> ApiRequest:
    """Parses a request. Raises ClusterError 1000 that names the wrong key."""
    fields = load_request(data, limit=LARGEST_REQUEST)
    if not isinstance(fields.get("f"), WireCallable):
        raise ClusterError(1000, "an API request names its function in `f`")
    for key in _NULL_MEANS_DEFAULT:
        if fields.get(key, ...) is None:
            del fields[key]
    if not fields.get("basic_services", ...):
        del fields["basic_services"]
    try:
        return msgspec.convert(fields, ApiRequest)
    except msgspec.ValidationError as problem:
        raise ClusterError(1000, f"an API request is malformed: {problem}") from None


def encode_request(request: ApiRequest) -> bytes:
    """Returns the request as a stock node reads it: exactly the 13 keys that it knows."""
    return dump_json({key: getattr(request, key) for key in _SENT})

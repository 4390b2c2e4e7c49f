"""An API request that goes to the framework as it came: looked at without decoding its arguments, which may be large and are
for the framework's process to read. What could make that process import or build anything is refused here."""

import re
from typing import Any

import msgspec

from clusterd.dapi.protocol.request import LARGEST_REQUEST, RequestType
from clusterd.errors import ClusterError

_MARKERS = (b"__callable__", b"__unhandled_exc__", b"__wazuh_exception__", b"__wazuh_result__")
"""Objects that its decoder looks up or builds (dapi.md 4); of all, arguments need `__wazuh_datetime__` only."""
_MARKED = re.compile(rb'"__(callable|unhandled_exc|wazuh_exception|wazuh_result)__"\s*:')
_SPELLED = re.compile(rb"(?<!\\)(?:\\\\)*\\u00(?:[2-6][0-9a-f]|7[0-9a-e])", re.IGNORECASE)
"""A plain character written as its number: no program of the framework does, and it would hide a marker."""


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ApiRequest, with what may be large left as it is."""

    f: msgspec.Raw
    f_kwargs: msgspec.Raw = msgspec.Raw(b"null")
    request_type: RequestType = "local_master"
    wait_for_complete: bool = False
    from_cluster: bool = False
    is_async: bool = False
    local_client_arg: None = None
    basic_services: tuple[str, ...] | None = None
    rbac_permissions: msgspec.Raw = msgspec.Raw(b"null")
    current_user: str = ""
    broadcasting: bool = False
    nodes: tuple[str, ...] | None = None
    api_timeout: float | None = None
    debug: bool = False
    remove_denied_nodes: bool = False


_DECODER = msgspec.json.Decoder(_Given)


def check_unopened(content: bytes) -> None:
    """Raises ClusterError 1000 for a request that the framework must not see."""
    if len(content) > LARGEST_REQUEST:
        raise ClusterError(1000, f"an API request of {len(content)} bytes is above the limit of {LARGEST_REQUEST}")
    try:
        given = _DECODER.decode(content)
    except RecursionError:
        raise ClusterError(1000, "an API request is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ClusterError(1000, f"an API request is malformed: {problem}") from None
    for name, part in (("f_kwargs", given.f_kwargs), ("rbac_permissions", given.rbac_permissions)):
        if bytes(memoryview(part)[:1]) not in (b"{", b"n"):
            raise ClusterError(1000, f"an API request is malformed: {name} must be an object")
    if rb"\u00" in content and _SPELLED.search(content):
        raise ClusterError(1000, "an API request writes plain characters as numbers")
    if any(content.count(marker) > (marker == b"__callable__") for marker in _MARKERS):
        found: list[Any] = _MARKED.findall(content)
        if found != [b"callable"]:
            raise ClusterError(
                1000, "a function may only be named as the `f` of an API request, an error or result not at all"
            )

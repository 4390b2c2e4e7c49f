"""Checks an API request that is sent to the framework unchanged, without decoding its arguments: they may be large, and
the framework's process reads them. Anything that could make that process import or build an object is refused here."""

import re
from typing import Any

import msgspec

from clusterd.dapi.protocol.request import LARGEST_REQUEST, RequestType
from clusterd.errors import ClusterError

_MARKERS = (b"__callable__", b"__unhandled_exc__", b"__wazuh_exception__", b"__wazuh_result__")
"""Objects that the framework's decoder looks up or builds (dapi.md 4). Arguments need only `__wazuh_datetime__`."""
_MARKED = re.compile(rb'"__(callable|unhandled_exc|wazuh_exception|wazuh_result)__"\s*:')
_SPELLED = re.compile(rb"\\u00(?:[2-6][0-9a-f]|7[0-9a-e])", re.IGNORECASE)
"""A plain character written as its number. No program of the framework does this, and it would hide a marker. Text with
backslashes may look like one."""
MOST_LOOKALIKES = 1000
LARGEST_LIST = 1 << 18
"""Most bytes of `nodes`, and of `basic_services`: they are decoded."""


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ApiRequest, with fields that may be large left undecoded."""

    f: msgspec.Raw
    f_kwargs: msgspec.Raw = msgspec.Raw(b"null")
    request_type: RequestType = "local_master"
    wait_for_complete: bool = False
    from_cluster: bool = False
    is_async: bool = False
    local_client_arg: None = None
    basic_services: msgspec.Raw = msgspec.Raw(b"null")
    rbac_permissions: msgspec.Raw = msgspec.Raw(b"null")
    current_user: str = ""
    broadcasting: bool = False
    nodes: msgspec.Raw = msgspec.Raw(b"null")
    api_timeout: float | None = None
    debug: bool = False
    remove_denied_nodes: bool = False


_DECODER = msgspec.json.Decoder(_Given)
_NAMES = msgspec.json.Decoder(tuple[str, ...] | None)


def check_unopened(content: bytes) -> None:
    """Raises ClusterError 1000 for a request that the framework must not see."""
    if len(content) > LARGEST_REQUEST:
        raise ClusterError(1000, f"an API request of {len(content)} bytes is above the limit of {LARGEST_REQUEST}")
    try:
        given = _DECODER.decode(content)
        for names in (given.nodes, given.basic_services):
            if len(names) > LARGEST_LIST:
                raise ClusterError(1000, "an API request is malformed: it names too many nodes or services")
            _NAMES.decode(names)
    except RecursionError:
        raise ClusterError(1000, "an API request is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ClusterError(1000, f"an API request is malformed: {problem}") from None
    for name, part in (("f_kwargs", given.f_kwargs), ("rbac_permissions", given.rbac_permissions)):
        if bytes(memoryview(part)[:1]) not in (b"{", b"n"):
            raise ClusterError(1000, f"an API request is malformed: {name} must be an object")
    if _spells(content):
        raise ClusterError(1000, "an API request writes plain characters as numbers")
    if any(content.count(marker) > (marker == b"__callable__") for marker in _MARKERS):
        found: list[Any] = _MARKED.findall(content)
        if found != [b"callable"]:
            raise ClusterError(
                1000, "a function may only be named as the `f` of an API request, an error or result not at all"
            )


def _spells(content: bytes) -> bool:
    """Tells whether a plain character is written as its number, or whether there are too many lookalikes to check."""
    for count, found in enumerate(_SPELLED.finditer(content)):
        before = content[max(0, found.start() - 64) : found.start()]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes % 2 == 0 or backslashes == 64 or count >= MOST_LOOKALIKES:
            return True
    return False

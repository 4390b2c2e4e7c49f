"""The few fields of an API request that decide where it is sent, read without decoding its arguments (dapi.md 2)."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from clusterd.dapi.protocol.request import ALLOW_ALL, LARGEST_REQUEST
from clusterd.errors import ClusterError
from clusterd.wire.results import WireCallable, parse_callable


class _Fields(msgspec.Struct, frozen=True):
    f: msgspec.Raw
    request_type: str = "local_master"
    wait_for_complete: bool = False
    from_cluster: bool = False
    api_timeout: float | None = None
    rbac_permissions: msgspec.Raw = msgspec.Raw(b"null")


class Envelope(msgspec.Struct, frozen=True):
    """`api_timeout_s`: how long the asker lets the function run, 0 for this node's own timeout. `has_permissions`:
    whether it states its user's permissions; without, everything is permitted (dapi.md 2). `begin_by`: when the asker
    of a change waits no more, monotonic seconds of this node, where it was set."""

    function: WireCallable
    request_type: Literal["local_any", "local_master", "distributed_master"]
    from_cluster: bool
    wait_for_complete: bool
    api_timeout_s: float
    has_permissions: bool
    begin_by: float | None = None


class _Permissions(msgspec.Struct, frozen=True):
    rbac_permissions: dict[str, Any] | None = None


LARGEST_NAME = 1 << 16
"""Most bytes of `f`, which is decoded on sync's loop; the longest that a stock node sends has about 1 KiB."""
_DECODER = msgspec.json.Decoder(_Fields)
_NAME = msgspec.json.Decoder(dict[str, Any])
_PERMISSIONS = msgspec.json.Decoder(_Permissions)
_TYPES = ("local_any", "local_master", "distributed_master")


def read_envelope(content: bytes) -> Envelope:
    """Reads the fields. Raises ClusterError 1000 for anything but an API request; the node that executes it checks the
    rest."""
    if len(content) > LARGEST_REQUEST:
        raise ClusterError(1000, f"an API request of {len(content)} bytes is above the limit of {LARGEST_REQUEST}")
    try:
        fields = _DECODER.decode(content)
        if len(fields.f) > LARGEST_NAME:
            raise ClusterError(1000, f"an API request names its function in {len(fields.f)} bytes")
        name = _NAME.decode(fields.f)
    except RecursionError:
        raise ClusterError(1000, "an API request is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ClusterError(1000, f"an API request cannot be read: {problem}") from None
    if fields.request_type not in _TYPES:
        raise ClusterError(1000, f"an API request is of no known type: {fields.request_type[:40]!r}")
    return Envelope(
        parse_callable(name),
        fields.request_type,  # type: ignore[arg-type]
        fields.from_cluster,
        fields.wait_for_complete,
        max(0.0, fields.api_timeout or 0.0),
        bytes(memoryview(fields.rbac_permissions)[:1]) != b"n",
    )


def read_permissions(content: bytes) -> Mapping[str, Any]:
    """Reads the permissions of a request, however large its arguments are; none of a malformed one."""
    try:
        given = _PERMISSIONS.decode(content).rbac_permissions
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return ALLOW_ALL if given is None else given

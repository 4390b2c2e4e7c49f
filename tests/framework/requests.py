"""Requests of the distributed API as a stock API process sends them."""

import json
from typing import Any

from clusterd.wire.results import WireCallable


def named(module: str, qualname: str) -> WireCallable:
    return WireCallable(qualname.rpartition(".")[2], module, qualname)


def wire_name(module: str, qualname: str) -> dict[str, Any]:
    return {
        "__callable__": {
            "__name__": qualname.rpartition(".")[2],
            "__module__": module,
            "__qualname__": qualname,
            "__type__": "function",
        }
    }


def request(module: str, qualname: str, **arguments: Any) -> bytes:
    """A request with everything that stock adds."""
    content = {
        "f": wire_name(module, qualname),
        "f_kwargs": arguments,
        "request_type": "local_master",
        "wait_for_complete": False,
        "from_cluster": False,
        "is_async": False,
        "local_client_arg": None,
        "basic_services": ["wazuh-db"],
        "rbac_permissions": {"rbac_mode": "black"},
        "current_user": "wazuh",
        "broadcasting": False,
        "nodes": [],
        "api_timeout": None,
    }
    return json.dumps(content).encode()

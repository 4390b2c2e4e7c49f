"""Requests of the distributed API to nodes of a rig."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.conftest import rigs
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import LocalClient

NAMES = ["rig_manager_1", "rig_manager_2", "rig_manager_3"]


@contextlib.contextmanager
def three_nodes() -> Iterator[Rig]:
    """A master and two workers with the same files."""
    with rigs() as make:
        rig = make(2)
        rig.start()
        rig.wait_equal(60)
        yield rig


def named(module: str, qualname: str) -> dict[str, Any]:
    name = qualname.rpartition(".")[2]
    return {"__callable__": {"__name__": name, "__module__": module, "__qualname__": qualname, "__type__": "function"}}


def request(module: str, qualname: str, arguments: dict[str, Any] | None = None, **fields: Any) -> str:
    return json.dumps({"f": named(module, qualname), "f_kwargs": arguments or {}} | fields)


def client_of(node: RigNode) -> LocalClient:
    return LocalClient(node.root / "queue/cluster/c-internal.sock")


def ask(node: RigNode, *what: Any, command: str = "dapi", prefix: str = "", **fields: Any) -> Any:
    with client_of(node) as client:
        first = client.ask(command, prefix + request(*what, **fields))
        assert first.payload == (
            b"Added request to API requests queue" if command == "dapi" else b"Request forwarded to worker node"
        )
        return json.loads(client.answer_of("dapi_res"))


def later(client: LocalClient, *commands: str) -> list[Any]:
    """Returns the requests that the node has sent to this client."""
    return [one for one in list(client.link.record) if one.is_request and not one.sent and one.command in commands]


def log_of(node: RigNode) -> list[str]:
    return (node.root / "logs/cluster.log").read_text().splitlines()


def result(answer: Any) -> Any:
    return answer["__wazuh_result__"]["__object__"]


def failure(answer: Any) -> Any:
    return answer["__wazuh_exception__"]["__object__"]


def failed_items(answer: Any) -> dict[int, list[str]]:
    found = result(answer)
    pairs = zip(found["failed_items_keys"], found["failed_items_values"], strict=True)
    return {error["__object__"]["code"]: ids for error, ids in pairs}


SYNC_STATUS = ("wazuh.cluster", "get_ruleset_sync_status")


def audit_of(node: RigNode) -> list[str]:
    return [line for line in log_of(node) if "[API audit]" in line]

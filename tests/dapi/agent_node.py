"""A master's root with a real store. Tests call functions on it as a pool process does."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.functions import agents, group_members, groups, registrations, sca
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, arguments_of
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.dapi.query.agent_query import AgentQuery, find_agents
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireCallable, WireException
from tests.store.lone_store import lone_store
from tools.rig.guard import guarded
from tools.rig.wdb_client import WdbClient

REGISTRY = agents.registry.join(groups.registry, group_members.registry, registrations.registry, sca.registry)


class AgentNode:
    """`db`: a client of the store that is not clusterd's own; `database`: the functions' client."""

    def __init__(self, root: Path, db: WdbClient, database: BlockingDatabase) -> None:
        self.root = root
        self.db = db
        self.database = database
        self.settings = Settings(root=str(root))

    def register(self, ids: Iterable[int]) -> None:
        """Writes lines of client.keys; the rows of these agents exist already."""
        lines = [f"{number:03d} agent{number} any {'k' * 64}\n" for number in ids]
        (self.root / "etc/client.keys").write_text("".join(lines))

    def answer(self, qualname: str, module: str = "wazuh.agent", **given: Any) -> Any:
        name = WireCallable(qualname.rpartition(".")[2], module, qualname)
        function = REGISTRY.find(name)
        assert function is not None
        call = Call(self.settings, ApiRequest(name), self.database)
        return function.work(call, arguments_of(function, given))

    def items(self, qualname: str, module: str = "wazuh.agent", **given: Any) -> Items:
        answer = self.answer(qualname, module, **given)
        assert isinstance(answer, Items)
        return answer

    def code(self, qualname: str, module: str = "wazuh.agent", **given: Any) -> int:
        """Returns the code of the exception that the function raises, 0 for none."""
        try:
            self.answer(qualname, module, **given)
        except WireException as error:
            return error.code
        return 0


@contextlib.contextmanager
def agent_node(**own: Any) -> Iterator[AgentNode]:
    """`own`: see lone_settings."""
    # The root is not below tmp_path, because socket paths may have 107 bytes.
    with (
        guarded("dapi-") as base,
        lone_store(base / "1", **own) as store,
        WdbClient(store.root) as db,
        BlockingDatabase(str(store.root)) as database,
    ):
        yield AgentNode(store.root, db, database)


def codes(items: Items) -> dict[str, int]:
    """Returns the code with which each item failed."""
    return {item: error.code for error, ids in items.failed for item in ids}


def found(node: AgentNode, **query: Any) -> list[int]:
    """Returns the numbers of the agents found, including the manager."""
    return [int(agent["id"]) for agent in find_agents(node.database, AgentQuery(**query))[0]]


def code(node: AgentNode, **query: Any) -> int:
    """Returns the code of the error with which this query is refused."""
    with pytest.raises(WireException) as raised:
        find_agents(node.database, AgentQuery(**query))
    return raised.value.code

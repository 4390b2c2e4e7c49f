"""The state of the cluster as seen by functions of the distributed API: a Cluster for each role."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from clusterd.errors import ClusterError
from clusterd.sync.links.roster import Roster
from clusterd.sync.requests.nodes import Nodes
from clusterd.wire import commands
from clusterd.wire.results import dump_json

Hashes = Callable[[], Awaitable[bytes]]
"""The answer to `get_hash`."""
IsRight = Callable[[str, str, str], Awaitable[bool]]
"""Passwords.is_right."""


class _ThisNode:
    """What nodes of both roles know by themselves."""

    def __init__(self, hashes: Hashes, is_right: IsRight) -> None:
        self._hashes = hashes
        self._is_right = is_right

    async def ruleset_hashes(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(await self._hashes())
        return found

    async def is_password(self, asker: str, user: str, password: str) -> bool:
        return await self._is_right(asker, user, password)


class MasterView(_ThisNode):
    """A master answers from its own table."""

    def __init__(self, nodes: Nodes, hashes: Hashes, is_right: IsRight) -> None:
        super().__init__(hashes, is_right)
        self._nodes = nodes

    async def list_nodes(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._nodes.list(arguments)

    async def health(self, wanted: object) -> dict[str, Any]:
        return await self._nodes.health(wanted)


class WorkerView(_ThisNode):
    """A worker asks its master."""

    def __init__(self, roster: Roster, hashes: Hashes, is_right: IsRight) -> None:
        super().__init__(hashes, is_right)
        self._roster = roster

    async def list_nodes(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._ask_master(commands.GET_NODES, arguments)

    async def health(self, wanted: object) -> dict[str, Any]:
        return await self._ask_master(commands.GET_HEALTH, wanted)

    async def _ask_master(self, command: str, arguments: object) -> dict[str, Any]:
        master = await self._roster.await_master()
        try:
            answer = json.loads(await master.request(command, dump_json(arguments)))
        except (ValueError, RecursionError) as problem:
            raise ClusterError(3036, str(problem)) from None
        if not isinstance(answer, dict):
            raise ClusterError(3036, f"{command} was not answered with an object")
        return answer

"""Agents by node and state in this node's database, for `status`."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.sync.links.context import Context
from clusterd.wdb.batches import BadString, parse_chunk
from clusterd.wdb.client import DatabaseError

TIMEOUT_S = 0.8
SHARE = 20
OLDEST_S = 10.0
"""Counting reads all agents. A count is reused for SHARE times as long as it took, at most for OLDEST_S, however often
a node is asked for its status."""
COUNTS = "select node_name, connection_status, count(*) as n from agent where id > 0 group by 1, 2"
WAITING = (
    "select (select count(*) from agent where sync_status != 'synced' and id > 0) as to_report,"
    " (select count(*) from agent where group_sync_status = 'syncreq') as to_hand_out"
)
LOCKED = "it is busy, or another program has locked it: lsof names it"
HASH = 'global sync-agent-groups-get {"get_global_hash": true}'


class AgentCounts:
    """Owner of the last counts."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: dict[str, Any] = {}
        self._good_until = float("-inf")

    async def shown(self) -> dict[str, Any]:
        """Returns agents by node and by connection status, and how many wait. `problem`: why the database cannot
        tell."""
        now = self._context.clock.monotonic
        if now() < self._good_until:
            return self._found
        begun, read = now(), list[bool]()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._count(read.append)
        except TimeoutError:
            late = f"within {TIMEOUT_S:g} s"
            why = f"only readers get an answer {late}; {LOCKED}" if read else f"no answer {late}"
            return {"database": None, "problem": why, "nodes": {}}
        except (DatabaseError, BadString) as failure:
            return {"database": None, "problem": str(failure), "nodes": {}}
        self._found, self._good_until = found, now() + min(OLDEST_S, SHARE * (now() - begun))
        return found

    async def _count(self, was_read: Callable[[bool], None]) -> dict[str, Any]:
        """`was_read`: called when all was answered that changes nothing. Raises DatabaseError, BadString."""
        database, counts = self._context.database, dict[str, dict[str, int]]()
        for row in await database.rows(COUNTS):
            counts.setdefault(row.get("node_name") or "unknown", {})[row["connection_status"]] = row["n"]
        (waiting,) = await database.rows(WAITING)
        was_read(True)
        leadership = self._context.leadership
        digest: str | msgspec.UnsetType | None = None
        if leadership is None or leadership.holds():  # else it would wait for the next leader
            digest = parse_chunk((await database.ask(HASH))[1]).hash
        return {
            "database": "own store" if self._context.settings.serves_store else "wazuh-db",
            "problem": None,
            "nodes": counts,
            **waiting,
            "groups_hash": None if isinstance(digest, msgspec.UnsetType) else digest,
        }

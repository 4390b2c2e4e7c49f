"""Finds the node that an agent reports to, in the master's agent database (dapi.md 3.4)."""

from collections.abc import Collection, Mapping, Sequence

from clusterd.wdb.blocking import BlockingDatabase

AT_ONCE = 500
MOST_DIGITS = 18
SELECT = "select id, node_name from agent"


class AgentTable:
    """Asks the database. Every method raises DatabaseError."""

    def __init__(self, database: BlockingDatabase) -> None:
        self._database = database

    def of_node(self, node: str) -> Mapping[str, str]:
        return self._found(f"{SELECT} where node_name = ? order by id", [node])

    def named(self, ids: Collection[str]) -> Mapping[str, str]:
        numbers = sorted({int(agent_id) for agent_id in ids if agent_id.isdecimal() and len(agent_id) <= MOST_DIGITS})
        found: dict[str, str] = {}
        for start in range(0, len(numbers), AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            found |= self._found(f"{SELECT} where id in ({', '.join('?' * len(part))}) order by id", part)
        return found

    def all(self) -> Mapping[str, str]:
        return self._found(f"{SELECT} order by id", [])

    def nodes(self) -> Sequence[str]:
        rows = self._database.rows("select distinct node_name from agent")
        return [str(row.get("node_name", "")) for row in rows]

    def _found(self, template: str, values: Sequence[str | int]) -> Mapping[str, str]:
        return {f"{row['id']:03d}": str(row.get("node_name", "")) for row in self._database.pages(template, values)}

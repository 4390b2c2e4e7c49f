"""Which agents are in which groups, in the node's agent database (wdb.md 3.2). A change is marked for the next sync to
the workers.

Functions raise DatabaseError."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from clusterd.wdb.blocking import BlockingDatabase, statement
from clusterd.wdb.client import DatabaseError

Mode = Literal["append", "override", "remove"]
MOST_GROUPS = 128
"""Most groups of one agent."""
BATCH_BYTES = 60_000
_OF_GROUP = (
    "(select count(*) from belongs b join `group` g on g.id = b.id_group where b.id_agent = a.id and g.name = ?)"
)
_ALL = "(select count(*) from belongs b where b.id_agent = a.id)"


class Membership(NamedTuple):
    """An agent's membership in one group; `groups`: how many groups it has."""

    is_member: bool
    groups: int


def memberships(database: BlockingDatabase, ids: Sequence[int], group: str) -> Mapping[int, Membership]:
    """Returns the membership of each of the agents that the database knows."""
    select = statement(f"select a.id as id, {_OF_GROUP} as member, {_ALL} as groups from agent a", [group])
    return {row["id"]: Membership(bool(row["member"]), row["groups"]) for row in database.rows_of(select, "a.id", ids)}


def groups_of(database: BlockingDatabase, agent_id: int) -> list[str] | None:
    """Returns the agent's groups in the order of their priority, None for an agent that the database does not know."""
    if not database.rows("select id from agent where id = ?", [agent_id]):
        return None
    select = "select g.name as name from belongs b join `group` g on g.id = b.id_group where b.id_agent = ?"
    return [row["name"] for row in database.pages(f"{select} order by b.priority", [agent_id])]


def groups_by_agent(database: BlockingDatabase, ids: Sequence[int]) -> Mapping[int, set[str]]:
    """Returns the groups of each agent that has any."""
    select = "select b.id_agent as id, g.name as name from belongs b join `group` g on g.id = b.id_group"
    found: dict[int, set[str]] = {}
    for row in database.rows_of(select, "b.id_agent", ids):
        found.setdefault(row["id"], set()).add(row["name"])
    return found


def member_counts(database: BlockingDatabase) -> Mapping[str, int]:
    """Returns the number of agents of each group that has any."""
    select = "select g.name as name, count(*) as n from belongs b join `group` g on g.id = b.id_group"
    return {row["name"]: row["n"] for row in database.pages(f"{select} group by g.id order by g.name")}


def members(database: BlockingDatabase, group: str) -> list[int]:
    select = "select b.id_agent as id from belongs b join `group` g on g.id = b.id_group where g.name = ?"
    return [row["id"] for row in database.pages(f"{select} order by b.id_agent", [group])]


def note_group(database: BlockingDatabase, name: str) -> None:
    """Adds the row of a group whose directory was just created. `name` is a valid group name."""
    if _is_known(database, name):
        return
    try:
        database.ask(f"global insert-agent-group {name}")
    except DatabaseError:
        # The process that follows the directories may have added the row first.
        if not _is_known(database, name):
            raise


def forget_group(database: BlockingDatabase, name: str) -> None:
    """Deletes the row of a group whose directory was removed. Agents without another group move to `default`."""
    database.ask(f"global delete-group {name}")


def change_groups(
    database: BlockingDatabase, mode: Mode, ids: Collection[int], groups: Sequence[str]
) -> Mapping[int, DatabaseError]:
    """Changes the groups of all the agents, many in each request. Returns the agents of every request that was refused,
    with the error: any of them may have been changed."""
    refused: dict[int, DatabaseError] = {}
    head = f'global set-agent-groups {{"mode":"{mode}","sync_status":"syncreq","data":['
    for batch in _batches(ids, json.dumps(list(groups), separators=(",", ":"))):
        try:
            database.ask(head + ",".join(text for _, text in batch) + "]}")
        except DatabaseError as failure:
            if failure.code != 2003:
                raise
            refused |= {agent_id: failure for agent_id, _ in batch}
    return refused


def _batches(ids: Collection[int], groups: str) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for agent_id in ids:
        text = f'{{"id":{agent_id},"groups":{groups}}}'
        if size + len(text) > BATCH_BYTES and batch:
            yield batch
            batch, size = [], 0
        batch.append((agent_id, text))
        size += len(text) + 1
    if batch:
        yield batch


def _is_known(database: BlockingDatabase, name: str) -> bool:
    return database.ask(f"global find-group {name}")[1] != b"[]"

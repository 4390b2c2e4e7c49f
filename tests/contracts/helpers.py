"""Creates and reads rows through the stream socket."""

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.rig.patience import Patience
from tools.rig.wdb_client import WdbClient

LONG_AGO = 1_700_000_000
CHUNK = 65_024
"""The budget of a chunked answer (wdb.md 2.3)."""
LARGEST = 65_536
DEADLINE_S = 60.0
NEEDS_ARGUMENT = [
    "sql",
    "sync-agent-groups-get",
    "set-agent-groups",
    "get-groups-integrity",
    "sync-agent-info-set",
    "insert-agent",
    "update-agent-data",
    "update-agent-name",
    "update-keepalive",
    "update-connection-status",
    "update-status-code",
    "reset-agents-connection",
    "disconnect-agents",
    "delete-agent",
    "get-all-agents",
    "get-agent-info",
    "get-agents-by-connection-status",
    "get-labels",
    "select-agent-name",
    "find-agent",
    "select-agent-group",
    "select-group-belong",
    "find-group",
    "insert-agent-group",
    "delete-group",
    "get-group-agents",
]
"""Commands of `global` that are selected by an argument; `sql` is a word of its own."""


def empty(db: WdbClient) -> None:
    """Deletes every agent but 0 and every group but `default`."""
    for agent_id in db.ids("get-all-agents last_id"):
        db.command(f"global delete-agent {agent_id}")
    while True:
        names = [row["name"] for row in json.loads(db.command("global select-groups"))]
        others = [name for name in names if name != "default"]
        if not others:
            break
        for name in others:
            db.command(f"global delete-group {name}")
    if not names:
        db.command("global insert-agent-group default")
    db.command("global sql update agent set sync_status = 'synced', connection_status = 'active' where id = 0")


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def add_agent(db: WdbClient, agent_id: int, name: str | None = None, **members: Any) -> int:
    """Creates an agent by `insert-agent`, registered long ago."""
    row = {"id": agent_id, "name": name or f"agent{agent_id}", "date_add": LONG_AGO, **members}
    db.command(f"global insert-agent {compact(row)}")
    return agent_id


def add_agents(db: WdbClient, *agent_ids: int) -> None:
    for agent_id in agent_ids:
        add_agent(db, agent_id)


def add_many(db: WdbClient, count: int, status: str = "never_connected") -> None:
    """Creates agents 1 to `count` named agent⟨id⟩, by one statement."""
    db.command(
        f"global sql with recursive n(i) as (select 1 union all select i + 1 from n where i < {count}) "
        "insert into agent (id, name, date_add, `group`, connection_status, last_keepalive) "
        f"select i, 'agent' || i, {LONG_AGO}, null, '{status}', 1 from n"
    )


@contextlib.contextmanager
def trigger(root: Path, statement: str) -> Iterator[None]:
    """Creates a trigger `refuse` in the store's database from outside, since no client may (`statement`: the text after
    its name)."""
    with contextlib.closing(sqlite3.connect(root / "queue/db/global.db", timeout=30, isolation_level=None)) as file:
        file.execute(f"create trigger refuse {statement}")
        try:
            yield
        finally:
            file.execute("drop trigger refuse")


def add_groups(db: WdbClient, *names: str) -> None:
    for name in names:
        db.command(f"global insert-agent-group {name}")


def agent(db: WdbClient, agent_id: int) -> dict[str, Any]:
    """Returns the columns that are not NULL, by `get-agent-info`."""
    (row,) = json.loads(db.command(f"global get-agent-info {agent_id}"))
    assert isinstance(row, dict)
    return row


def some(db: WdbClient, agent_id: int, *columns: str) -> tuple[Any, ...]:
    """Returns the named columns; None for NULL."""
    row = agent(db, agent_id)
    return tuple(row.get(column) for column in columns)


def put(db: WdbClient, agent_id: int, **columns: Any) -> None:
    """Writes columns with `global sql`."""
    parts = [f"`{column}` = {quoted(value)}" for column, value in columns.items()]
    db.command(f"global sql update agent set {', '.join(parts)} where id = {agent_id}")


def quoted(value: Any) -> str:
    if value is None:
        return "null"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def memberships(db: WdbClient, agent_id: int) -> list[tuple[str, int]]:
    """Returns (group, priority) in order of priority, from the table."""
    rows = db.rows(
        "select g.name as name, b.priority as priority from belongs b join `group` g on g.id = b.id_group "
        f"where b.id_agent = {agent_id} order by b.priority"
    )
    return [(row["name"], row["priority"]) for row in rows]


def group_columns(db: WdbClient, agent_id: int) -> tuple[Any, ...]:
    return some(db, agent_id, "group", "group_hash", "group_sync_status")


def labels(db: WdbClient, agent_id: int) -> dict[str, str]:
    return {row["key"]: row["value"] for row in json.loads(db.command(f"global get-labels {agent_id}"))}


def set_groups(db: WdbClient, mode: str, agent_id: int, groups: list[Any], **more: Any) -> bytes:
    """Sends `set-agent-groups` with one item; returns the answer. `name` goes into the item, `sync_status` beside the
    mode."""
    item: dict[str, Any] = {"id": agent_id, "groups": groups}
    if "name" in more:
        item["name"] = more.pop("name")
    return db.raw(f"global set-agent-groups {compact({'mode': mode, **more, 'data': [item]})}")


def group_hash(*groups: str) -> str:
    """Returns the checksum of section 5."""
    return hashlib.sha256(",".join(groups).encode()).hexdigest()[:8]


def global_hash(hashes: Iterable[str]) -> str:
    """Returns the checksum of section 5, for at least one hash."""
    return hashlib.sha1("".join(hashes).encode(), usedforsecurity=False).hexdigest()


def own_hash(db: WdbClient) -> str | None:
    return db.group_hash()


def fitting(lengths: Iterable[int], used: int = 2) -> int:
    """Returns how many items of these lengths fit into a chunk (2.3)."""
    count = 0
    for length in lengths:
        if not used + length + 1 < CHUNK:
            break
        used += length + 1
        count += 1
    return count


def within(low: float, value: int, high: float) -> bool:
    """Returns whether a time in whole seconds was taken from the clock between two readings of it."""
    return int(low) <= value <= int(high)


def until(reached: Callable[[], bool], what: str) -> None:
    patience = Patience(DEADLINE_S)
    while not reached():
        assert not patience.is_over(), f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)

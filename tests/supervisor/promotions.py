"""A node with a replica, keys and a change of role under way."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec

from clusterd.logs import Log
from clusterd.role import NodeRole, RoleChange, update_role
from clusterd.rundir import REPLICA_FILE
from clusterd.settings import ClusterBlock, Settings
from clusterd.store import schema
from clusterd.store.change_log import GREATEST, REPLICA_MARKS, set_mark
from clusterd.store.keys import KeyFile
from clusterd.supervisor import role_change

KEY = "a" * 64


def settings_of(root: str) -> Settings:
    return Settings(root, cluster=ClusterBlock(node_type="worker", node_name="w1"))


def make_replica(root: str, agents: dict[int, str], greatest: int = 0, keyless: tuple[int, ...] = ()) -> None:
    """Makes a whole replica with these agents, by id and name."""
    (Path(root) / REPLICA_FILE).unlink(missing_ok=True)
    db = schema.connect(root, name=REPLICA_FILE)
    with contextlib.closing(db):
        db.execute("pragma journal_mode = wal").fetchone()
        schema.make(db, REPLICA_FILE, is_copy=True)
        db.execute(f"create table {REPLICA_MARKS} (name text primary key, value) without rowid")
        set_mark(db, GREATEST, greatest or max(agents, default=0), REPLICA_MARKS)
        for one, name in agents.items():
            db.execute(
                "insert into agent (id, name, register_ip, internal_key, date_add) values (?, ?, 'any', ?, 1)",
                (one, name, KEY),
            )
            if one not in keyless:
                db.execute("insert into clusterd_seen (kind, name) values ('key', ?)", (str(one),))


def write_keys(root: str, agents: dict[int, str]) -> None:
    lines = [f"{one:03d} {name} any {KEY}\n" for one, name in agents.items()]
    (Path(root) / "etc/client.keys").write_text("".join(lines))


def keys(root: str) -> dict[int, str]:
    file = KeyFile(root)
    file.refresh()
    return {key.number: key.name for key in file.table}


def agents(root: str, name: str = schema.DATABASE) -> dict[int, str]:
    with contextlib.closing(sqlite3.connect(Path(root) / name)) as db:
        return dict(db.execute("select id, name from agent where id > 0"))


def begin(root: str, change: RoleChange, **more: object) -> NodeRole:
    given = msgspec.convert({"term": 4, "master": "10.0.0.2:1516", "master_name": "w1"} | more, NodeRole)
    return update_role(root, lambda before: msgspec.structs.replace(given, change=change))


def finish(root: str, given: NodeRole, settings: Settings | None = None) -> tuple[int, str]:
    reason = Path(root) / "reason"
    log = Log(f"{root}/logs/cluster.log", 1)
    code = role_change.run((settings or settings_of(root)).with_role(given), given, log, str(reason))
    return code, reason.read_text() if reason.exists() else ""

"""Rows of agents: what registration, keepalives and listings do with them (wdb.md 3.6 to 3.17, 4)."""

import sqlite3

import msgspec

from clusterd.store.engine import Session
from clusterd.store.jsontext import Chunk, JsonRefused, encode
from clusterd.store.schema import NEVER_ENDS, SYSTEM_COLUMNS

STRONGER = """case
    when :sync = 'syncreq_keepalive' and sync_status in ('syncreq_status', 'syncreq') then sync_status
    when :sync = 'syncreq_status' and sync_status = 'syncreq' then sync_status
    else :sync end"""
"""The precedence of wdb.md 4.1: a weaker request never hides a stronger one, `synced` always clears."""


class NewAgentRow(msgspec.Struct, frozen=True):
    id: int
    name: str
    date_add: int
    ip: str | None = None
    register_ip: str | None = None
    internal_key: str | None = None
    group: str | None = None


class AgentData(msgspec.Struct, frozen=True):
    id: int
    os_name: str | None = None
    os_version: str | None = None
    os_major: str | None = None
    os_minor: str | None = None
    os_codename: str | None = None
    os_platform: str | None = None
    os_build: str | None = None
    os_uname: str | None = None
    os_arch: str | None = None
    version: str | None = None
    config_sum: str | None = None
    merged_sum: str | None = None
    manager_host: str | None = None
    node_name: str | None = None
    agent_ip: str | None = None
    connection_status: str | None = None
    group_config_status: str | None = None
    sync_status: str | None = None
    labels: str | None = None


class AgentName(msgspec.Struct, frozen=True):
    id: int
    name: str


class Keepalive(msgspec.Struct, frozen=True):
    id: int
    connection_status: str
    sync_status: str


class AgentConnection(msgspec.Struct, frozen=True):
    id: int
    connection_status: str
    sync_status: str
    status_code: int


class StatusCode(msgspec.Struct, frozen=True):
    id: int
    status_code: int
    sync_status: str
    version: str | None = None


class Wanted(msgspec.Struct, frozen=True):
    name: str
    ip: str


def insert_agent(session: Session, row: NewAgentRow) -> None:
    session.db.execute(
        'insert into agent (id, name, date_add, ip, register_ip, internal_key, "group") values (?, ?, ?, ?, ?, ?, ?)',
        (row.id, row.name, row.date_add, row.ip, row.register_ip, row.internal_key, row.group),
    )


def update_agent_data(session: Session, data: AgentData) -> None:
    values = msgspec.structs.asdict(data)
    columns = "".join(f"{name} = :{name}, " for name in SYSTEM_COLUMNS)
    address = "ip = :agent_ip, " if data.agent_ip is not None else ""
    values["sync"] = "synced" if data.sync_status is None else data.sync_status
    values["now"] = NEVER_ENDS if data.id == 0 else session.now()
    found = session.db.execute(
        f"update agent set {columns}{address}connection_status = :connection_status, group_config_status ="
        f" :group_config_status, last_keepalive = :now, sync_status = {STRONGER} where id = :id",
        values,
    )
    _heard_of(session, found, data.id)
    session.db.execute("delete from labels where id = ?", (data.id,))
    for line in (data.labels or "").split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            session.db.execute("insert into labels (id, key, value) values (?, ?, ?)", (data.id, key, value))


def update_agent_name(session: Session, change: AgentName) -> None:
    session.db.execute("update agent set name = ? where id = ?", (change.name, change.id))


def update_agent_key(session: Session, agent_id: int, register_ip: str, key: str) -> None:
    session.db.execute("update agent set register_ip = ?, internal_key = ? where id = ?", (register_ip, key, agent_id))


def update_keepalive(session: Session, keepalive: Keepalive) -> None:
    found = session.db.execute(
        "update agent set last_keepalive = :now, connection_status = :connection, disconnection_time = 0,"
        f" status_code = 0, sync_status = {STRONGER} where id = :id",
        {
            "now": session.now(),
            "connection": keepalive.connection_status,
            "sync": keepalive.sync_status,
            "id": keepalive.id,
        },
    )
    _heard_of(session, found, keepalive.id)


def update_connection_status(session: Session, change: AgentConnection) -> None:
    found = session.db.execute(
        "update agent set connection_status = :connection, status_code = :code, disconnection_time = :since,"
        f" sync_status = {STRONGER} where id = :id",
        {
            "connection": change.connection_status,
            "code": change.status_code,
            "since": session.now() if change.connection_status == "disconnected" else 0,
            "sync": change.sync_status,
            "id": change.id,
        },
    )
    _heard_of(session, found, change.id)


def update_status_code(session: Session, change: StatusCode) -> None:
    found = session.db.execute(
        f"update agent set status_code = :code, version = :version, sync_status = {STRONGER} where id = :id",
        {"code": change.status_code, "version": change.version, "sync": change.sync_status, "id": change.id},
    )
    _heard_of(session, found, change.id)


def _heard_of(session: Session, found: sqlite3.Cursor, agent_id: int) -> None:
    if found.rowcount and agent_id > 0:
        session.stamp(agent_id)


def reset_connections(session: Session, sync_status: str) -> None:
    changed = session.db.execute(
        "update agent set connection_status = 'disconnected', status_code = 5, disconnection_time = ?, sync_status = ?"
        " where id > 0 and connection_status not in ('disconnected', 'never_connected') returning id",
        (session.now(), sync_status),
    ).fetchall()
    _note_wanted(session, [agent_id for (agent_id,) in changed], sync_status)


def _note_wanted(session: Session, agent_ids: list[int], sync_status: str) -> None:
    """A row that waits to be reported gets a new timestamp, so that a report already under way does not confirm it."""
    if sync_status != "synced":
        for agent_id in agent_ids:
            session.stamp(agent_id)


def disconnect_silent(session: Session, last_id: int, before: int, sync_status: str) -> bytes:
    """The whole answer to `disconnect-agents`. If the table refuses one agent, the answer is `err` with the ids that
    follow it."""
    found = session.db.execute(
        "select id from agent where id > ? and connection_status in ('active', 'pending') and last_keepalive < ?"
        " order by id",
        (last_id, before),
    ).fetchall()
    chunk, status = Chunk(2), b"ok"
    for (agent_id,) in found:
        if not chunk.add(encode({"id": agent_id})):
            status = b"due"
            break
        try:
            session.db.execute(
                "update agent set connection_status = 'disconnected', status_code = 4, disconnection_time = ?,"
                " sync_status = ? where id = ?",
                (session.now(), sync_status, agent_id),
            )
            _note_wanted(session, [agent_id], sync_status)
        except sqlite3.IntegrityError:
            status = b"err"
            break
    return status + b" [" + chunk.joined() + b"]"


def delete_agent(session: Session, agent_id: int) -> None:
    """Raises Refused when the table refuses the row."""
    try:
        session.db.execute("delete from agent where id = ?", (agent_id,))
    except sqlite3.Error:
        raise JsonRefused("Error deleting agent from agent table in global.db.") from None
    session.hashes.put(agent_id, None)

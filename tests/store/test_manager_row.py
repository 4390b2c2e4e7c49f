"""Agent 000 describes this node, as the row of a stock manager does."""

import socket
import sqlite3
from pathlib import Path
from typing import Any

from clusterd.store import schema


def row(root: Path) -> dict[str, Any]:
    connection = sqlite3.connect(root / schema.DATABASE)
    try:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute("select * from agent where id = 0").fetchone())
    finally:
        connection.close()


def change(root: Path, statement: str) -> None:
    connection = sqlite3.connect(root / schema.DATABASE)
    try:
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def test_agent_000_has_version_node_and_host(tmp_path: Path) -> None:
    schema.prepare(str(tmp_path), "master-node", "4.14.1")
    found = row(tmp_path)
    assert (found["version"], found["node_name"]) == ("Wazuh v4.14.1", "master-node")
    assert found["name"] == found["manager_host"] == socket.gethostname()
    assert (found["ip"], found["connection_status"], found["last_keepalive"]) == ("127.0.0.1", "active", 253402300799)
    assert found["os_uname"].startswith("Linux |")
    assert found["sync_status"] == "synced", "the row of a node is its own"


def test_agent_000_follows_the_settings_and_keeps_what_others_found_out(tmp_path: Path) -> None:
    schema.prepare(str(tmp_path), "old", "4.14.0")
    change(tmp_path, "update agent set name = 'siem', os_name = 'Solaris' where id = 0")
    schema.prepare(str(tmp_path), "new", "4.14.1")
    found = row(tmp_path)
    assert (found["version"], found["node_name"]) == ("Wazuh v4.14.1", "new")
    assert (found["name"], found["os_name"]) == ("siem", "Solaris")


def test_database_of_an_earlier_clusterd_gets_the_version(tmp_path: Path) -> None:
    schema.prepare(str(tmp_path), "m", "4.14.1")
    change(tmp_path, "update agent set name = 'localhost', version = null, node_name = 'unknown' where id = 0")
    schema.prepare(str(tmp_path), "m", "4.14.1")
    found = row(tmp_path)
    assert (found["name"], found["version"], found["node_name"]) == (socket.gethostname(), "Wazuh v4.14.1", "m")


def test_agent_000_that_was_deleted_is_back_at_the_next_start(tmp_path: Path) -> None:
    """`global delete-agent` without digits is about 0."""
    schema.prepare(str(tmp_path), "m", "4.14.1")
    before = row(tmp_path)
    change(tmp_path, "delete from agent where id = 0")
    schema.prepare(str(tmp_path), "m", "4.14.1")
    found = row(tmp_path)
    assert found | {"date_add": 0} == before | {"date_add": 0}

"""Requests of the wdb socket other than `global` (wdb.md 2.7): private databases of agents, and requests about the
daemon."""

import asyncio
import json
import re
import sqlite3
import time
from pathlib import Path

from clusterd.store import sql
from clusterd.store.bounds import StatementWatch, authorize
from clusterd.store.engine import Engine
from clusterd.store.jsontext import JsonRefused, encode, near

DIRECTORY = "queue/db"
MOST_DIGITS = 18
STATEMENT_S = 10.0
_ID = re.compile(r"\d{1,10}", re.ASCII)
_SCHEMA = """
create table if not exists sca_policy (name text, file text, id text, description text, "references" text,
    hash_file text);
create table if not exists sca_scan_info (id integer primary key, start_scan integer, end_scan integer, policy_id text,
    pass integer, fail integer, invalid integer, total_checks integer, score integer, hash text);
create table if not exists sca_check (scan_id integer, id integer primary key, policy_id text, title text,
    description text, rationale text, remediation text, file text, process text, directory text, registry text,
    command text, "references" text, result text, reason text, condition text);
create table if not exists sca_check_rules (id_check integer, type text, rule text, primary key (id_check, type, rule));
create table if not exists sca_check_compliance (id_check integer, key text, value text,
    primary key (id_check, key, value));
"""
_EMPTY = "err No agents id provided"
_SECTIONS = ("internal", "wdb")


def database_name(agent_id: int) -> str:
    return f"{agent_id:03d}.db"


class PrivateDatabases:
    """Opens the database for each request and closes it afterwards."""

    def __init__(self, root: str, version: str) -> None:
        self._directory = Path(root) / DIRECTORY
        self._version = version
        self._started_at = time.time()
        self._requests = 0

    # ---- agent ⟨id⟩ ⟨command⟩ ----------------------------------------------------------------------------------------

    async def answer(self, engine: Engine, request: str) -> bytes:
        """`{id} {command} [{argument}]`. Raises Refused."""
        number, _, rest = request.partition(" ")
        if not number.isascii() or not number.isdigit():
            raise JsonRefused(f"Invalid agent ID {near(number)}")
        if len(number.lstrip("0")) > MOST_DIGITS:
            raise JsonRefused("Agent not found")
        agent_id = int(number.lstrip("0") or "0")
        command, _, argument = rest.partition(" ")
        if not command:
            raise JsonRefused(f"Invalid DB query syntax, near {near(rest)}")
        if agent_id and not await engine.read(lambda db: _exists(db, agent_id)):
            raise JsonRefused("Agent not found")
        if command in ("begin", "commit", "close"):
            return b"ok"
        path = self._directory / database_name(agent_id)
        if command == "remove":
            await asyncio.to_thread(_unlink, path)
            return b"ok"
        if command != "sql" or not argument:
            raise JsonRefused(f"Invalid DB query syntax, near {near(command)}")
        try:
            return b"ok " + await asyncio.to_thread(_run, path, argument, engine.watch)
        except sqlite3.OperationalError as failure:
            if "unable to open" in str(failure):
                raise JsonRefused(f"Couldn't open DB for agent {agent_id}") from None
            raise JsonRefused("Cannot execute SQL query") from None
        except (sqlite3.Error, sqlite3.Warning):
            raise JsonRefused("Cannot execute SQL query") from None

    async def remove(self, request: str) -> bytes:
        """`wazuhdb remove ⟨id⟩ ...`."""
        word, _, listed = request.partition(" ")
        if word != "remove":
            return _EMPTY.encode()
        outcome: dict[str, str] = {}
        for number in listed.split():
            if not _ID.fullmatch(number):
                outcome[number] = "Invalid agent ID"
                continue
            gone = await asyncio.to_thread(_unlink, self._directory / database_name(int(number)))
            outcome[f"{int(number):03d}"] = "ok" if gone else "Can't delete"
        return b"ok " + encode({"agents": outcome})

    def unlink(self, agent_id: int) -> None:
        """Path of the database of a deleted agent."""
        _unlink(self._directory / database_name(agent_id))

    # ---- {"command": ...} --------------------------------------------------------------------------------------------

    def answer_json(self, text: str) -> bytes:
        """Answers statistics and configuration requests of the daemon, in the common form and with the errors of wdb.md
        2.7."""
        self._requests += 1
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            return _common(1, "Invalid JSON input")
        command = request.get("command")
        if not isinstance(command, str) or not command:
            return _common(2, "Empty command")
        if command == "getstats":
            data = {"uptime": int(self._started_at), "name": "wazuh-db", "version": self._version}
            return _common(0, "ok", data)
        if command != "getconfig":
            return _common(3, "Unrecognized command")
        parameters = request.get("parameters")
        if not isinstance(parameters, dict) or not parameters:
            return _common(4, "Empty parameters")
        section = parameters.get("section")
        if not isinstance(section, str) or not section:
            return _common(5, "Empty section")
        if section not in _SECTIONS:
            return _common(6, "Unrecognized or not configured section")
        return _common(0, "ok", {section: {}})

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)


def _common(number: int, message: str, data: dict[str, object] | None = None) -> bytes:
    return encode({"error": number, "message": message, "data": data or {}})


def _exists(db: sqlite3.Connection, agent_id: int) -> bool:
    return db.execute("select 1 from agent where id = ?", (agent_id,)).fetchone() is not None


def _unlink(path: Path) -> bool:
    """Deletes the database and its journal. Returns whether there was one and it is gone. Never raises: a deleted agent
    stays deleted even if the disk refuses to remove its files."""
    try:
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.unlink()
    except OSError:
        return False
    return True


def _run(path: Path, text: str, watch: StatementWatch) -> bytes:
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("pragma synchronous = normal")
        connection.execute("pragma temp_store = memory")
        if not connection.execute("select 1 from sqlite_master limit 1").fetchone():
            connection.executescript(_SCHEMA)
        connection.set_authorizer(authorize)
        return sql.run(connection, text, watch, STATEMENT_S)
    finally:
        connection.close()

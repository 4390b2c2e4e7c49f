"""Requests of the wdb stream socket: grammar, table of commands, answers (wdb.md 2 and 3)."""

import functools
import re
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from clusterd import stacks
from clusterd.store import agents, groups, sql, stream_report
from clusterd.store.engine import Engine, Session
from clusterd.store.events import Tell, group_events, to_nobody
from clusterd.store.jsontext import ANSWER_BYTES, JsonRefused, array, encode, near, parse, rows
from clusterd.store.private import PrivateDatabases
from clusterd.store.schema import AGENT_COLUMNS

T = TypeVar("T")
Handler = Callable[[str], Awaitable[bytes | list[bytes]]]
OK = b"ok"
_DIGITS = re.compile(r"\d*", re.ASCII)
MOST_DIGITS = 19
LARGEST = (1 << 63) - 1
_WORD = re.compile(r"((?:[^ \\]|\\.)*) ?", re.DOTALL)
"""The text up to the first unescaped space."""


def leading_number(text: str) -> int:
    """The number that the text begins with, 0 if there is none."""
    found = _DIGITS.match(text)
    digits = found[0].lstrip("0") if found else ""
    # No id is longer, and Python refuses to parse thousands of digits.
    return int(digits or "0") if len(digits) < MOST_DIGITS else LARGEST


class DatabaseCommands:
    """Answers requests. Owns the id that `sync-agent-info-get` keeps for all connections."""

    def __init__(
        self,
        engine: Engine,
        private: PrivateDatabases,
        *,
        on_worker: bool,
        say: Callable[[str, str], None],
        tell: Tell = to_nobody,
    ) -> None:
        """`say`: logs a text at a level. `tell`: takes what becomes of groups on a master, for the journal."""
        self._tell = tell
        self._engine = engine
        self._say = say
        self._private = private
        self._on_worker = on_worker
        self._info_start = 0
        status = "synced" if on_worker else "syncreq"
        self._table: dict[str, tuple[bool, Handler]] = {
            "sql": (True, self._sql),
            "sync-agent-groups-get": (True, self._sync_agent_groups_get),
            "set-agent-groups": (True, self._set_agent_groups),
            "clusterd-groups-handed-out": (True, self._groups_handed_out),
            "recalculate-agent-group-hashes": (False, self._recalculate),
            "get-groups-integrity": (True, self._groups_integrity),
            "sync-agent-info-get": (False, self._sync_agent_info_get),
            "sync-agent-info-set": (True, self._writer(Any, stream_report.sync_agent_info_set)),
            "insert-agent": (True, self._writer(agents.NewAgentRow, agents.insert_agent)),
            "update-agent-data": (True, self._writer(agents.AgentData, agents.update_agent_data)),
            "update-agent-name": (True, self._writer(agents.AgentName, agents.update_agent_name)),
            "update-keepalive": (True, self._writer(agents.Keepalive, agents.update_keepalive)),
            "update-connection-status": (True, self._writer(agents.AgentConnection, agents.update_connection_status)),
            "update-status-code": (True, self._writer(agents.StatusCode, agents.update_status_code)),
            "reset-agents-connection": (True, self._writes(agents.reset_connections)),
            "disconnect-agents": (True, self._disconnect_agents),
            "delete-agent": (
                True,
                self._writes(_delete_agent),
            ),
            "get-all-agents": (True, self._all_agents),
            "get-agent-info": (True, self._one_agent("agent information", AGENT_COLUMNS)),
            "get-agents-by-connection-status": (True, self._by_connection_status),
            "get-labels": (True, self._reads("agent labels", _labels)),
            "select-agent-name": (True, self._one_agent("agent name", ("name",))),
            "find-agent": (True, self._find_agent),
            "select-agent-group": (True, self._one_agent("agent group", ("group",))),
            "select-group-belong": (True, self._reads("agent groups", _groups_of)),
            "find-group": (True, self._reads("group id", _group_id)),
            "select-groups": (False, self._reads("groups", _all_groups)),
            "insert-agent-group": (True, self._writes(groups.insert_group)),
            "delete-group": (True, self._writes(lambda session, name: groups.delete_group(session, name, status))),
            "get-group-agents": (True, self._group_agents),
            "get-distinct-groups": (False, self._distinct_groups),
            "sleep": (True, self._sleep),
        }

    # ---- grammar -----------------------------------------------------------------------------------------------------

    async def answer(self, payload: bytes) -> list[bytes]:
        """The answer's frames, usually one (wdb.md 2.1 to 2.4)."""
        text = payload.rstrip(b"\0").decode(errors="surrogateescape").lstrip(" \n")
        newline = b"\n" if text.endswith("\n") else b""
        text = text.removesuffix("\n")
        try:
            found = await self._dispatch(text)
        except JsonRefused as refusal:
            found = b"err " + str(refusal).encode(errors="replace")
        except (sqlite3.Error, OverflowError, UnicodeError) as failure:
            found = f"err Cannot execute Global database query; {failure}".encode(errors="replace")
        except MemoryError:
            # SQLite has used up its memory limit for the moment (bounds.py).
            found = b"err Cannot execute Global database query; out of memory"
        except Exception as bug:
            # Every request gets an answer; the log has the reason.
            self._say("ERROR", f"Unexpected failure while answering a request: {stacks.told()}")
            found = f"err Internal error: {type(bug).__name__}".encode()
        frames = found if isinstance(found, list) else [found]
        return [(frame + newline)[:ANSWER_BYTES] for frame in frames]

    async def _dispatch(self, text: str) -> bytes | list[bytes]:
        if text.startswith("{"):
            return self._private.answer_json(text)
        actor, rest = _split(text)
        if rest is None:
            raise JsonRefused(f"Invalid DB query syntax, near {near(text)}")
        if actor == "agent":
            return await self._private.answer(self._engine, rest)
        if actor == "wazuhdb":
            return await self._private.remove(rest)
        if actor != "global":
            raise JsonRefused(f"Invalid DB query actor: {near(actor)}")
        command, argument = _split(rest)
        known = self._table.get(command)
        if known is None or (known[0] and argument is None):
            raise JsonRefused(f"Invalid DB query syntax, near {near(command)}")
        return await known[1](argument or "")

    def _writer(self, shape: type[T], work: Callable[[Session, T], None]) -> Handler:
        async def handler(argument: str) -> bytes:
            request = parse(argument, shape)
            await self._engine.write(lambda session: work(session, request))
            return OK

        return handler

    def _writes(self, work: Callable[[Session, str], None]) -> Handler:
        """Like `_writer`, for an argument that is no JSON."""

        async def handler(argument: str) -> bytes:
            await self._engine.write(lambda session: work(session, argument))
            return OK

        return handler

    def _reads(self, what: str, work: Callable[[sqlite3.Connection, str], bytes]) -> Handler:
        async def handler(argument: str) -> bytes:
            return b"ok " + await self._reader(what, lambda db: work(db, argument))

        return handler

    def _one_agent(self, what: str, names: tuple[str, ...]) -> Handler:
        columns = ", ".join(f'"{name}"' for name in names)

        def work(db: sqlite3.Connection, argument: str) -> bytes:
            found = db.execute(f"select {columns} from agent where id = ?", (leading_number(argument),))
            return b"[" + b",".join(rows(names, found)) + b"]"

        return self._reads(what, work)

    async def _reader(self, what: str, work: Callable[[sqlite3.Connection], bytes]) -> bytes:
        """`what` completes the error text of a failing database (wdb.md 3.17)."""
        try:
            return await self._engine.read(work)
        except sqlite3.Error:
            raise JsonRefused(f"Error getting {what} from global.db.") from None

    # ---- sql ---------------------------------------------------------------------------------------------------------

    async def _sql(self, argument: str) -> bytes:
        watch = self._engine.watch
        try:
            return b"ok " + await self._engine.read(lambda db: sql.run_read(db, argument, watch))
        except sql.Writes:
            work = functools.partial(sql.run_write, text=argument, watch=watch)
            return b"ok " + await self._engine.write(work, alone=True)

    # ---- groups ------------------------------------------------------------------------------------------------------

    async def _sync_agent_groups_get(self, argument: str) -> bytes:
        query = groups.parse_groups_query(parse(argument, Any))
        status, text = await self._engine.write(lambda session: groups.sync_agent_groups_get(session, query))
        return status + b" " + text

    async def _set_agent_groups(self, argument: str) -> bytes:
        request = parse(argument, Any)
        await self._engine.write(lambda session: groups.set_agent_groups(session, request, on_worker=self._on_worker))
        if not self._on_worker:
            for event in group_events(request):
                self._tell(event)
        return OK

    async def _groups_handed_out(self, argument: str) -> bytes:
        items = groups.parse_handed_out(parse(argument, Any))
        count = await self._engine.write(lambda session: groups.handed_out(session, items))
        return b"ok " + encode(count)

    async def _recalculate(self, argument: str) -> bytes:
        try:
            await self._engine.write(groups.recalculate_all)
        except sqlite3.Error:
            raise JsonRefused("Error recalculating group hash of agents in global.db") from None
        return OK

    async def _groups_integrity(self, argument: str) -> bytes:
        word = await self._engine.write(lambda session: groups.integrity(session, argument))
        return b"ok [" + encode(word.decode()) + b"]"

    async def _group_agents(self, argument: str) -> bytes:
        words = argument.split(" ")
        if not words[0]:
            raise JsonRefused("Invalid arguments, group name not found.")
        if len(words) < 2 or words[1] != "last_id":
            raise JsonRefused("Invalid arguments, 'last_id' not found.")
        if len(words) < 3 or not words[2]:
            raise JsonRefused("Invalid arguments, last agent id not found.")
        name, last_id = words[0], leading_number(words[2])
        return await self._reader("group agents", lambda db: b" ".join(groups.members(db, name, last_id)))

    async def _distinct_groups(self, argument: str) -> bytes:
        def work(db: sqlite3.Connection) -> bytes:
            found = db.execute(
                'select distinct "group", group_hash from agent where id > 0 and group_hash > ? order by group_hash',
                (argument,),
            )
            return b" ".join(array(rows(("group", "group_hash"), found)))

        return await self._reader("agent groups information", work)

    # ---- agents ------------------------------------------------------------------------------------------------------

    async def _sync_agent_info_get(self, argument: str) -> bytes:
        words = argument.split(" ")
        if words[0] == "last_id" and len(words) > 1:
            self._info_start = leading_number(words[1])
        start = self._info_start
        status, text, self._info_start = await self._engine.write(
            lambda session: stream_report.sync_agent_info_get(session, start)
        )
        return status + b" " + text

    async def _disconnect_agents(self, argument: str) -> bytes:
        words = [word for word in argument.split(" ") if word]
        for place, what in enumerate(("last id", "keepalive", "sync_status")):
            if len(words) <= place:
                raise JsonRefused(f"Invalid arguments {what} not found")
        last_id, before, status = leading_number(words[0]), leading_number(words[1]), words[2]
        return await self._engine.write(lambda session: agents.disconnect_silent(session, last_id, before, status))

    async def _all_agents(self, argument: str) -> bytes | list[bytes]:
        words = argument.split(" ")
        if words[0] == "context":
            try:
                return await self._engine.read(_context)
            except sqlite3.Error:
                raise JsonRefused("Error getting agents from global.db.") from None
        if words[0] != "last_id":
            raise JsonRefused("Invalid arguments 'last_id' or 'context' not found")
        if len(words) < 2 or not words[1]:
            raise JsonRefused("Invalid arguments 'last_id' not found")
        last_id = -1 if words[1].startswith("-") else leading_number(words[1])
        return await self._ids("agents", "id > ?", (last_id,))

    async def _ids(self, what: str, condition: str, values: tuple[Any, ...], limit: int = -1) -> bytes:
        def work(db: sqlite3.Connection) -> bytes:
            found = db.execute(f"select id from agent where {condition} order by id limit ?", (*values, limit))
            try:
                return b" ".join(array(rows(("id",), found)))
            finally:
                found.close()

        return await self._reader(what, work)

    async def _by_connection_status(self, argument: str) -> bytes:
        words = [word for word in argument.split(" ") if word]
        if not words:
            raise JsonRefused("Invalid arguments 'last_id' not found")
        if len(words) < 2:
            raise JsonRefused("Invalid arguments 'connection_status' not found")
        if len(words) == 3:
            raise JsonRefused("Invalid arguments 'limit' not found")
        last_id, status = leading_number(words[0]), words[1]
        what = "agents by connection status"
        if len(words) == 2:
            return await self._ids(what, "id > ? and connection_status = ?", (last_id, status))
        values = (last_id, status, words[2])
        limit = leading_number(words[3])
        return await self._ids(what, "id > ? and connection_status = ? and node_name = ?", values, limit)

    async def _find_agent(self, argument: str) -> bytes:
        wanted = parse(argument, agents.Wanted)

        def work(db: sqlite3.Connection) -> bytes:
            found = db.execute(
                "select id from agent where name = ?1 and (register_ip = ?2 or substr(register_ip, 1, length(?2) + 1)"
                " = ?2 || '/') order by id",
                (wanted.name, wanted.ip),
            )
            return array(rows(("id",), found))[1]

        return b"ok " + await self._reader("agents", work)

    async def _sleep(self, argument: str) -> bytes:
        """For tests of clients: stays busy for that many milliseconds, at most a second, holding no lock."""
        await self._private.sleep(min(leading_number(argument), 1000) / 1000)
        return b"ok "


def _split(text: str) -> tuple[str, str | None]:
    """Splits at the first space: the first word and the rest, None without a space."""
    found = _WORD.match(text)
    assert found is not None
    return found[1], text[found.end() :] if found[0].endswith(" ") and len(found[0]) > len(found[1]) else None


def _context(db: sqlite3.Connection) -> list[bytes]:
    names = ("id", "version", "name", "ip")
    found = db.execute("select id, version, name, ip from agent order by id")
    return [b"due " + row for row in rows(names, found)] + [b"ok []"]


def _all_groups(db: sqlite3.Connection, argument: str) -> bytes:
    return array(rows(("name",), db.execute('select name from "group" order by id')))[1]


def _group_id(db: sqlite3.Connection, name: str) -> bytes:
    return array(rows(("id",), db.execute('select id from "group" where name = ?', (name,))))[1]


def _groups_of(db: sqlite3.Connection, agent_id: str) -> bytes:
    return array(encode(name) for name in groups.groups_of(db, leading_number(agent_id)))[1]


def _labels(db: sqlite3.Connection, agent_id: str) -> bytes:
    found = db.execute("select id, key, value from labels where id = ?", (leading_number(agent_id),))
    return b"[" + b",".join(rows(("id", "key", "value"), found)) + b"]"


def _delete_agent(session: Session, agent_id: str) -> None:
    agents.delete_agent(session, leading_number(agent_id))

"""Groups of agents: assignment, hashes, hand-over to the workers (wdb.md 3.1 to 3.4, 3.18 to 3.22, 5).

Functions take the session of a write, or a connection to read from; none of them ends the transaction.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from clusterd.names import is_group_name
from clusterd.store.engine import Session
from clusterd.store.groups_checksum import group_hash
from clusterd.store.jsontext import Chunk, JsonRefused, array, encode

MOST_GROUPS = 128
DEFAULT = "default"
_UNKNOWN_IP = "0.0.0.0"
_hash_of = lru_cache(4096)(group_hash)


# ---- groups ----------------------------------------------------------------------------------------------------------


def insert_group(session: Session, name: str) -> None:
    """Raises Refused for an invalid name or an existing group."""
    problem = JsonRefused("Error inserting group in global.db.")
    if not is_group_name(name):
        raise problem
    try:
        session.db.execute('insert into "group" (name) values (?)', (name,))
    except sqlite3.IntegrityError:
        raise problem from None


def group_id(db: sqlite3.Connection, name: str) -> int | None:
    row = db.execute('select id from "group" where name = ?', (name,)).fetchone()
    return None if row is None else int(row[0])


def delete_group(session: Session, name: str, sync_status: str) -> None:
    """Deletes a group; members without another group move to `default`. Raises Refused when that is not possible
    (wdb.md 3.21)."""
    found = group_id(session.db, name)
    if found is None:
        return
    members = [row[0] for row in session.db.execute("select id_agent from belongs where id_group = ?", (found,))]
    session.db.execute('delete from "group" where id = ?', (found,))
    default = group_id(session.db, DEFAULT)
    failed = False
    for agent_id in members:
        if not _has_groups(session.db, agent_id):
            failed |= default is None or not _insert(session.db, agent_id, default, 0)
        failed |= not _recalculate(session, agent_id, sync_status)
    if failed:
        raise JsonRefused("Error deleting group in global.db.")


# ---- assignment ------------------------------------------------------------------------------------------------------


class Assignment:
    """One `set-agent-groups` request: looks up each group's id once."""

    def __init__(self, session: Session, mode: str, sync_status: str, *, on_worker: bool) -> None:
        self._session = session
        self._db = session.db
        self._sync_status = sync_status
        self._on_worker = on_worker
        self._ids: dict[str, int | None] = {}
        self._step = self._modes(mode)
        self._is_override = mode == "override"

    def _modes(self, mode: str) -> Callable[[int, str | None, list[Any]], bool]:
        modes = {
            "override": self._override,
            "append": self._append,
            "empty_only": self._empty_only,
            "remove": self._remove,
        }
        if mode not in modes:
            raise JsonRefused(f"Invalid mode '{mode}' in set_agent_groups command")
        return modes[mode]

    def do(self, item: object) -> bool:
        """Applies one work item. Returns whether all of it succeeded."""
        if not isinstance(item, dict):
            return False
        agent_id, groups, name = item.get("id"), item.get("groups"), item.get("name")
        if not isinstance(agent_id, int) or isinstance(agent_id, bool) or not isinstance(groups, list):
            return False
        return self._step(agent_id, name if isinstance(name, str) else None, groups)

    def _override(self, agent_id: int, name: str | None, groups: list[Any]) -> bool:
        ids = [self._id(group) for group in groups]
        if self._is_as_wanted(agent_id, ids) and (name is not None or not self._on_worker):
            return self._validate(agent_id, groups, 0) and self._write(agent_id, groups)
        self._db.execute("delete from belongs where id_agent = ?", (agent_id,))
        if name is None and self._on_worker:
            return False
        if not self._validate(agent_id, groups, 0):
            return False
        done = self._assign(agent_id, name, groups, 0)
        return self._recalculate(agent_id) and done

    def _is_as_wanted(self, agent_id: int, ids: list[int | None]) -> bool:
        """Whether the agent has exactly these memberships already, with priorities from 0: the usual case of a full
        transfer."""
        if not ids or None in ids or len(set(ids)) != len(ids):
            return False
        rows = self._db.execute(
            "select id_group, priority from belongs where id_agent = ? order by priority", (agent_id,)
        ).fetchall()
        return rows == [(group, priority) for priority, group in enumerate(ids)]

    def _write(self, agent_id: int, groups: list[str]) -> bool:
        return _write_columns(self._session, agent_id, ",".join(groups), self._sync_status)

    def _append(self, agent_id: int, name: str | None, groups: list[Any]) -> bool:
        count, highest = self._db.execute(
            "select count(*), max(priority) from belongs where id_agent = ?", (agent_id,)
        ).fetchone()
        if not self._validate(agent_id, groups, count):
            return False
        done = self._assign(agent_id, None, groups, 0 if highest is None else highest + 1)
        return self._recalculate(agent_id) and done

    def _empty_only(self, agent_id: int, name: str | None, groups: list[Any]) -> bool:
        if _has_groups(self._db, agent_id):
            return True
        if not self._validate(agent_id, groups, 0):
            return False
        done = self._assign(agent_id, None, groups, 0)
        return self._recalculate(agent_id) and done

    def _remove(self, agent_id: int, name: str | None, groups: list[Any]) -> bool:
        done = True
        for group in groups:
            found = self._id(group)
            if found is None:
                done = False
                continue
            self._db.execute("delete from belongs where id_agent = ? and id_group = ?", (agent_id, found))
        if not _has_groups(self._db, agent_id):
            default = self._id(DEFAULT)
            done &= default is not None and _insert(self._db, agent_id, default, 0)
        return self._recalculate(agent_id) and done

    @staticmethod
    def _validate(agent_id: int, groups: list[Any], has: int) -> bool:
        names = [group for group in groups if isinstance(group, str)]
        return len(names) + has <= MOST_GROUPS and all(is_group_name(name) for name in names)

    def _assign(self, agent_id: int, create_as: str | None, groups: list[Any], priority: int) -> bool:
        done = True
        for group in groups:
            found = self._id(group)
            if found is None:
                done = False
                continue
            inserted = _insert(self._db, agent_id, found, priority)
            if not inserted and create_as is not None and self._is_override:
                self._create(agent_id, create_as)
                inserted = _insert(self._db, agent_id, found, priority)
            if inserted:
                priority += 1
            else:
                done = False
        return done

    def _create(self, agent_id: int, name: str) -> None:
        self._db.execute(
            'insert or ignore into agent (id, name, ip, register_ip, date_add, "group") values (?, ?, ?, ?, ?, null)',
            (agent_id, name, _UNKNOWN_IP, _UNKNOWN_IP, self._session.now()),
        )

    def _recalculate(self, agent_id: int) -> bool:
        return _recalculate(self._session, agent_id, self._sync_status)

    def _id(self, group: object) -> int | None:
        if not isinstance(group, str):
            return None
        if group not in self._ids:
            self._ids[group] = group_id(self._db, group)
        return self._ids[group]


def set_agent_groups(session: Session, request: object, *, on_worker: bool) -> None:
    """`set-agent-groups` (wdb.md 3.2). Applies all that is possible. Raises Refused with the documented texts."""
    content = request if isinstance(request, dict) else {}
    mode, items = content.get("mode"), content.get("data")
    if not isinstance(mode, str) or not isinstance(items, list):
        raise JsonRefused("Invalid JSON data, missing required fields")
    status = content.get("sync_status")
    assignment = Assignment(session, mode, status if isinstance(status, str) else "synced", on_worker=on_worker)
    done = [assignment.do(item) for item in items]
    if not all(done):
        raise JsonRefused("An error occurred during the set of the groups")


def _insert(db: sqlite3.Connection, agent_id: int, group: int, priority: int) -> bool:
    """Whether the membership was added: the agent must exist."""
    try:
        db.execute(
            "insert or replace into belongs (id_agent, id_group, priority) values (?, ?, ?)",
            (agent_id, group, priority),
        )
    except sqlite3.IntegrityError:
        return False
    return True


def _has_groups(db: sqlite3.Connection, agent_id: int) -> bool:
    return db.execute("select 1 from belongs where id_agent = ? limit 1", (agent_id,)).fetchone() is not None


def groups_of(db: sqlite3.Connection, agent_id: int) -> list[str]:
    """The agent's group names by priority."""
    return [
        row[0]
        for row in db.execute(
            'select g.name from belongs b join "group" g on g.id = b.id_group where b.id_agent = ? order by b.priority',
            (agent_id,),
        )
    ]


# ---- hashes ----------------------------------------------------------------------------------------------------------


def _recalculate(session: Session, agent_id: int, sync_status: str) -> bool:
    """Computes an agent's columns from its memberships. False when the table does not allow this `sync_status`."""
    names = groups_of(session.db, agent_id)
    return _write_columns(session, agent_id, ",".join(names) if names else None, sync_status)


def _write_columns(session: Session, agent_id: int, csv: str | None, sync_status: str) -> bool:
    digest = None if csv is None else _hash_of(csv)
    try:
        changed = session.db.execute(
            'update agent set "group" = ?, group_hash = ?, group_sync_status = ? where id = ?',
            (csv, digest, sync_status, agent_id),
        )
    except sqlite3.IntegrityError:
        return False
    if changed.rowcount:
        session.hashes.put(agent_id, digest)
    return True


def recalculate_all(session: Session) -> None:
    """`recalculate-agent-group-hashes` (wdb.md 3.3); also corrects a wrong hash whose text is right."""
    csvs: dict[int, str] = {}
    for agent_id, name in session.db.execute(
        'select b.id_agent, g.name from belongs b join "group" g on g.id = b.id_group where b.id_agent > 0'
        " order by b.id_agent, b.priority"
    ):
        csvs[agent_id] = f"{csvs[agent_id]},{name}" if agent_id in csvs else name
    wrong = []
    for agent_id, text, digest in session.db.execute('select id, "group", group_hash from agent where id > 0'):
        csv = csvs.get(agent_id)
        wanted = None if csv is None else _hash_of(csv)
        if text != csv or digest != wanted:
            wrong.append((csv, wanted, agent_id))
    session.db.executemany('update agent set "group" = ?, group_hash = ? where id = ?', wrong)
    session.load_hashes()


def integrity(session: Session, peer_hash: str) -> bytes:
    """The one-word answer of `get-groups-integrity` (wdb.md 3.4). Raises Refused for a hash that is too short."""
    if len(peer_hash) < 40:
        raise JsonRefused(f"Hash hex-digest does not have the expected length. Expected (40) got ({len(peer_hash)})")
    waiting = session.db.execute("select 1 from agent where group_sync_status = 'syncreq' limit 1").fetchone()
    if waiting is not None:
        return b"syncreq"
    return b"synced" if session.hashes.digest() == peer_hash[:40] else b"hash_mismatch"


# ---- hand-over to the workers ----------------------------------------------------------------------------------------


class GroupsQuery(msgspec.Struct, frozen=True):
    """The arguments of `sync-agent-groups-get` (wdb.md 3.1). `clusterd_future` is ours: includes agents with a
    registration time in the future, from before the clock was set back."""

    condition: str | None = None
    last_id: int = 0
    set_synced: bool = False
    get_global_hash: bool = False
    agent_registration_delta: int = 0
    clusterd_future: bool = False


def parse_groups_query(content: object) -> GroupsQuery:
    """Raises Refused with the documented texts."""
    try:
        query = msgspec.convert(content if isinstance(content, dict) else {}, GroupsQuery)
        good = query.last_id >= 0 and query.agent_registration_delta >= 0
    except msgspec.ValidationError:
        good = False
    if not good:
        raise JsonRefused("Invalid JSON data, invalid alternative fields data")
    if query.condition not in (None, "all", "sync_status"):
        raise JsonRefused("Could not obtain a response from wdb_global_sync_agent_groups_get")
    return query


_NO_AGENTS = b'[{"data":[]}]'


def sync_agent_groups_get(session: Session, query: GroupsQuery) -> tuple[bytes, bytes]:
    """Status and text of the answer."""
    chunk = Chunk(len(_NO_AGENTS))
    status = b"ok"
    returned: list[tuple[int]] = []
    try:
        for agent_id, item in _assigned(session, query):
            if not chunk.add(item):
                if not Chunk(len(_NO_AGENTS)).fits(len(item)):
                    # A name of 64 KiB: stock answers `due` for ever then, and no agent behind this one gets its groups.
                    continue
                status = b"due"
                break
            returned.append((agent_id,))
        if query.set_synced:
            session.db.executemany("update agent set group_sync_status = 'synced' where id = ?", returned)
    except sqlite3.Error:
        return b"err", b'[{"data":[' + chunk.joined() + b"]}]"
    ending = b"]}]"
    if query.get_global_hash and status == b"ok":
        if chunk.fits(48):
            ending = b'],"hash":' + encode(session.hashes.digest()) + b"}]"
        else:
            status = b"due"
    return status, b'[{"data":[' + chunk.joined() + ending


def _assigned(session: Session, query: GroupsQuery) -> Iterator[tuple[int, bytes]]:
    if query.condition is None:
        return
    only = "and group_sync_status = 'syncreq'" if query.condition == "sync_status" else ""
    now = session.now()
    agents = session.db.execute(
        f"select id, name from agent where id > ? {only} and (date_add < ? or (? and date_add > ?)) order by id",
        (query.last_id, now - query.agent_registration_delta, query.clusterd_future, now),
    )
    try:
        for agent_id, name in agents:
            groups = groups_of(session.db, agent_id)
            yield agent_id, encode({"id": agent_id, "name": name, "groups": groups})
    finally:
        agents.close()


class HandedOut(msgspec.Struct, frozen=True):
    id: int
    groups: list[str]


def parse_handed_out(content: object) -> list[HandedOut]:
    """`{"data": [...]}` with the items of a chunk. Raises Refused."""
    try:
        return msgspec.convert(content, dict[str, list[HandedOut]])["data"]
    except (msgspec.ValidationError, KeyError):
        raise JsonRefused("Invalid JSON data, missing required fields") from None


def handed_out(session: Session, items: Iterable[HandedOut]) -> int:
    """Ours, not stock's: every connected worker has these groups of these agents. Agents whose groups have not changed
    since count as handed out. Returns how many."""
    count = 0
    for item in items:
        csv = ",".join(item.groups) or None
        count += session.db.execute(
            "update agent set group_sync_status = 'synced'"
            " where id = ? and group_sync_status = 'syncreq' and \"group\" is ?",
            (item.id, csv),
        ).rowcount
    return count


def members(db: sqlite3.Connection, name: str, last_id: int) -> tuple[bytes, bytes]:
    """`get-group-agents`: ids in ascending order."""
    found = db.execute(
        'select b.id_agent from belongs b join "group" g on g.id = b.id_group where g.name = ? and b.id_agent > ?'
        " order by b.id_agent",
        (name, last_id),
    )
    try:
        return array(str(row[0]).encode() for row in found)
    finally:
        found.close()

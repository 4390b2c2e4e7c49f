"""Changes to agents by authd and the follower, through the engine."""

import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from clusterd.store import agents, change_log, groups
from clusterd.store.engine import Engine, Session
from clusterd.store.errors import NotKept, NotOnDisk, StoreFailed
from clusterd.store.jsontext import JsonRefused
from clusterd.store.private import PrivateDatabases
from clusterd.store.registry import AgentFacts, Registration

KEYS = "key"
"""Kind of clusterd_seen rows that name agents whose key this node has had."""
UNANSWERED = "unanswered"
"""Kind of those that name agents whose registration may not have been answered: this process, or that of the master of
before, may be killed in between."""


class StoreTable:
    """The AgentTable of authd. Changes are on disk when its methods return."""

    def __init__(
        self,
        engine: Engine,
        private: PrivateDatabases,
        replicated: Callable[[int], Awaitable[bool]] | None = None,
        ready: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`replicated`: waits until a candidate has everything up to a position of the change log, and whether that
        may be answered; None: there is no log. `ready`: waits until a change could be answered, or why not."""
        self._engine = engine
        self._private = private
        self._replicated = replicated
        self._ready = ready
        self._position: int | None = None
        """Of the last change by this object. None before the first: what an earlier life did may be unconfirmed."""
        self._unsure: set[int] | None = set() if replicated is None else None
        """Agents that only this node may have; None: any, of those that an earlier life has made."""
        self._remembers: bool | None = None
        self._heard_of: frozenset[int] | None = None
        """All but these were answered; None: nothing is to be noted."""

    async def facts(self, agent_id: int) -> AgentFacts | None:
        def work(db: sqlite3.Connection) -> AgentFacts | None:
            row = db.execute(
                "select connection_status, disconnection_time, date_add from agent where id = ?", (agent_id,)
            ).fetchone()
            return None if row is None else AgentFacts(row[0], row[1] or 0, row[2] or 0)

        return await self._engine.read(work)

    async def keyed(self) -> set[int]:
        return await self._engine.read(lambda db: {int(name) for name in seen(db, KEYS)})

    async def apply(self, added: Sequence[Registration], removed: Sequence[int]) -> None:
        """Applies all changes; StoreFailed: none; NotKept: all, but a power failure may undo them."""
        has_log = self._replicated is not None

        heard_of, self._heard_of = self._heard_of, None

        def work(session: Session) -> int:
            if heard_of is not None:
                _keep_unanswered(session, heard_of)
            _apply(session, added, removed)
            return change_log.head(session.db) if has_log else 0

        if has_log and self._unsure is not None:
            self._unsure.update(agent.id for agent in added)
        try:
            self._position = await self._engine.write(work, durable=True)
        except NotOnDisk as failure:
            raise NotKept(str(failure)) from failure
        except (sqlite3.Error, OSError, OverflowError) as failure:
            raise StoreFailed(str(failure)) from failure
        for agent_id in {*removed, *(agent.id for agent in added)}:
            self._private.unlink(agent_id)

    async def unanswered(self) -> set[int]:
        return await self._engine.read(lambda db: {int(name) for name in seen(db, UNANSWERED)})

    def answered(self, but: Collection[int]) -> None:
        self._heard_of = frozenset(but)

    async def note_answered(self) -> None:
        heard_of, self._heard_of = self._heard_of, None
        if heard_of is not None:
            # What fails may be that of others in the same batch. Then they count as unanswered, as after a kill.
            with contextlib.suppress(sqlite3.Error, OSError, MemoryError):
                await self._engine.write(lambda session: _keep_unanswered(session, heard_of))

    async def greatest(self) -> int:
        if self._remembers is None:
            self._remembers = self._replicated is not None or await self._engine.read(change_log.greatest_id) > 0
        return await self._engine.read(change_log.greatest_id) if self._remembers else 0

    async def replicated(self) -> bool:
        if self._replicated is None:
            return True
        if self._position is None:
            self._position = await self._engine.read(change_log.head)
        is_kept = await self._replicated(self._position)
        if is_kept:
            self._unsure = set()
        return is_kept

    async def ready(self) -> str:
        return "" if self._ready is None else await self._ready()

    async def is_kept(self, agent_id: int) -> bool:
        return (self._unsure is not None and agent_id not in self._unsure) or await self.replicated()


def _apply(session: Session, added: Sequence[Registration], removed: Sequence[int]) -> None:
    session.db.execute("savepoint registration")
    try:
        for agent_id in (*removed, *(agent.id for agent in added)):
            agents.delete_agent(session, agent_id)
        for agent in added:
            _register(session, agent)
        forget_seen(session, KEYS, map(str, removed))
        forget_seen(session, UNANSWERED, map(str, removed))
        for kind in (KEYS, UNANSWERED):
            note_seen(session, kind, [str(agent.id) for agent in added])
    except Exception as failure:
        session.db.execute("rollback to registration")
        session.db.execute("release registration")
        session.load_hashes()
        if isinstance(failure, JsonRefused):
            raise sqlite3.IntegrityError(str(failure)) from None
        raise
    session.db.execute("release registration")


def _register(session: Session, agent: Registration) -> None:
    """wdb.md 8.5, steps 3 and 4. A group that the table does not know yet is skipped, as in stock."""
    agents.insert_agent(
        session,
        agents.NewAgentRow(
            id=agent.id,
            name=agent.name,
            date_add=agent.date_add,
            register_ip=agent.register_ip,
            internal_key=agent.internal_key,
            group=agent.group,
        ),
    )
    if agent.group:
        for name in agent.group.split(","):
            # The group's directory exists (authd has checked); the follower may not have seen it yet.
            if groups.group_id(session.db, name) is None:
                groups.insert_group(session, name)
        assignment = groups.Assignment(session, "override", "syncreq", on_worker=False)
        assignment.do({"id": agent.id, "groups": agent.group.split(",")})


def _keep_unanswered(session: Session, numbers: Collection[int]) -> None:
    """All others were answered."""
    session.db.execute(
        "delete from clusterd_seen where kind = ? and name not in (select value from json_each(?))",
        (UNANSWERED, json.dumps([str(number) for number in numbers])),
    )


def note_seen(session: Session, kind: str, names: Iterable[str]) -> None:
    session.db.executemany(
        "insert or ignore into clusterd_seen (kind, name) values (?, ?)", [(kind, name) for name in names]
    )


def forget_seen(session: Session, kind: str, names: Iterable[str]) -> None:
    session.db.executemany("delete from clusterd_seen where kind = ? and name = ?", [(kind, name) for name in names])


def seen(db: sqlite3.Connection, kind: str) -> set[str]:
    return {row[0] for row in db.execute("select name from clusterd_seen where kind = ?", (kind,))}

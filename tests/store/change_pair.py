"""A database with a change log, and a copy that follows it."""

import sqlite3
from collections.abc import Callable
from typing import Any

from clusterd.store import agents, change_log, schema
from clusterd.store.engine import Session
from clusterd.store.jsontext import JsonRefused
from clusterd.store.units import UnitDigest, read_units, write_units

Work = Callable[[Session], object]
TABLES = {
    "agent": "select * from agent where id > 0 order by id",
    "labels": "select * from labels order by id, key",
    "group": 'select * from "group" order by id',
    "belongs": "select * from belongs order by id_agent, id_group",
    "clusterd_event": "select * from clusterd_event order by id",
    "keys": "select name from clusterd_seen where kind = 'key' order by name",
}


class Pair:
    """A master's database and a copy that is brought up to date from the log, both in memory."""

    def __init__(self) -> None:
        self.master, self.copy = made(), made()
        self.copy.execute("pragma foreign_keys = off")
        with self.master:
            self.master.execute("begin")
            change_log.begin_log(self.master)
        self.session = Session(self.master)
        self.epoch = str(change_log.mark(self.master, change_log.EPOCH))
        self.position = 0
        self.digests = UnitDigest(), UnitDigest()
        self.written: set[int] = set()
        """Agents that were written; every other batch says so, as a full copy does."""
        self._batches = 0

    def close(self) -> None:
        self.master.close()
        self.copy.close()

    def change(self, work: Callable[[Session], object]) -> None:
        """As in the engine: a refused statement undoes only itself."""
        self.master.execute("begin immediate")
        try:
            work(self.session)
        except (JsonRefused, sqlite3.Error):
            pass
        finally:
            if self.master.in_transaction:
                self.master.execute("commit")

    def batch(self, most: int) -> bool:
        """Returns whether there was one."""
        listed = change_log.changed_since(self.master, self.position, most)
        wanted = [(kind, one) for _, kind, one in listed]
        with as_bytes(self.master):
            units = read_units(self.master, wanted)
            self.digests[0].read_again(self.master, wanted)
        with as_bytes(self.copy):
            self.copy.execute("begin")
            ids = {unit.id for unit in units if unit.kind == change_log.AGENT}
            write_units(self.copy, units, ids - self.written if self._batches % 2 == 0 else ())
            self._batches += 1
            self.written |= ids
            self.copy.execute("commit")
            self.digests[1].read_again(self.copy, wanted)
        self.position = listed[-1][0] if listed else self.position
        return bool(listed)


class as_bytes:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._before, self._db.text_factory = self._db.text_factory, bytes

    def __exit__(self, *_: object) -> None:
        self._db.text_factory = self._before


def made() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.execute("pragma foreign_keys = on")
    db.execute("pragma recursive_triggers = on")
    schema.make(db, "memory")
    return db


def rows(db: sqlite3.Connection) -> dict[str, list[Any]]:
    with as_bytes(db):
        return {name: db.execute(query).fetchall() for name, query in TABLES.items()}


def catch_up(pair: Pair) -> None:
    while pair.batch(2):
        pass
    assert rows(pair.copy) == rows(pair.master)
    assert pair.digests[0].text == pair.digests[1].text


def add(one: int) -> Work:
    return lambda session: agents.insert_agent(session, agents.NewAgentRow(one, "a", 1))

"""The units of the change log as content: read from a database, written into one that is to be equal.

Texts are bytes here, so that invalid UTF-8, which a client's SQL can store, is copied as it is. A blob, which only such
a statement can store, arrives as text.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import xxhash

from clusterd.store.change_log import AGENT, GROUP
from clusterd.store.schema import AGENT_COLUMNS

Value = int | float | bytes | None


class Unit(msgspec.Struct, frozen=True, array_like=True):
    """One unit. Of a deleted one everything is empty. A group: `row` is its name. An agent: `row` are AGENT_COLUMNS
    without the id, `labels` (key, value), `belongs` (group, priority), `event` (moment on the master's boot clock,
    node) or empty, `has_key`: the node has seen its key and nobody has removed it."""

    kind: int
    id: int
    row: tuple[Value, ...] | None = None
    labels: tuple[tuple[Value, ...], ...] = ()
    belongs: tuple[tuple[Value, ...], ...] = ()
    event: tuple[Value, ...] = ()
    has_key: bool = False

    @property
    def is_gone(self) -> bool:
        return self.row is None and not (self.labels or self.belongs or self.event or self.has_key)


_COLUMNS = tuple(name for name in AGENT_COLUMNS if name != "id")
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)
_TEXT = "iif(typeof(?{0}) = 'blob', cast(?{0} as text), ?{0})"


def _values(count: int) -> str:
    return ", ".join(_TEXT.format(place) for place in range(1, count + 1))


_PUT_AGENT = f"insert or replace into agent (id, {_NAMES}) values ({_values(1 + len(_COLUMNS))})"
_PUT_LABEL = f"insert or replace into labels (id, key, value) values ({_values(3)})"
_PUT_BELONGS = f"insert or replace into belongs (id_agent, id_group, priority) values ({_values(3)})"
_PUT_EVENT = f"insert or replace into clusterd_event (id, at, node) values ({_values(3)})"
_PUT_GROUP = f'insert or replace into "group" (id, name) values ({_values(2)})'


def read_units(db: sqlite3.Connection, wanted: Sequence[tuple[int, int]]) -> list[Unit]:
    """The units (kind, id) in this order, as they are now. `db`: text_factory is bytes; a few hundred at a time."""
    agents = [unit_id for kind, unit_id in wanted if kind == AGENT]
    groups = [unit_id for kind, unit_id in wanted if kind == GROUP]
    listed = ", ".join(map(str, agents))
    rows = {row[0]: row[1:] for row in db.execute(f"select id, {_NAMES} from agent where id in ({listed})")}
    events = {row[0]: row[1:] for row in db.execute(f"select id, at, node from clusterd_event where id in ({listed})")}
    labels = _grouped(db.execute(f"select id, key, value from labels where id in ({listed}) order by id, key"))
    belongs = _grouped(
        db.execute(f"select id_agent, id_group, priority from belongs where id_agent in ({listed}) order by 1, 2")
    )
    texts = ", ".join(f"'{one}'" for one in agents)
    keyed = {
        int(name) for (name,) in db.execute(f"select name from clusterd_seen where kind = 'key' and name in ({texts})")
    }
    named = {
        row[0]: row[1:]
        for row in db.execute(f'select id, name from "group" where id in ({", ".join(map(str, groups))})')
    }
    return [
        Unit(
            AGENT,
            one,
            rows.get(one),
            labels.get(one, ()),
            belongs.get(one, ()),
            events.get(one, ()),
            one in keyed,
        )
        if kind == AGENT
        else Unit(GROUP, one, named.get(one))
        for kind, one in wanted
    ]


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[int, tuple[tuple[Any, ...], ...]]:
    found: dict[int, tuple[tuple[Any, ...], ...]] = {}
    for row in rows:
        found[row[0]] = (*found.get(row[0], ()), row[1:])
    return found


def write_units(db: sqlite3.Connection, units: Sequence[Unit]) -> None:
    """Makes these units what they say. Inside a transaction of a connection without foreign keys: a membership may come
    before its group."""
    agents = [unit for unit in units if unit.kind == AGENT]
    listed = ", ".join(str(unit.id) for unit in agents)
    there = {one for (one,) in db.execute(f"select id from agent where id in ({listed})")}
    # What was never written has nothing to be deleted: that is most of a full copy.
    ids = [(unit.id,) for unit in agents if unit.id in there or unit.row is None]
    for table, column in (("labels", "id"), ("belongs", "id_agent"), ("clusterd_event", "id")):
        db.executemany(f"delete from {table} where {column} = ?", ids)
    db.executemany("delete from agent where id = ?", [(unit.id,) for unit in agents if unit.row is None])
    keyless = [(str(unit.id),) for unit in agents if not unit.has_key]
    db.executemany("delete from clusterd_seen where kind = 'key' and name = ?", keyless)
    db.executemany(_PUT_AGENT, [(unit.id, *unit.row) for unit in agents if unit.row is not None])
    db.executemany(_PUT_LABEL, [(unit.id, *label) for unit in agents for label in unit.labels])
    db.executemany(_PUT_BELONGS, [(unit.id, *one) for unit in agents for one in unit.belongs])
    db.executemany(_PUT_EVENT, [(unit.id, *unit.event) for unit in agents if unit.event])
    db.executemany(
        "insert or ignore into clusterd_seen (kind, name) values ('key', ?)",
        [(str(unit.id),) for unit in agents if unit.has_key],
    )
    groups = [unit for unit in units if unit.kind == GROUP]
    db.executemany('delete from "group" where id = ?', [(unit.id,) for unit in groups])
    db.executemany(_PUT_GROUP, [(unit.id, *unit.row) for unit in groups if unit.row is not None])


# ---- digest ----------------------------------------------------------------------------------------------------------

PIECE = 500
_MODULUS = 1 << 64
_encoder = msgspec.msgpack.Encoder()


class UnitDigest:
    """A digest over all units: the sum of the digests of each. Only the units that are named are read again."""

    def __init__(self) -> None:
        self._digests: dict[tuple[int, int], int] = {}
        self._total = 0

    @property
    def text(self) -> str:
        return f"{self._total:016x}-{len(self._digests)}"

    def read_all(self, db: sqlite3.Connection) -> None:
        """Everything in the database."""
        self._digests, self._total = {}, 0
        self.read_again(db, all_units(db))

    def read_again(self, db: sqlite3.Connection, wanted: Sequence[tuple[int, int]]) -> None:
        for start in range(0, len(wanted), PIECE):
            for unit in read_units(db, wanted[start : start + PIECE]):
                before = self._digests.pop((unit.kind, unit.id), 0)
                after = 0
                if not unit.is_gone:
                    after = xxhash.xxh3_64_intdigest(_encoder.encode(unit))
                    self._digests[unit.kind, unit.id] = after
                self._total = (self._total + after - before) % _MODULUS

    def slice(self, number: int, slices: int) -> list[tuple[int, int]]:
        """The units of one of so many slices, to be read again without a reason."""
        return [(kind, one) for kind, one in self._digests if one % slices == number]


def all_units(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """(kind, id) of all that there is, whether the log knows it or not."""
    found = db.execute(
        f'select {GROUP}, id from "group" union select {AGENT}, id from agent where id > 0'
        f" union select {AGENT}, cast(name as integer) from clusterd_seen where kind = 'key'"
        " and cast(name as integer) > 0"
    )
    return found.fetchall()

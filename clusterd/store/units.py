"""The units of the change log as content: read from a database, written into one that is to be equal.

Texts are bytes here, so that invalid UTF-8, which a client's SQL can store, is copied as it is. A blob, which only such
a statement can store, arrives as text.
"""

import json
import operator
import sqlite3
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import compress
from typing import Any

import msgspec
import xxhash

from clusterd.store.change_log import AGENT, GROUP
from clusterd.store.schema import AGENT_COLUMNS

Value = int | float | bytes | None


class Unit(msgspec.Struct, frozen=True, array_like=True, gc=False):
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
_PUT_KEY = "insert or ignore into clusterd_seen (kind, name) values ('key', ?)"
_PUT_GROUP = f'insert or replace into "group" (id, name) values ({_values(2)})'


_IN = "in (select value from json_each(?))"
"""Of a list in one parameter: the same text each time, which SQLite has compiled already."""
_READ_AGENTS = f"select id, {_NAMES} from agent where id {_IN}"
_READ_EVENTS = f"select id, at, node from clusterd_event where id {_IN}"
_READ_LABELS = f"select id, key, value from labels where id {_IN} order by id, key"
_READ_BELONGS = f"select id_agent, id_group, priority from belongs where id_agent {_IN} order by 1, 2"
_READ_KEYS = f"select name from clusterd_seen where kind = 'key' and name {_IN}"
_READ_GROUPS = f'select id, name from "group" where id {_IN}'


def read_units(db: sqlite3.Connection, wanted: Sequence[tuple[int, int]]) -> list[Unit]:
    """The units (kind, id) in this order, as they are now. `db`: text_factory is bytes; a few hundred at a time."""
    agents = [unit_id for kind, unit_id in wanted if kind == AGENT]
    groups = [unit_id for kind, unit_id in wanted if kind == GROUP]
    listed = (json.dumps(agents),)
    rows = {row[0]: row[1:] for row in db.execute(_READ_AGENTS, listed)}
    events = {row[0]: row[1:] for row in db.execute(_READ_EVENTS, listed)}
    labels = _grouped(db.execute(_READ_LABELS, listed))
    belongs = _grouped(db.execute(_READ_BELONGS, listed))
    keyed = {int(name) for (name,) in db.execute(_READ_KEYS, (json.dumps([str(one) for one in agents]),))}
    named = {row[0]: row[1:] for row in db.execute(_READ_GROUPS, (json.dumps(groups),))} if groups else {}
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
        one = row[0]
        found[one] = (*found[one], row[1:]) if one in found else (row[1:],)
    return found


def write_units(
    db: sqlite3.Connection, units: Sequence[Unit], unknown: Container[int] = (), same_parts: Container[int] = ()
) -> None:
    """Makes these units what they say, and writes only what differs: most changes are a keepalive's, and every index
    entry that is written again costs a page. `unknown`: ids of agents of which the database has nothing; `same_parts`:
    of those whose parts it has as they are to be. Inside a transaction of a connection whose text_factory is bytes,
    without foreign keys: a membership may come before its group."""
    _write_new(db, [unit for unit in units if unit.kind == AGENT and unit.id in unknown])
    agents = [unit for unit in units if unit.kind == AGENT and unit.id not in unknown]
    known = [unit.id for unit in agents if unit.id not in same_parts]
    before = dict(zip(known, read_units(db, [(AGENT, one) for one in known]), strict=True)) if known else {}
    before |= _with_same_parts(db, [unit for unit in agents if unit.id in same_parts])
    pairs = [(before[unit.id], unit) for unit in agents]
    _write_rows(db, pairs)
    _write_parts(db, "labels", "id", _PUT_LABEL, [(new.id, old.labels, new.labels) for old, new in pairs])
    _write_parts(db, "belongs", "id_agent", _PUT_BELONGS, [(new.id, old.belongs, new.belongs) for old, new in pairs])
    events = [(new.id, _listed(old.event), _listed(new.event)) for old, new in pairs]
    _write_parts(db, "clusterd_event", "id", _PUT_EVENT, events)
    for statement, has_key in (
        (_PUT_KEY, True),
        ("delete from clusterd_seen where kind = 'key' and name = ?", False),
    ):
        keys = [(str(new.id),) for old, new in pairs if old.has_key != new.has_key and new.has_key == has_key]
        db.executemany(statement, keys)
    groups = [unit for unit in units if unit.kind == GROUP]
    db.executemany('delete from "group" where id = ?', [(unit.id,) for unit in groups])
    db.executemany(_PUT_GROUP, [(unit.id, *unit.row) for unit in groups if unit.row is not None])


def parts_of(unit: Unit) -> int:
    """Returns the digest of what an agent has beside its row and the moment of its last event: with a keepalive it
    stays the same, and need not be read. 63 bits, for a column of integers."""
    return xxhash.xxh3_64_intdigest(ENCODER.encode((unit.labels, unit.belongs, unit.has_key))) >> 1


def _with_same_parts(db: sqlite3.Connection, units: Sequence[Unit]) -> dict[int, Unit]:
    """Returns these agents as the database has them, without reading the parts, which are as they are to be."""
    if not units:
        return {}
    listed = (json.dumps([unit.id for unit in units]),)
    rows = {row[0]: row[1:] for row in db.execute(_READ_AGENTS, listed)}
    events = {row[0]: row[1:] for row in db.execute(_READ_EVENTS, listed)}
    return {
        one.id: Unit(AGENT, one.id, rows.get(one.id), one.labels, one.belongs, events.get(one.id, ()), one.has_key)
        for one in units
    }


def _write_rows(db: sqlite3.Connection, pairs: Sequence[tuple[Unit, Unit]]) -> None:
    """Rows of agents (as they are, as they are to be): those that differ in the same columns together."""
    updates: dict[tuple[bool, ...], list[tuple[Value, ...]]] = {}
    new_rows, gone = [], []
    for old, new in pairs:
        if new.row is None:
            gone.append((new.id,))
        elif old.row is None:
            new_rows.append((new.id, *new.row))
        elif old.row != new.row:
            differs = tuple(map(operator.ne, old.row, new.row))
            updates.setdefault(differs, []).append((*compress(new.row, differs), new.id))
    db.executemany("delete from agent where id = ?", gone)
    _put_rows(db, new_rows)
    for differs, values in updates.items():
        names = list(compress(_COLUMNS, differs))
        columns = ", ".join(f'"{name}" = {_TEXT.format(place)}' for place, name in enumerate(names, 1))
        db.executemany(f"update agent set {columns} where id = ?{len(names) + 1}", values)


def _write_new(db: sqlite3.Connection, units: Sequence[Unit]) -> None:
    """Agents of which the database has nothing: there is nothing to compare with."""
    if not units:
        return
    _put_rows(db, [(unit.id, *unit.row) for unit in units if unit.row is not None])
    db.executemany(_PUT_LABEL, [(unit.id, *row) for unit in units for row in unit.labels])
    db.executemany(_PUT_BELONGS, [(unit.id, *row) for unit in units for row in unit.belongs])
    db.executemany(_PUT_EVENT, [(unit.id, *unit.event) for unit in units if unit.event])
    db.executemany(_PUT_KEY, [(str(unit.id),) for unit in units if unit.has_key])


def _put_rows(db: sqlite3.Connection, rows: Sequence[tuple[Value, ...]]) -> None:
    """Whole rows of agents, each with its id first. Most of a full copy's time goes here: texts are decoded a column at
    a time, and a column without any value is no parameter, each of which costs as much as a text."""
    if not rows:
        return
    try:
        columns = [_decoded(column) for column in zip(*rows, strict=True)]
    except UnicodeDecodeError:
        db.executemany(_PUT_AGENT, rows)
        return
    given = [column for column in columns if column is not None]
    values = ", ".join("null" if column is None else "?" for column in columns)
    db.executemany(f"insert or replace into agent (id, {_NAMES}) values ({values})", zip(*given, strict=True))


def _decoded(column: Sequence[Value]) -> Sequence[int | float | str | None] | None:
    """The values with texts instead of bytes; None: there is no value in it. Raises UnicodeDecodeError."""
    kinds = set(map(type, column))
    if bytes not in kinds:
        return None if kinds == {type(None)} else column  # type: ignore[return-value]
    if len(kinds) == 1:
        texts = b"\0".join(column).decode().split("\0")  # type: ignore[arg-type]
        if len(texts) == len(column):  # no NUL in any of them
            return texts
    return [value.decode() if isinstance(value, bytes) else value for value in column]


def _listed(event: tuple[Value, ...]) -> tuple[tuple[Value, ...], ...]:
    return (event,) if event else ()


def _write_parts(
    db: sqlite3.Connection,
    table: str,
    column: str,
    put: str,
    parts: Sequence[tuple[int, tuple[tuple[Value, ...], ...], tuple[tuple[Value, ...], ...]]],
) -> None:
    """Rows that belong to agents: id, those that are there, those that are to be."""
    differing = [(one, old, new) for one, old, new in parts if old != new]
    db.executemany(f"delete from {table} where {column} = ?", [(one,) for one, old, _ in differing if old])
    db.executemany(put, [(one, *row) for one, _, new in differing for row in new])


# ---- digest ----------------------------------------------------------------------------------------------------------

PIECE = 500
_MODULUS = 1 << 64
ENCODER = msgspec.msgpack.Encoder()


def digest_of(unit: Unit, encoded: bytes | msgspec.Raw | None = None) -> int:
    """The digest of one unit, 0 if it is gone. `encoded`: the same as ENCODER has it, for who has that already."""
    return 0 if unit.is_gone else xxhash.xxh3_64_intdigest(encoded or ENCODER.encode(unit))


class UnitDigest:
    """A digest over all units: the sum of the digests of each."""

    def __init__(self, is_given_up: Callable[[], bool] = lambda: False) -> None:
        """`is_given_up`: whether nobody needs it any more; then reading ends with InterruptedError."""
        self._is_given_up = is_given_up
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
            if self._is_given_up():
                raise InterruptedError("the store stops")
            for unit in read_units(db, wanted[start : start + PIECE]):
                self.put((unit.kind, unit.id), digest_of(unit))

    def put(self, key: tuple[int, int], digest: int) -> None:
        """What `digest_of` says of this unit now."""
        before = self._digests.pop(key, 0)
        if digest:
            self._digests[key] = digest
        self._total = (self._total + digest - before) % _MODULUS

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

"""Agent-info: what changed on this node is sent up, what workers report is merged (wdb.md 3.5, 7.7, 7.8).

Two nodes with this store use our own way beside the stock ones: rows are taken in batches and stay marked until the
master has confirmed them. Each carries the time at which the agent was last heard of, so a late report never hides a
newer one from another worker.
"""

import random
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from clusterd.clock import boot_us
from clusterd.store.engine import Session
from clusterd.store.jsontext import encode
from clusterd.store.schema import SYSTEM_COLUMNS

FULL_TEXTS = ("ip", *SYSTEM_COLUMNS)
FULL = (
    "id",
    "name",
    *FULL_TEXTS,
    "last_keepalive",
    "connection_status",
    "disconnection_time",
    "group_config_status",
    "status_code",
)
STATUS = ("id", "version", "connection_status", "disconnection_time", "status_code")
KEEPALIVE = ("id", "version")
WORDS = ("syncreq", "syncreq_keepalive", "syncreq_status")
"""The lists of 7.7 in their order; also the words in `sync_status`."""
COLUMNS = dict(zip(WORDS, (FULL, KEEPALIVE, STATUS), strict=True))
NUMBERS = frozenset({"id", "last_keepalive", "disconnection_time", "status_code", "at"})
KEPT_BATCHES = 4
MOST_ERRORS = 100


# ---- going up --------------------------------------------------------------------------------------------------------


def _shown(names: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """One element in the form of 7.7: empty texts are left out, integers never."""
    element: dict[str, Any] = {}
    for name, value in zip(names, row, strict=True):
        if name in NUMBERS:
            element[name] = value or 0
        elif value and value != " ":
            element[name] = value
    return element


def _labels(db: sqlite3.Connection, agent_id: int) -> list[dict[str, str]]:
    found = db.execute("select key, value from labels where id = ?", (agent_id,))
    return [
        {name: text for name, text in (("key", key), ("value", value)) if text and text != " "} for key, value in found
    ]


def _elements(db: sqlite3.Connection, word: str, limit: int, *, moments: bool) -> list[dict[str, Any]]:
    """Agents with this word by ascending id. `moments`: with the member `at`."""
    names: tuple[str, ...] = (*COLUMNS[word], "at") if moments else COLUMNS[word]
    columns = ", ".join("coalesce(e.at, 0)" if name == "at" else f"a.{name}" for name in names)
    source = "agent a left join clusterd_event e on e.id = a.id" if moments else "agent a"
    found = db.execute(
        f"select {columns} from {source} where a.sync_status != 'synced' and a.sync_status = ? and a.id > 0"
        " order by a.id limit ?",
        (word, limit),
    ).fetchall()
    elements = [_shown(names, row) for row in found]
    if word == "syncreq" and elements and db.execute("select 1 from labels limit 1").fetchone() is not None:
        for element in elements:
            labels = _labels(db, element["id"])
            if labels:
                element["labels"] = labels
    return elements


def take_all(session: Session) -> bytes:
    """GET `/v1/agents/sync`: returns all waiting reports and clears their flags."""
    lists = {word: _elements(session.db, word, -1, moments=False) for word in WORDS}
    session.db.execute("update agent set sync_status = 'synced' where sync_status != 'synced' and id > 0")
    return encode({word: elements for word, elements in lists.items() if elements})


class Batches:
    """Rows handed out and not confirmed yet: (id, time) of each row, by batch. A restarted store has forgotten them and
    hands the rows out again. Used on the event loop only."""

    def __init__(self) -> None:
        self._taken: dict[int, list[tuple[int, int, str]]] = {}
        self._next = random.getrandbits(31)

    def keep(self, rows: list[tuple[int, int, str]]) -> int:
        while len(self._taken) >= KEPT_BATCHES:
            del self._taken[next(iter(self._taken))]
        self._next += 1
        self._taken[self._next] = rows
        return self._next

    def pop(self, number: int) -> list[tuple[int, int, str]] | None:
        return self._taken.pop(number, None)


def take_some(db: sqlite3.Connection, limit: int, *, moments: bool) -> tuple[bytes, list[tuple[int, int, str]], bool]:
    """At most `limit` waiting rows, keepalives last: the JSON of 7.7, (id, at, word) of each row, and whether more
    wait. `moments`: with the member `at`, microseconds of the boot clock."""
    lists: dict[str, list[dict[str, Any]]] = {}
    rows: list[tuple[int, int, str]] = []
    for word in ("syncreq", "syncreq_status", "syncreq_keepalive"):
        elements = _elements(db, word, limit - len(rows) + 1, moments=True)
        if len(rows) + len(elements) > limit:
            elements = elements[: limit - len(rows)]
            lists[word] = elements
            rows += [(element["id"], element["at"], word) for element in elements]
            return _lists(lists, moments), rows, True
        lists[word] = elements
        rows += [(element["id"], element["at"], word) for element in elements]
    return _lists(lists, moments), rows, False


def _lists(lists: dict[str, list[dict[str, Any]]], moments: bool) -> bytes:
    if not moments:
        for elements in lists.values():
            for element in elements:
                del element["at"]
    return encode({word: lists[word] for word in WORDS if lists.get(word)})


def confirm(session: Session, rows: Iterable[tuple[int, int, str]]) -> int:
    """The master has these rows. Rows unchanged since then become `synced`. Returns how many."""
    count = 0
    for agent_id, at, word in rows:
        count += session.db.execute(
            "update agent set sync_status = 'synced' where id = ? and sync_status = ?"
            " and coalesce((select at from clusterd_event e where e.id = agent.id), 0) = ?",
            (agent_id, word, at),
        ).rowcount
    return count


# ---- coming in -------------------------------------------------------------------------------------------------------


class Label(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""


class Full(msgspec.Struct, frozen=True):
    """An element of `syncreq`. Missing members are empty or 0. `at` is ours."""

    id: int
    name: str = ""
    ip: str = ""
    os_name: str = ""
    os_version: str = ""
    os_major: str = ""
    os_minor: str = ""
    os_codename: str = ""
    os_build: str = ""
    os_platform: str = ""
    os_uname: str = ""
    os_arch: str = ""
    version: str = ""
    config_sum: str = ""
    merged_sum: str = ""
    manager_host: str = ""
    node_name: str = ""
    last_keepalive: int = 0
    connection_status: str = ""
    disconnection_time: int = 0
    group_config_status: str = ""
    status_code: int = 0
    labels: list[Label] = []
    at: int = 0


class Alive(msgspec.Struct, frozen=True):
    id: int
    version: str = ""
    at: int = 0


class Status(msgspec.Struct, frozen=True):
    id: int
    version: str = ""
    connection_status: str = ""
    disconnection_time: int = 0
    status_code: int = 0
    at: int = 0


class Reported(msgspec.Struct, frozen=True):
    """The body of POST `/v1/agents/sync`."""

    syncreq: list[Full] = []
    syncreq_keepalive: list[Alive] = []
    syncreq_status: list[Status] = []


_FULL_SQL = (
    f"update agent set name = ?, {', '.join(f'{name} = ?' for name in FULL_TEXTS)}, last_keepalive = ?,"
    " connection_status = ?, disconnection_time = ?, group_config_status = ?, status_code = ?, sync_status = 'synced'"
    " where id = ?"
)
_ALIVE_SQL = (
    "update agent set version = ?, last_keepalive = ?, connection_status = 'active', disconnection_time = 0,"
    " status_code = 0, sync_status = 'synced' where id = ?"
)
_STATUS_SQL = (
    "update agent set version = ?, connection_status = ?, disconnection_time = ?, status_code = ?,"
    " sync_status = 'synced' where id = ?"
)


def _full_values(one: Full) -> tuple[Any, ...]:
    return (
        one.name,
        one.ip,
        one.os_name,
        one.os_version,
        one.os_major,
        one.os_minor,
        one.os_codename,
        one.os_build,
        one.os_platform,
        one.os_uname,
        one.os_arch,
        one.version,
        one.config_sum,
        one.merged_sum,
        one.manager_host,
        one.node_name,
        one.last_keepalive,
        one.connection_status,
        one.disconnection_time,
        one.group_config_status,
        one.status_code,
        one.id,
    )


def _status_values(one: Status) -> tuple[Any, ...]:
    return one.version, one.connection_status, one.disconnection_time, one.status_code, one.id


def _replace_labels(session: Session, one: Full) -> str:
    """The table refuses labels of an unknown agent: a warning, not an error (wdb.md 7.8)."""
    session.db.execute("delete from labels where id = ?", (one.id,))
    try:
        session.db.executemany(
            "insert into labels (id, key, value) values (?, ?, ?)",
            [(one.id, label.key, label.value) for label in one.labels],
        )
    except sqlite3.IntegrityError as refusal:
        if "FOREIGN KEY" not in str(refusal):
            raise
        return f"labels of agent {one.id}: {refusal}"
    return ""


Element = Full | Alive | Status


def merge(session: Session, elements: Sequence[Element], offset_us: int | None = None) -> list[str]:
    """Merges the elements of one list as 7.8 describes. Returns warnings. Raises sqlite3.Error at the first element
    that the table refuses.

    `offset_us`: the elements come from a clusterd worker and say when the agent was last heard of (see
    `merge_ours`)."""
    if not elements:
        return []
    first = elements[0]
    if isinstance(first, Full):
        warnings = []
        for one in elements:
            if isinstance(one, Full):
                session.db.execute(_FULL_SQL, _full_values(one))
                warnings.append(_replace_labels(session, one))
        return [warning for warning in warnings if warning]
    if isinstance(first, Alive):
        now, boot = session.now(), boot_us()
        alive = [one for one in elements if isinstance(one, Alive)]
        ages = [
            0 if offset_us is None or not one.at else max(0, boot - one.at - offset_us) // 1_000_000 for one in alive
        ]
        session.db.executemany(
            _ALIVE_SQL, [(one.version, now - age, one.id) for one, age in zip(alive, ages, strict=True)]
        )
        return []
    session.db.executemany(_STATUS_SQL, [_status_values(one) for one in elements if isinstance(one, Status)])
    return []


class MergedReport(msgspec.Struct, frozen=True):
    """The outcome of a report from a clusterd node. `stale`: agents of which another worker has reported something
    newer; `errors`: texts."""

    merged: int
    stale: int
    errors: list[str]


def merge_ours(session: Session, elements: Sequence[Element], node: str, offset_us: int | None) -> MergedReport:
    """Merges the elements of one list from worker `node`, whose boot clock is `offset_us` behind ours; None for a
    worker that sends no times: its report counts as of now. An element that the table refuses is reported and does not
    stop the others."""
    if offset_us is None:
        _note_moments(session, [(one.id, boot_us(), node) for one in elements])
        return MergedReport(len(elements), 0, _merge_each(session, elements, None)[:MOST_ERRORS])
    ids = ",".join(str(one.id) for one in elements)
    events = {
        agent_id: (at, by)
        for agent_id, at, by in session.db.execute(f"select id, at, node from clusterd_event where id in ({ids})")
    }
    fresh: list[Element] = []
    for one in elements:
        at, by = events.get(one.id, (0, node))
        if by == node or (one.at and one.at + offset_us >= at):
            fresh.append(one)
    errors = _merge_each(session, fresh, offset_us)
    _note_moments(session, [(one.id, one.at + offset_us if one.at else 0, node) for one in fresh])
    return MergedReport(len(fresh), len(elements) - len(fresh), errors[:MOST_ERRORS])


def _note_moments(session: Session, moments: list[tuple[int, int, str]]) -> None:
    session.db.executemany(
        "insert into clusterd_event (id, at, node) select ?1, ?2, ?3 where exists (select 1 from agent where id = ?1)"
        " on conflict (id) do update set at = excluded.at, node = excluded.node",
        moments,
    )


def _merge_each(session: Session, elements: Sequence[Element], offset_us: int | None) -> list[str]:
    """Merges all elements at once; if the table refuses one, merges them one by one."""
    try:
        merge(session, elements, offset_us)
    except sqlite3.IntegrityError:
        pass
    else:
        return []
    errors = []
    for one in elements:
        try:
            merge(session, [one], offset_us)
        except sqlite3.IntegrityError as refusal:
            errors.append(f"agent {one.id}: {refusal}")
    return errors

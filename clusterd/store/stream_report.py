"""Agent-info for clusters of earlier versions: two commands of the stream socket (wdb.md 3.5)."""

from clusterd.store.engine import Session
from clusterd.store.jsontext import Chunk, JsonRefused, encode
from clusterd.store.report import FULL

_PASSES = (
    ("syncreq", FULL),
    ("syncreq_status", ("id", "last_keepalive", "connection_status", "disconnection_time", "status_code")),
    ("syncreq_keepalive", ("id", "last_keepalive")),
)


def sync_agent_info_get(session: Session, start: int) -> tuple[bytes, bytes, int]:
    """Returns status, text, and the id to continue from (0 at the end). Reported rows become `synced`."""
    chunk, last = Chunk(2), start
    for word, names in _PASSES:
        found = session.db.execute(
            f"select {', '.join(names)} from agent where sync_status != 'synced' and sync_status = ? and id > ?"
            " order by id",
            (word, start),
        )
        told: list[tuple[int]] = []
        is_full = False
        for row in found:
            element = {name: value for name, value in zip(names, row, strict=True) if value is not None}
            if word == "syncreq":
                labels = session.db.execute("select id, key, value from labels where id = ?", (row[0],)).fetchall()
                if labels:
                    element["labels"] = [{"id": one, "key": key, "value": value} for one, key, value in labels]
            if not chunk.add(encode(element)):
                is_full = True
                break
            told.append((row[0],))
            last = row[0]
        found.close()
        session.db.executemany("update agent set sync_status = 'synced' where id = ?", told)
        if is_full:
            return b"due", b"[" + chunk.joined() + b"]", last
    return b"ok", b"[" + chunk.joined() + b"]", 0


def sync_agent_info_set(session: Session, agents: object) -> None:
    """Overwrites all columns of each agent. Raises sqlite3.Error, JsonRefused."""
    if not isinstance(agents, list):
        raise JsonRefused("Invalid JSON data, missing required fields")
    columns = ", ".join(f"{name} = :{name}" for name in FULL if name != "id")
    for agent in agents:
        element = agent if isinstance(agent, dict) else {}
        values = {name: element.get(name) for name in FULL}
        session.db.execute(f"update agent set {columns}, sync_status = 'synced' where id = :id", values)
        labels = element.get("labels")
        if isinstance(labels, list):
            if not isinstance(element.get("id"), int):
                raise JsonRefused("Cannot update labels due to invalid id.")
            session.db.execute("delete from labels where id = ?", (element["id"],))
            for label in labels:
                found = label if isinstance(label, dict) else {}
                session.db.execute(
                    "insert into labels (id, key, value) values (?, ?, ?)",
                    (found.get("id"), found.get("key"), found.get("value")),
                )

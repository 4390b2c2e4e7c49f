"""The agent database `queue/db/global.db`: its schema (wdb.md 6), how it is opened, and our own tables.

Our tables and indexes begin with `clusterd_`; a stock wazuh-db that opens the file ignores them.
"""

import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path

from clusterd.clock import boot_us
from clusterd.errors import StartFailure
from clusterd.store import change_log
from clusterd.store.errors import OtherSchema
from clusterd.store.manager_row import FIRST_NAME, write_manager
from hashing.locks import locked_directory

DATABASE = "queue/db/global.db"
VERSION = "7"
MODE = 0o660
NEVER_ENDS = 253402300799
"""`last_keepalive` of the manager's own row."""
BUSY_MS = 5000
"""How long a transaction waits for another program's lock on the file."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"

SYSTEM_COLUMNS = (
    "os_name",
    "os_version",
    "os_major",
    "os_minor",
    "os_codename",
    "os_build",
    "os_platform",
    "os_uname",
    "os_arch",
    "version",
    "config_sum",
    "merged_sum",
    "manager_host",
    "node_name",
)
"""What an agent says of its machine and itself: texts."""
AGENT_COLUMNS = (
    "id",
    "name",
    "ip",
    "register_ip",
    "internal_key",
    *SYSTEM_COLUMNS,
    "date_add",
    "last_keepalive",
    "group",
    "group_hash",
    "group_sync_status",
    "sync_status",
    "connection_status",
    "disconnection_time",
    "group_config_status",
    "status_code",
)

_SCHEMA = """
create table agent (
    id integer primary key not null,
    name text not null,
    ip text,
    register_ip text,
    internal_key text,
    os_name text,
    os_version text,
    os_major text,
    os_minor text,
    os_codename text,
    os_build text,
    os_platform text,
    os_uname text,
    os_arch text,
    version text,
    config_sum text,
    merged_sum text,
    manager_host text,
    node_name text default 'unknown',
    date_add integer not null,
    last_keepalive integer,
    "group" text default 'default',
    group_hash text default null,
    group_sync_status text not null check (group_sync_status in ('synced', 'syncreq')) default 'synced',
    sync_status text not null
        check (sync_status in ('synced', 'syncreq', 'syncreq_status', 'syncreq_keepalive')) default 'synced',
    connection_status text not null
        check (connection_status in ('pending', 'never_connected', 'active', 'disconnected'))
        default 'never_connected',
    disconnection_time integer default 0,
    group_config_status text not null check (group_config_status in ('synced', 'not synced')) default 'not synced',
    status_code integer default 0
);
create index agent_name on agent (name);
create index agent_ip on agent (ip);
create index agent_group_hash on agent (group_hash);
create table labels (
    id integer references agent (id) on delete cascade,
    key text not null,
    value text not null,
    primary key (id, key)
);
create table "group" (
    id integer primary key autoincrement,
    name text unique
);
create index group_name on "group" (name);
create table belongs (
    id_agent integer references agent (id) on delete cascade,
    id_group integer references "group" (id) on delete cascade,
    priority integer not null default 0,
    unique (id_agent, priority),
    primary key (id_agent, id_group)
);
create index belongs_id_agent on belongs (id_agent);
create index belongs_id_group on belongs (id_group);
create table info (key text primary key, value text);
create table metadata (key text primary key, value text);
insert into info (key, value) values ('openssl_support', 'yes');
insert into metadata (key, value) values ('db_version', '7');
"""

_OWN = """
create table if not exists clusterd_event (
    id integer primary key references agent (id) on delete cascade,
    at integer not null,
    node text not null
);
create table if not exists clusterd_seen (kind text, name text, primary key (kind, name)) without rowid;
create index if not exists clusterd_to_report on agent (sync_status) where sync_status != 'synced';
create index if not exists clusterd_to_hand_out on agent (group_sync_status) where group_sync_status = 'syncreq';
"""
"""clusterd_event: when something was last heard of an agent, in microseconds of this machine's boot clock (negative:
before the last boot); `node`: the reporting worker, empty for this node. clusterd_seen: keys and group directories that
this node has seen; kind `boot` holds the boot that the times belong to, kind `wall` the wall clock minus the boot clock
in microseconds, kind `moved` see change_log.py."""


CACHED_STATEMENTS = 64
"""A connection's prepared statements, some 10 KB each; the store's own are fewer. Clients' statements, each with values
of its own, push each other out: as many of them are kept as may be, with their texts."""


def connect(root: str, *, readonly: bool = False, name: str = DATABASE) -> sqlite3.Connection:
    """Opens a connection in autocommit mode; any thread may use it, one at a time. `name`: the file below the root.
    Raises sqlite3.Error."""
    connection = sqlite3.connect(
        Path(root) / name,
        timeout=BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )
    connection.execute("pragma foreign_keys = on")
    connection.execute("pragma synchronous = normal")
    # A row that `insert or replace` replaces counts as deleted in the change log.
    connection.execute("pragma recursive_triggers = on")
    # Temporary data, such as that of a sort, stays in memory, which is bounded (bounds.py); the disk would not be.
    connection.execute("pragma temp_store = memory")
    # Any client's SQL can store invalid UTF-8; its row must stay readable.
    connection.text_factory = _text
    if readonly:
        connection.execute("pragma query_only = on")
    return connection


def _text(data: bytes) -> str:
    return str(data, "utf-8", "replace")


def locked(root: str) -> AbstractContextManager[None]:
    """No other process creates the database or moves it away while the block runs."""
    directory = (Path(root) / DATABASE).parent
    directory.mkdir(mode=0o770, parents=True, exist_ok=True)
    return locked_directory(directory)


def prepare(root: str, node_name: str, version: str, *, thorough: bool = False, log: bool | None = False) -> None:
    """Creates the database, or checks that the existing one has our version and is undamaged (`thorough`: indexes too,
    which takes longer), and updates this node's own row. `log`: with a change log, for replicas; without, the one that
    there was is dropped; None: as it is. Raises StartFailure that says what to do."""
    path = Path(root) / DATABASE
    try:
        with locked(root):
            connection = connect(root)
            try:
                connection.execute("pragma journal_mode = wal").fetchone()
                make(connection, str(path))
                (found,) = connection.execute(f"pragma {'integrity' if thorough else 'quick'}_check(1)").fetchone()
                if found == "ok":
                    write_manager(connection, node_name, version)
                    if log is not None:
                        _switch_log(connection, log)
            finally:
                connection.close()
            if found != "ok":
                raise StartFailure(f"the agent database {path} is damaged: {found}")
            path.chmod(MODE)
    except (OSError, sqlite3.Error) as failure:
        raise StartFailure(f"the agent database {path} cannot be opened: {failure}") from failure


def _switch_log(connection: sqlite3.Connection, log: bool) -> None:
    if not log and not change_log.has_traces(connection):
        return
    connection.execute("begin immediate")
    with connection:
        (change_log.begin_log if log else change_log.end_log)(connection)


def make(connection: sqlite3.Connection, path: str, *, is_copy: bool = False) -> None:
    """Creates the tables that are missing in the file `path`. `is_copy`: its moments are of another machine and stay as
    they are. Raises StartFailure for another version."""
    connection.execute("begin immediate")
    try:
        tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        if not tables:
            _run(connection, _SCHEMA)
        elif "metadata" not in tables or _version(connection) != VERSION:
            found = _version(connection) if "metadata" in tables else "none"
            raise OtherSchema(
                f"{path} has schema version {found}, this store knows version {VERSION} only: start the wazuh-db that "
                "made it (clusterd.store: off)"
            )
        _run(connection, _OWN)
        # Also where it was deleted: `global delete-agent` takes any text without digits for 0 (wdb.md 3.0).
        connection.execute(
            'insert or ignore into agent (id, name, ip, register_ip, date_add, last_keepalive, "group",'
            " connection_status) values (0, ?, '127.0.0.1', '127.0.0.1', ?, ?, null, 'active')",
            (FIRST_NAME, int(time.time()), NEVER_ENDS),
        )
        if not is_copy:
            _carry_over_moments(connection)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


INDEXES = tuple(line for line in f"{_SCHEMA}{_OWN}".split(";\n") if line.strip().startswith("create index"))


def drop_indexes(connection: sqlite3.Connection) -> None:
    """For a file that is filled from nothing: `make_indexes` is quicker than entry after entry. Raises
    sqlite3.Error."""
    for statement in INDEXES:
        connection.execute(f"drop index if exists {_index_name(statement)}")


def make_indexes(connection: sqlite3.Connection) -> None:
    """Those that are missing. Raises sqlite3.Error."""
    for statement in INDEXES:
        name = _index_name(statement)
        if (
            connection.execute("select 1 from sqlite_master where type = 'index' and name = ?", (name,)).fetchone()
            is None
        ):
            connection.execute(statement)


def _index_name(statement: str) -> str:
    return statement.split(" on ")[0].split()[-1]


def _version(connection: sqlite3.Connection) -> str:
    row = connection.execute("select value from metadata where key = 'db_version'").fetchone()
    return str(row[0]) if row else "none"


_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_damage(failure: BaseException) -> bool:
    """Whether this error of SQLite means a damaged file, as opposed to a full disk, a lock or a wrong statement."""
    return isinstance(failure, sqlite3.DatabaseError) and getattr(failure, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def wall_offset_us() -> int:
    """The wall clock minus the boot clock, in microseconds."""
    return time.time_ns() // 1000 - boot_us()


def noted_wall_offset(connection: sqlite3.Connection) -> int | None:
    """The value that was stored last."""
    row = connection.execute("select name from clusterd_seen where kind = 'wall'").fetchone()
    return None if row is None else int(row[0])


def note_wall_offset(connection: sqlite3.Connection, offset_us: int) -> None:
    """What to subtract from times of the previous boot."""
    connection.execute("delete from clusterd_seen where kind = 'wall'")
    connection.execute("insert into clusterd_seen (kind, name) values ('wall', ?)", (str(offset_us),))


def _carry_over_moments(connection: sqlite3.Connection) -> None:
    """The boot clock restarts with the machine: times of the previous boot are converted by the wall clock. If they
    were dropped, the master could not tell a report that waited here from an outdated one.

    Everything heard of before the boot lies before it, whatever the wall clock says."""
    boot, now_us = Path(BOOT_ID).read_text(encoding="ascii").strip(), wall_offset_us()
    if connection.execute("select 1 from clusterd_seen where kind = 'boot' and name = ?", (boot,)).fetchone() is None:
        earlier = noted_wall_offset(connection)
        if earlier is None:
            connection.execute("delete from clusterd_event")
        else:
            move_moments(connection, earlier - now_us)
        _note_moved(connection, None if earlier is None else earlier - now_us)
        connection.execute("delete from clusterd_seen where kind = 'boot'")
        connection.execute("insert into clusterd_seen (kind, name) values ('boot', ?)", (boot,))
    note_wall_offset(connection, now_us)


def move_moments(connection: sqlite3.Connection, by_us: int) -> None:
    """All moments lie before the boot of the machine whose clock counts from here on."""
    connection.execute("update clusterd_event set at = min(at + ?, -1)", (by_us,))


def _note_moved(connection: sqlite3.Connection, by_us: int | None) -> None:
    """For the next life of the change log: replicas move theirs as far. Twice without one in between: it is not
    known."""
    is_first = connection.execute("select 1 from clusterd_seen where kind = ?", (change_log.MOVED,)).fetchone() is None
    connection.execute("delete from clusterd_seen where kind = ?", (change_log.MOVED,))
    value = str(by_us) if is_first and by_us is not None else change_log.UNKNOWN
    connection.execute("insert into clusterd_seen (kind, name) values (?, ?)", (change_log.MOVED, value))


def _run(connection: sqlite3.Connection, script: str) -> None:
    """The statements of a script one by one, inside the open transaction (executescript would commit it)."""
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)

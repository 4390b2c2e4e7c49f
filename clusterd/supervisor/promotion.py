"""A candidate becomes the master: what it keeps for that day becomes its own (docs/ha.md)."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from clusterd.agent_keys import ANY, KEY_FILE, Key, readable
from clusterd.database_copy import copy_database, is_gathered
from clusterd.key_guard import KeyRules
from clusterd.left_behind import keep_one
from clusterd.rundir import API_FILES, REPLICA_FILE
from clusterd.settings import Settings
from clusterd.store import schema
from clusterd.store.change_log import greatest_id
from clusterd.store.keys import KeyFile
from clusterd.sync.replica.api_files import sources
from hashing.atomic import FileOps, sync_path
from hashing.in_place import replace
from hashing.write import write_atomic

PROMOTED = ".promoted"
"""Ending of the copy of the replica that is about to be the agent database."""
KEPT = "kept"
"""The first step."""
BEFORE, ABSENT, UNFINISHED = ".before-promotion", ".absent-before-promotion", ".before-promotion.new"
JOURNAL, TAKEN_JOURNAL = ".before-promotion-wal", ".taken-before-promotion-wal"
"""Endings of what stands beside a file while a promotion may fail: its content of before; a mark that there was none; a
copy of it that is not whole; of a database that could not be opened, its journal; the same, once the journal beside the
database may be gone: a kill within the step does not lose it."""
SECRET_NAMES = ("token.key", "users.json")
"""Files that take the place of this node's own."""
PAIR = ("certificate.pem", "key.pem")
"""Those of a host: both are taken, and only where neither is there. A key fits its own certificate only."""


class NotPromoted(Exception):
    """This node cannot lead. The text says why, and what to do."""


class _Compared(NamedTuple):
    """client.keys as it is; what a database adds to it and removes from it; the highest id that it remembers."""

    file: KeyFile
    added: list[Key]
    removed: list[int]
    greatest: int


def steps(settings: Settings, term: int, *, without_agents: bool) -> list[tuple[str, Callable[[], str]]]:
    """Name and work of each step, in their order. Each may be run again, and each says what it has done. They raise
    OSError, sqlite3.Error, ValueError, NotPromoted."""
    root, compared = settings.root, list[_Compared]()
    if without_agents:
        return [("agents", lambda: "left as this node has them, without those of the old master")]
    return [
        (KEPT, lambda: keep_before(settings)),
        ("agents", lambda: take_replica(root, settings, compared)),
        ("keys", lambda: take_keys(settings, term, compared)),
        ("users", lambda: take_users(settings)),
    ]


def _exchanged(settings: Settings) -> list[Path]:
    """The files that the steps replace, the agent database first."""
    root = Path(settings.root)
    return [root / schema.DATABASE, root / KEY_FILE, *sources(settings).values()]


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def keep_before(settings: Settings) -> str:
    """A second name for each file that is about to be replaced: it costs no room, and needs none when it is put
    back."""
    forget_before(settings)
    database = _exchanged(settings)[0]
    for path in reversed(_exchanged(settings)):
        path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
        if path == database and path.exists() and _has_copy(path):
            continue
        try:
            _name_again(path, _beside(path, BEFORE))
        except FileNotFoundError:
            _beside(path, ABSENT).touch(mode=0o600)
    sync_path(database.parent)
    return "what is replaced from here on is put back if a step fails"


def _has_copy(database: Path) -> bool:
    """Whether the file must be copied instead of getting a second name: another program reads it, and what it has
    written is partly in the journal. A file that cannot be opened (damaged, or locked by another program) is kept as it
    is, and so is its journal."""
    new = _beside(database, UNFINISHED)
    try:
        if is_gathered(database):
            return False
        copy_database(database, new, schema.MODE)
    except sqlite3.DatabaseError:
        new.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            _name_again(Path(f"{database}-wal"), _beside(database, JOURNAL))
        return False
    sync_path(new)
    os.replace(new, _beside(database, BEFORE))
    return True


def _name_again(path: Path, name: Path) -> None:
    """Raises OSError."""
    try:
        os.link(path, name, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:  # a mount point, or a file system without links
        new = name.with_name(f"{name.name}.new")
        shutil.copy2(path, new)
        sync_path(new)
        os.replace(new, name)


def is_kept(settings: Settings) -> bool:
    """Whether `put_back` can still put back the agent database, which it does first."""
    database = _exchanged(settings)[0]
    return _beside(database, BEFORE).exists() or _beside(database, ABSENT).exists()


def put_back(settings: Settings) -> None:
    """After a step that failed: every file is what it was. May be run again. Raises OSError."""
    _promoted(settings.root).unlink(missing_ok=True)
    database = _exchanged(settings)[0]
    for path in _exchanged(settings):
        before, absent = _beside(path, BEFORE), _beside(path, ABSENT)
        for ending in (UNFINISHED, f"{JOURNAL}.new"):
            _beside(path, ending).unlink(missing_ok=True)
        if before.exists():
            fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if path.exists() and before.samefile(path):
                    # Not replaced; a rename to itself would leave both names. The journal beside the database is its
                    # own unless it was taken: the program that had locked it may have closed and opened it since.
                    if path == database:
                        _beside(path, JOURNAL).unlink(missing_ok=True)
                    before.unlink()
                else:
                    if path == database:
                        _remove_journal(path)  # of the replica, if it has one by now
                    replace(FileOps(), before.name, path.name, dir_fd=fd)
                os.fsync(fd)
            finally:
                os.close(fd)
        elif absent.exists():
            path.unlink(missing_ok=True)
            absent.unlink()
        if path == database:
            _put_back_journal(path)


def _put_back_journal(database: Path) -> None:
    """Of a database that has just been put back, also by a life of this process that was killed then."""
    for kept in (_beside(database, TAKEN_JOURNAL), _beside(database, JOURNAL)):
        if kept.exists():
            _remove_journal(database)
            os.replace(kept, f"{database}-wal")
            sync_path(database.parent)


def _remove_journal(database: Path) -> None:
    for ending in ("-wal", "-shm"):
        Path(f"{database}{ending}").unlink(missing_ok=True)


def forget_before(settings: Settings) -> None:
    """After the last step, or before the first one. Raises OSError."""
    _promoted(settings.root).unlink(missing_ok=True)
    for path in _exchanged(settings):
        for ending in (TAKEN_JOURNAL, JOURNAL, f"{JOURNAL}.new", BEFORE, UNFINISHED, ABSENT):
            _beside(path, ending).unlink(missing_ok=True)


def _promoted(root: str) -> Path:
    return Path(root) / f"{schema.DATABASE}{PROMOTED}"


def take_replica(root: str, settings: Settings | None = None, compared: list[_Compared] | None = None) -> str:
    """The replica becomes the agent database. The file of the replica stays. With `settings` the replica must fit
    client.keys: what is found later could not be taken back. `compared` gets what was found."""
    source, target = Path(root) / REPLICA_FILE, Path(root) / schema.DATABASE
    if not source.is_file():
        raise NotPromoted(f"there is no replica at {source}")
    count = _count(source)
    if settings is not None:
        found = _compare_keys(settings, source)
        if compared is not None:
            compared.append(found)
    with schema.locked(root):
        new = _promoted(root)
        copy_database(source, new, schema.MODE)
        sync_path(new)
        with contextlib.suppress(FileNotFoundError):
            _beside(target, JOURNAL).rename(_beside(target, TAKEN_JOURNAL))
            sync_path(target.parent)
        _remove_journal(target)
        os.replace(new, target)
        sync_path(target.parent)
    return f"{count} of the replica are this node's own"


def _count(path: Path) -> int:
    """Returns how many agents a database has that is not damaged."""
    db = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        (found,) = db.execute("pragma quick_check(1)").fetchone()
        if found != "ok":
            raise NotPromoted(f"{path} is damaged: {found}")
        (count,) = db.execute("select count(*) from agent where id > 0").fetchone()
    finally:
        db.close()
    return int(count)


def take_keys(settings: Settings, term: int, compared: Sequence[_Compared] = ()) -> str:
    """client.keys travels with the files and may be older than the replica, or newer: a key that the replica has is
    added, or takes the place of an earlier one of its id; one that the old master has removed is removed. No id up to
    the highest one ever given is given again. `compared`: by the step before, in this process; with 100,000 agents it
    takes most of a promotion."""
    root = settings.root
    for file, *_ in compared:
        file.refresh()
    if not compared or compared[0].file.news is not None:
        compared = [_compare_keys(settings, Path(root) / schema.DATABASE)]
    file, added, removed, greatest = compared[0]
    table = file.table
    if added or removed:
        keep_one(root, KEY_FILE, term)
        for key in added:
            table.add(readable(key))
        for number in removed:
            table.remove(number, purge=False)
        file.save()
    return f"{len(added)} added to {KEY_FILE}, {len(removed)} removed; ids go on after {max(greatest, table.greatest)}"


def _compare_keys(settings: Settings, database: Path) -> _Compared:
    """Raises NotPromoted if this database would remove too much."""
    root = settings.root
    db = sqlite3.connect(database, isolation_level=None)
    db.text_factory = lambda data: data.decode(errors="replace")
    try:
        greatest = greatest_id(db)
        rows = db.execute("select id, name, register_ip, internal_key from agent where id > 0").fetchall()
        keyed = {int(name) for (name,) in db.execute("select name from clusterd_seen where kind = 'key'")}
    finally:
        db.close()
    known = {row[0] for row in rows} | keyed
    file = KeyFile(root)
    file.refresh()
    table = file.table
    added = [
        given
        for one, name, address, key in rows
        if one in keyed and name and key and (given := _other_than(table.get(one), one, name, address or ANY, key))
    ]
    removed = [key.number for key in table if key.number <= greatest and key.number not in known]
    rules = KeyRules(settings.clusterd.max_key_loss_share, settings.clusterd.key_loss_from)
    if rules.is_on and len(table) >= rules.least and len(removed) > rules.share * len(table):
        raise NotPromoted(
            f"the replica lacks {len(removed)} of the {len(table)} agents in {KEY_FILE}: it is not that of this "
            "cluster's master. clusterd promote --without-agents keeps the keys"
        )
    return _Compared(file, added, removed, greatest)


def _other_than(there: Key | None, number: int, name: str, address: str, key: str) -> Key | None:
    """The key of this row, unless the file has it, however it writes the id. As a rule it has: that is found out
    without an object for each of 100,000 agents."""
    if there is not None:
        if (there.name, there.ip, there.key) == (name, address, key):
            return None
        there = readable(there)
        if (there.name, there.ip, there.key) == (name, address, key):
            return None
    return Key(f"{number:03d}", name, address, key)


def take_users(settings: Settings) -> str:
    """Logins of the old master's REST API are good here, too."""
    taken, directory, targets = [], Path(settings.root) / API_FILES, sources(settings)
    takes_pair = all((directory / name).is_file() and not targets[name].exists() for name in PAIR)
    wanted = (PAIR if takes_pair else ()) + SECRET_NAMES
    for name in (name for name in wanted if (directory / name).is_file()):
        mode = 0o640 if name == "users.json" else 0o600
        write_atomic(FileOps(), str(targets[name]), (directory / name).read_bytes(), mode)
        taken.append(name)
    return f"{', '.join(taken)} of the REST API" if taken else "there are none of a REST API"

"""What a former master had and nobody got: kept beside when it becomes a worker, and sorted out once its files equal
those of the new master (docs/ha.md).

    queue/cluster/.clusterd/left-behind/TERM/files/      files that the new master has not, or not like this
                                             agents.json agents whose keys it has not: id, name, address
                                             global.db   the agent database as it was
                                             unsorted    only before it was sorted: files/ has everything
                                             kept        everything was copied
                                             files.1/    and so on: of an earlier demotion in the same term

Removed by a program are only files that turn out to be equal, and what is left of an older term when nothing but the
agent database was: the one of the newest such term stays.
"""

import contextlib
import filecmp
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from clusterd.agent_keys import KEY_FILE, Key, decode_keys, parse_keys
from clusterd.database_copy import copy_database
from clusterd.role import LEFT_BEHIND
from hashing.atomic import FileOps
from hashing.rules import Rules, item_of, refusal
from hashing.write import write_atomic

DATABASE = "queue/db/global.db"
FILES, AGENTS, UNSORTED, KEPT, COPY = "files", "agents.json", "unsorted", "kept", "global.db"
MODE = 0o600
DIRECTORY_MODE = 0o700
MOST_SHOWN = 5


class LeftAgent(msgspec.Struct, frozen=True):
    """An agent that the new master does not know. Its key is in `files/etc/client.keys`."""

    id: str
    name: str
    ip: str


class LeftBehind(msgspec.Struct, frozen=True):
    """One directory. `files`, `agents`: None while it was not sorted; `some`: the first paths and names."""

    term: int
    path: str
    files: int | None = None
    agents: int | None = None
    some: tuple[str, ...] = ()


def keep(root: str, rules: Rules, term: int, *, was_worker: bool = False) -> str:
    """Copies what this node has. `was_worker`: it was demoted before, and has nothing new. Blocking. Raises OSError,
    sqlite3.Error; may be run again: a copy that was not finished is begun anew, a finished one is never lost."""
    directory = _directory(root, term)
    if (directory / KEPT).exists():
        if was_worker:
            return f"{directory} has what this node had when it was demoted before"
        _set_aside(directory)
    shutil.rmtree(directory / FILES, ignore_errors=True)
    (directory / UNSORTED).write_text(f"{time.time():.0f}\n")
    count = 0
    for path in integrity_set(root, rules):
        with contextlib.suppress(FileNotFoundError):
            _copy(root, path, directory / FILES)
            count += 1
    if (Path(root) / DATABASE).exists():
        _copy_database(Path(root) / DATABASE, directory / COPY)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        FileOps().syncfs(fd)
    finally:
        os.close(fd)
    write_atomic(FileOps(), str(directory / KEPT), b"", MODE)
    files = f"{count} file{'' if count == 1 else 's'}"
    return f"{files} and the agent database are in {directory} until the new master's are here"


def _set_aside(directory: Path) -> None:
    """Makes room beside what was kept before."""
    names = [name for name in (FILES, AGENTS, COPY) if (directory / name).exists()]
    number = next(one for one in range(1, 1 << 20) if not any((directory / f"{name}.{one}").exists() for name in names))
    for name in names:
        (directory / name).rename(directory / f"{name}.{number}")
    (directory / KEPT).unlink()


def keep_one(root: str, path: str, term: int) -> None:
    """Copies one file of the root before it is changed. Blocking. Raises OSError."""
    if (Path(root) / path).exists():
        _copy(root, path, _directory(root, term) / FILES)


def _directory(root: str, term: int) -> Path:
    directory = Path(root) / LEFT_BEHIND / str(term)
    for one in (directory.parent, directory):
        one.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        one.chmod(DIRECTORY_MODE)
    return directory


def _copy(root: str, path: str, below: Path) -> None:
    target = below / path
    target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    shutil.copyfile(Path(root) / path, target)
    target.chmod(MODE)


def _copy_database(source: Path, target: Path) -> None:
    try:
        copy_database(source, target, MODE)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged: kept as it is
        shutil.copyfile(source, target)


def integrity_set(root: str, rules: Rules) -> Iterator[str]:
    """The files of this node that workers get, relative to the root."""
    for item in rules.items:
        top = Path(root) / item.key
        for directory, names, files in _walk(top):
            if not item.recursive:
                names.clear()
            for name in sorted(files):
                path = os.path.relpath(os.path.join(directory, name), root)
                if item_of(rules, path) == item and refusal(rules, item, path) is None:
                    yield path


def _walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, which leaves out in silence what cannot be read. Raises OSError, but not for what is not there, nor
    for what this user may not read: a worker's scan leaves that as it is."""

    def refuse(failure: OSError) -> None:
        if not isinstance(failure, FileNotFoundError | PermissionError):
            raise failure

    return os.walk(top, onerror=refuse)


def unsorted(root: str) -> list[int]:
    """Terms whose directory was not sorted yet."""
    return [term for term in _terms(root) if (Path(root) / LEFT_BEHIND / str(term) / UNSORTED).exists()]


def sort(root: str, term: int) -> LeftBehind:
    """This node's files equal the new master's: what is equal to them leaves the directory. Blocking. Raises
    OSError."""
    directory = Path(root) / LEFT_BEHIND / str(term)
    agents = _agents_left(root, directory / FILES / KEY_FILE)
    for path in _paths(directory / FILES):
        kept, live = directory / FILES / path, Path(root) / path
        if live.is_file() and filecmp.cmp(kept, live, shallow=False):
            kept.unlink()
            with contextlib.suppress(OSError):  # the directory holds others
                os.removedirs(kept.parent)
    write_atomic(FileOps(), str(directory / AGENTS), msgspec.json.format(msgspec.json.encode(agents)), MODE)
    (directory / UNSORTED).unlink(missing_ok=True)
    for older in _terms(root):
        # Each change of master would leave a copy of the agent database, which may be large.
        if older < term and _is_database_alone(root, older):
            shutil.rmtree(Path(root) / LEFT_BEHIND / str(older), ignore_errors=True)
    return _one(root, term)


def _is_database_alone(root: str, term: int) -> bool:
    directory = Path(root) / LEFT_BEHIND / str(term)
    found = _one(root, term)
    own = {name.name for name in directory.iterdir()} <= {FILES, AGENTS, COPY, KEPT}
    return own and (found.files, found.agents) == (0, 0) and not _paths(directory / FILES)


def _agents_left(root: str, kept: Path) -> list[LeftAgent]:
    before, now = _keys(kept), {(key.id, key.key) for key in _keys(Path(root) / KEY_FILE)}
    return [LeftAgent(key.id, _readable(key.name), _readable(key.ip)) for key in before if (key.id, key.key) not in now]


def _keys(path: Path) -> list[Key]:
    try:
        found, _ = parse_keys(decode_keys(path.read_bytes()))
    except FileNotFoundError:
        return []
    return [key for key in found if not key.is_removed]


def _paths(below: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(directory, name), below) for directory, _, files in _walk(below) for name in files
    )


def _terms(root: str) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(Path(root) / LEFT_BEHIND) if name.isdigit())
    except OSError:
        return []


def shown(root: str) -> list[LeftBehind]:
    """For `status`. Blocking, a few small directories."""
    with contextlib.suppress(OSError):
        return [_one(root, term) for term in _terms(root)]
    return []


def _one(root: str, term: int) -> LeftBehind:
    path = f"{LEFT_BEHIND}/{term}"
    directory = Path(root) / path
    if (directory / UNSORTED).exists():
        return LeftBehind(term, path)
    files = [name for name in _paths(directory / FILES) if name != KEY_FILE]
    agents: list[LeftAgent] = []
    with contextlib.suppress(OSError, msgspec.MsgspecError, RecursionError):
        agents = msgspec.json.decode((directory / AGENTS).read_bytes(), type=list[LeftAgent])
    some = (*map(_readable, files), *(f"agent {agent.id} {agent.name}" for agent in agents))[:MOST_SHOWN]
    return LeftBehind(term, path, len(files), len(agents), some)


def _readable(name: str) -> str:
    """A name of any bytes as text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def told(one: LeftBehind) -> str:
    """For log and `status`."""
    if one.files is None:
        return f"{one.path} has what this node had as master; it is sorted out once this node equals the new master"
    if not one.files and not one.agents:
        kept = f"the agent database of then is in {one.path}, remove it when you do not want it"
        return f"the new master has all files and agents of this node's time as master; {kept}"
    counts = (one.files, "file"), (one.agents, "agent")
    what = " and ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)
    what += " of this node's time as master the new master does not have"
    return f"{what}: {', '.join(one.some) or 'nothing'}; kept in {one.path}, with the agent database of then"

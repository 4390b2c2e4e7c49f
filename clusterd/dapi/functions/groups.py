"""Groups of agents: directories of `etc/shared`, and who belongs to them (dapi.md 5.3)."""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clusterd.dapi.access import agent_ids
from clusterd.dapi.arrays import ListArguments, Shape, cut_list
from clusterd.dapi.items import Items
from clusterd.dapi.registry import Arguments, Call, Registry
from clusterd.dapi.request import LOCAL_MASTER
from clusterd.wdb.client import DatabaseError
from clusterd.wire.results import BAD_REQUEST, INTERNAL_ERROR, NOT_FOUND, WireException, WireResult

registry = Registry()
SHARED = "etc/shared"
ASIDE = "queue/cluster/.clusterd"
TEMPLATE = "agent-template.conf"
DEFAULT = "default"
RESERVED = frozenset({".", "..", "all"})
_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
_FILE = re.compile(r"[\w.\-]{1,255}", re.ASCII)
DIRECTORY_MODE, FILE_MODE = 0o700, 0o660
MOST_GROUPS = 128
MOST_FILE_BYTES = 8 * 1024 * 1024
ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s", "sha3_224", "sha3_256", "sha3_384", "sha3_512")  # fmt: skip
AGENTS_AT_ONCE = 500


class GroupList(ListArguments, frozen=True):
    group_list: list[str] | None = None
    hash_algorithm: str = "md5"


class GroupFiles(ListArguments, frozen=True, kw_only=True):
    group_list: list[str]
    hash_algorithm: str = "md5"


class GroupFile(Arguments, frozen=True):
    group_list: list[str]
    filename: str
    type_conf: str | None = None
    raw: bool = False


class NewGroup(Arguments, frozen=True):
    group_id: str


class SomeGroups(Arguments, frozen=True):
    group_list: list[str] | None = None


class Assignment(Arguments, frozen=True):
    group_list: list[str]
    agent_list: list[str] | None = None
    replace: bool = False


class Removal(Arguments, frozen=True):
    group_list: list[str]
    agent_list: list[str] | None = None


class AgentGroups(Arguments, frozen=True):
    agent_list: list[str]
    group_list: list[str] | None = None


# ---- groups ----------------------------------------------------------------------------------------------------------------


@registry.function("wazuh.agent", "get_agent_groups", LOCAL_MASTER)
def get_agent_groups(call: Call, given: GroupList) -> Items:
    """`{name, count, mergedSum, configSum}`."""
    items = Items(
        "All selected groups information was returned",
        "Some groups information was not returned",
        "No group information was returned",
        sort_fields=["name"],
    )
    there = group_names(call.root)
    wanted = there if given.group_list is None else given.group_list
    counts = {
        row["name"]: row["n"]
        for row in call.database.pages(
            "select g.name as name, count(b.id_agent) as n from `group` g left join belongs b on b.id_group = g.id"
            " group by g.name order by g.name"
        )
    }
    found = []
    for name in dict.fromkeys(wanted):
        if name not in there:
            items.fail(name, WireException(1710, wire_class=NOT_FOUND))
            continue
        directory = Path(call.root, SHARED, name)
        group: dict[str, Any] = {"name": name, "count": counts.get(name, 0)}
        for key, file in (("mergedSum", "merged.mg"), ("configSum", "agent.conf")):
            digest = _digest(directory / file, given.hash_algorithm)
            if digest is not None:
                group[key] = digest
        found.append(group)
    shape = Shape(select_fields=("name", "count", "mergedSum", "configSum"), required=("name",), default_sort=("name",))
    items.affected, items.total = cut_list(found, given, shape)
    return items


@registry.function("wazuh.agent", "create_group", LOCAL_MASTER)
def create_group(call: Call, given: NewGroup) -> WireResult:
    """Make the directory with a copy of the template; the database follows it. Raises WireException 1711, 1713, 1722."""
    name = given.group_id
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise WireException(1722, wire_class=BAD_REQUEST)
    directory = Path(call.root, SHARED, name)
    if directory.is_dir():
        raise WireException(1711, name, wire_class=BAD_REQUEST)
    if os.path.lexists(directory):
        raise WireException(1713, name, wire_class=BAD_REQUEST)
    made = _aside(call)
    try:
        made.mkdir(DIRECTORY_MODE, parents=True)
        template = Path(call.root, SHARED, TEMPLATE)
        content = template.read_bytes()[:MOST_FILE_BYTES] if template.is_file() else b""
        (made / "agent.conf").write_bytes(content or b"<agent_config>\n</agent_config>\n")
        (made / "agent.conf").chmod(FILE_MODE)
        made.rename(directory)
    except OSError as failure:
        shutil.rmtree(made, ignore_errors=True)
        raise WireException(1005, failure.strerror, wire_class=INTERNAL_ERROR) from None
    _ensure_known(call, [name])
    return _message(f"Group '{name}' created.")


@registry.function("wazuh.agent", "delete_groups", LOCAL_MASTER)
def delete_groups(call: Call, given: SomeGroups) -> Items:
    """Remove directories; the database follows, and agents without any other group go to `default`."""
    items = Items(
        "All selected groups were deleted", "Some groups were not deleted", "No group was deleted", sort_fields=None
    )
    there = group_names(call.root)
    wanted = [name for name in there if name != DEFAULT] if given.group_list is None else given.group_list
    for name in dict.fromkeys(wanted):
        if name == DEFAULT:
            items.fail(name, WireException(1712, wire_class=BAD_REQUEST))
        elif name not in there:
            items.fail(name, WireException(1710, wire_class=NOT_FOUND))
        else:
            directory = Path(call.root, SHARED, name)
            gone = _aside(call)
            try:
                # Out of sight at once: half a directory would be handed to agents meanwhile.
                gone.parent.mkdir(parents=True, exist_ok=True)
                directory.rename(gone)
                shutil.rmtree(gone)
            except OSError as failure:
                items.fail(name, WireException(1006, failure.strerror, wire_class=BAD_REQUEST))
            else:
                items.affected.append(name)
    items.affected.sort()
    return items


def _aside(call: Call) -> Path:
    """A place on the same file system that is no group, for a directory in the making or on its way out."""
    path = Path(call.root, ASIDE, f"group-{os.getpid()}")
    shutil.rmtree(path, ignore_errors=True)
    return path


# ---- who belongs to them -----------------------------------------------------------------------------------------------------


@registry.function("wazuh.agent", "assign_agents_to_group", LOCAL_MASTER)
def assign_agents_to_group(call: Call, given: Assignment) -> Items:
    """Put agents into a group; with `replace` into this one only. Raises WireException 1710."""
    (name,) = _existing(call, given.group_list)
    items = Items(
        f"All selected agents were assigned to {name}"
        + (" and removed from the other groups" if given.replace else ""),
        f"Some agents were not assigned to {name}",
        f"No agents were assigned to {name}",
        sort_casting=["int"],
    )
    changed = []
    for agent_id, groups in _groups_of(call, given.agent_list, items):
        if not given.replace and name in groups:
            items.fail(agent_id, WireException(1751, wire_class=BAD_REQUEST))
        elif not given.replace and len(groups) >= MOST_GROUPS:
            items.fail(agent_id, WireException(1737, wire_class=BAD_REQUEST))
        else:
            changed.append(agent_id)
    _ensure_known(call, [name])
    _write(call, "override" if given.replace else "append", [(one, [name]) for one in changed])
    items.affected = sorted(changed, key=int)
    return items


@registry.function("wazuh.agent", "remove_agents_from_group", LOCAL_MASTER)
def remove_agents_from_group(call: Call, given: Removal) -> Items:
    """Take agents out of a group; one that is left without any goes to `default`. Raises WireException 1710."""
    (name,) = _existing(call, given.group_list)
    items = Items(
        f"All selected agents were removed from group {name}",
        f"Some agents were not removed from group {name}",
        f"No agents were removed from group {name}",
        sort_casting=["int"],
    )
    changed = [
        agent_id
        for agent_id, groups in _groups_of(call, given.agent_list, items)
        if not _refuse_removal(items, agent_id, name, groups)
    ]
    _write(call, "remove", [(one, [name]) for one in changed])
    items.affected = sorted(changed, key=int)
    return items


@registry.function("wazuh.agent", "remove_agent_from_group", LOCAL_MASTER)
def remove_agent_from_group(call: Call, given: Removal) -> WireResult:
    """The same for one agent, whose failure is the answer's. Raises WireException 1701, 1703, 1710, 1734, 1745."""
    items = remove_agents_from_group(call, given)
    for error, _ in items.failed:
        raise error
    return _message(f"Agent '{', '.join(given.agent_list or [])}' removed from '{given.group_list[0]}'.")


@registry.function("wazuh.agent", "remove_agent_from_groups", LOCAL_MASTER)
def remove_agent_from_groups(call: Call, given: AgentGroups) -> Items:
    """Take one agent out of some groups, or of all. Raises WireException 1701, 1703."""
    items = Items(
        "Specified agent was removed from returned groups",
        "Specified agent was removed from returned groups only",
        "Specified agent could not be removed from any group",
    )
    probe = Items("")
    found = list(_groups_of(call, given.agent_list[:1], probe))
    for error, _ in probe.failed:
        raise error
    ((agent_id, groups),) = found
    wanted = [name for name in groups if name != DEFAULT] if given.group_list is None else given.group_list
    there = group_names(call.root)
    for name in dict.fromkeys(wanted):
        if name not in there:
            items.fail(name, WireException(1710, wire_class=NOT_FOUND))
        elif not _refuse_removal(items, name, name, groups, item=name):
            _write(call, "remove", [(agent_id, [name])])
            groups = [one for one in groups if one != name] or [DEFAULT]
            items.affected.append(name)
    items.affected.sort()
    return items


def _refuse_removal(items: Items, agent_id: str, name: str, groups: Sequence[str], *, item: str = "") -> bool:
    if name not in groups:
        items.fail(item or agent_id, WireException(1734, wire_class=BAD_REQUEST))
    elif list(groups) == [DEFAULT]:
        items.fail(item or agent_id, WireException(1745, wire_class=BAD_REQUEST))
    else:
        return False
    return True


def _groups_of(call: Call, wanted: list[str] | None, items: Items) -> Iterator[tuple[str, list[str]]]:
    """Id and groups of agents that have a key; the others become failed items 1701 and 1703."""
    registered = agent_ids(call.root)
    names = sorted(registered - {"000"}) if wanted is None else list(dict.fromkeys(wanted))
    known = []
    for agent_id in names:
        if agent_id == "000":
            items.fail(agent_id, WireException(1703, wire_class=BAD_REQUEST))
        elif agent_id not in registered:
            items.fail(agent_id, WireException(1701, wire_class=NOT_FOUND))
        else:
            known.append(agent_id)
    for start in range(0, len(known), AGENTS_AT_ONCE):
        part = {int(agent_id): agent_id for agent_id in known[start : start + AGENTS_AT_ONCE]}
        places = ", ".join(map(str, part))
        rows = call.database.pages(f'select id, "group" as groups from agent where id in ({places}) order by id')
        found = {row["id"]: row.get("groups") or "" for row in rows}
        for number, agent_id in part.items():
            if number not in found:
                items.fail(agent_id, WireException(1701, wire_class=NOT_FOUND))
            else:
                yield agent_id, [name for name in found[number].split(",") if name]


def _write(call: Call, mode: str, changes: list[tuple[str, list[str]]]) -> None:
    """Raises DatabaseError."""
    for start in range(0, len(changes), AGENTS_AT_ONCE):
        data = [{"id": int(agent_id), "groups": groups} for agent_id, groups in changes[start : start + AGENTS_AT_ONCE]]
        request = {"mode": mode, "sync_status": "syncreq", "data": data}
        call.database.ask(f"global set-agent-groups {json.dumps(request, separators=(',', ':'))}")


def _ensure_known(call: Call, names: Sequence[str]) -> None:
    """The database follows directories within a second or two; who asks for a group of a new one need not wait."""
    for name in names:
        if not call.database.rows("select id from `group` where name = ?", [name]):
            try:
                call.database.ask(f"global insert-agent-group {name}")
            except DatabaseError:
                # It came meanwhile, or the assignment says what is wrong.
                continue


# ---- files -----------------------------------------------------------------------------------------------------------------


@registry.function("wazuh.agent", "get_group_files", LOCAL_MASTER)
def get_group_files(call: Call, given: GroupFiles) -> Items:
    """`{filename, hash}` of a group's directory, and of `ar.conf`. Raises WireException 1710."""
    (name,) = _existing(call, given.group_list)
    directory = Path(call.root, SHARED, name)
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False))
    except OSError as failure:
        raise WireException(1727, failure.strerror, wire_class=INTERNAL_ERROR) from None
    paths = [(file, directory / file) for file in names] + [("ar.conf", Path(call.root, SHARED, "ar.conf"))]
    found = [
        {"filename": file, "hash": digest}
        for file, path in paths
        if (digest := _digest(path, given.hash_algorithm)) is not None
    ]
    items = Items(
        "All selected groups files were returned",
        "Some groups files were not returned",
        "No group files were returned",
        sort_fields=["filename"],
    )
    shape = Shape(select_fields=("filename", "hash"), required=("filename",), default_sort=("filename",))
    items.affected, items.total = cut_list(found, given, shape)
    return items


@registry.function("wazuh.agent", "get_file_conf", LOCAL_MASTER)
def get_file_conf(call: Call, given: GroupFile) -> WireResult:
    """The text of a group's file. Raises WireException 1710, 1006."""
    (name,) = _existing(call, given.group_list)
    if not _FILE.fullmatch(given.filename) or given.filename in RESERVED:
        raise WireException(1006, given.filename[:100], wire_class=BAD_REQUEST)
    directory = SHARED if given.filename == "ar.conf" else f"{SHARED}/{name}"
    try:
        fd = os.open(f"{call.root}/{directory}/{given.filename}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise WireException(1006, given.filename, wire_class=BAD_REQUEST)
            text = file.read(MOST_FILE_BYTES).decode(errors="replace")
    except OSError:
        raise WireException(1006, given.filename, wire_class=BAD_REQUEST) from None
    return _message(text)


def group_names(root: str) -> list[str]:
    """The groups that have a directory."""
    try:
        entries = list(os.scandir(f"{root}/{SHARED}"))
    except FileNotFoundError:
        return []
    return sorted(
        entry.name
        for entry in entries
        if entry.is_dir(follow_symlinks=False)
        and _NAME.fullmatch(entry.name)
        and not entry.name.startswith(".clusterd-")
    )


def _existing(call: Call, names: Sequence[str]) -> list[str]:
    """The one group that a request names. Raises WireException 1710."""
    if len(names) != 1 or names[0] not in group_names(call.root):
        raise WireException(1710, wire_class=NOT_FOUND)
    return list(names)


def _digest(path: Path, algorithm: str) -> str | None:
    """Hex digest of a regular file, None where there is none. Raises WireException 1723 for an unknown algorithm."""
    if algorithm not in ALGORITHMS:
        raise WireException(1723, algorithm[:50], wire_class=BAD_REQUEST, remediation=f"Known: {', '.join(ALGORITHMS)}")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return hashlib.file_digest(file, algorithm).hexdigest()


def _message(text: str) -> WireResult:
    return WireResult("WazuhResult", {"str_priority": None, "result": {"message": text}})

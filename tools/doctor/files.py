"""Faults of files and disks."""

import contextlib
import grp
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from clusterd.config.loading import CLUSTER_JSON
from clusterd.settings import Settings
from clusterd.store.advice import DISK
from clusterd.supervisor.privileges import Owner, PrivilegeProblem, become, owner_to_become, tree_problem
from clusterd.token_secret import SECRET_FILE
from clusterd.users import USERS_FILE
from tools.check import links_of
from tools.doctor.finding import Finding
from tools.units import size

MOUNTS = "/proc/self/mountinfo"
OCTAL = re.compile(r"\\([0-7]{3})")
"""How the kernel writes blanks, line ends and backslashes there."""
LOW_SHARE = 0.05
LOW_BYTES = 1 << 30
LOW_INODES = 0.01
SOON_DAYS = 30
DAMAGED = "put a backup of queue/db/global.db in its place (docs/operations/day2.md, Agents), or: clusterd store renew"
MOST = 5
"""Most findings of one kind that are listed; there may be very many."""


def owner_of(settings: Settings) -> Owner | None:
    try:
        return owner_to_become(settings.clusterd.owner)
    except PrivilegeProblem:
        return None  # check-config names it


def rights(settings: Settings) -> Iterator[Finding]:
    """Yields directories that the node's user cannot write, and files that it cannot read."""
    owner = owner_of(settings)
    user = owner.name if owner is not None else "this user"
    problem, *unreadable = as_owner(owner, lambda: [tree_problem(settings.root) or "", *_unreadable(settings)])
    if problem and "read-only" not in problem:  # that is a finding of its own
        whose = f"-o {owner.name} " if owner is not None else ""
        cure = f"install -d -m 0770 {whose}PATH" if "is missing" in problem else "chown, as the text says"
        yield Finding("owner without rights", problem, cure)
    for path in unreadable[:MOST]:
        yield Finding("unreadable file", f"{user} cannot read {path}", _cure(owner, path))
    if len(unreadable) > MOST:
        yield Finding("unreadable file", f"{len(unreadable) - MOST} more files cannot be read", "as above")


def _cure(owner: Owner | None, path: str) -> str:
    """Returns the commands that let the node's user read `path`; a directory must be entered, too."""
    what = shlex.quote(path)
    group = "GROUP"
    if owner is not None:
        with contextlib.suppress(KeyError):
            group = grp.getgrgid(owner.gid).gr_name
    return f"chgrp {group} {what}; chmod g+r{'x' if os.path.isdir(path) else ''} {what}"


def as_owner(owner: Owner | None, look: Callable[[], list[str]]) -> list[str]:
    """Returns what `look` finds as the node's user (None: this process's). It runs in a child, because a process cannot
    switch back from that user."""
    if owner is None:
        return look()
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            become(owner)
            with open(write_fd, "wb") as pipe:
                pipe.write(json.dumps(look()).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    found: list[str] = json.loads(data or b'[""]')
    return found


def _unreadable(settings: Settings) -> list[str]:
    wanted = [*_of_the_node(settings), *_synchronised(settings)]
    return [path for path in wanted if not os.access(path, os.R_OK, effective_ids=True)]


def _of_the_node(settings: Settings) -> Iterator[str]:
    """Yields the files that a running node reads again: at a reload, at a login, when a child is replaced."""
    own = settings.clusterd
    names = [settings.conf or "etc/ossec.conf", CLUSTER_JSON]
    if own.api.enabled:
        names += [own.api.cert, own.api.key, SECRET_FILE, USERS_FILE]
    if own.tls.enabled:
        names += [own.tls.cert, own.tls.key, own.tls.ca]
    paths = [os.path.join(settings.root, name) for name in names if name]
    yield from (path for path in paths if os.path.exists(path))


def _synchronised(settings: Settings) -> Iterator[str]:
    """Yields every file below the directories of the rules, and these directories."""
    for rule in settings.rules.items:
        for directory, directories, names in os.walk(os.path.join(settings.root, rule.key)):
            yield directory
            chosen = names if "all" in rule.files else [name for name in names if name in rule.files]
            yield from (os.path.join(directory, name) for name in chosen)
            if not rule.recursive:
                directories.clear()
            else:
                # os.walk does not report a directory that it cannot enter.
                yield from (os.path.join(directory, name) for name in directories)


def links_and_mounts(settings: Settings) -> Iterator[Finding]:
    for line in links_of(settings)[:MOST]:
        yield Finding(
            "linked file", line, "put the target's directory into clusterd.link_targets, or a copy in its place"
        )
    for point in mounted_files(settings):
        yield Finding(
            "mounted file",
            f"{point} is a mount point of its own: it is written in place, not replaced",
            "mount the directory instead of the file, where you can",
            is_fault=False,
        )


def mounted_files(settings: Settings, mounts: str = MOUNTS) -> list[str]:
    """Returns single files below the rules' directories that are mount points."""
    tops = tuple(f"{settings.root.rstrip('/')}/{rule.key.strip('/')}/" for rule in settings.rules.items)
    return [point for point in _mount_points(mounts) if point.startswith(tops) and os.path.isfile(point)]


def _mount_points(mounts: str) -> list[str]:
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            return [OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in file]
    except OSError:
        return []


def disks(settings: Settings) -> Iterator[Finding]:
    """Checks rights, room and inodes of every file system that the node writes."""
    seen = set()
    closed: dict[str, list[str]] = {}
    for relative in ("queue/cluster", "logs", "etc", "queue/db"):
        path = Path(settings.root, relative)
        try:
            device, found = path.stat().st_dev, os.statvfs(path)
        except OSError:
            continue
        if found.f_flag & os.ST_RDONLY:  # of a mount: others of the same disk may be writable
            closed.setdefault(mount_of(path), []).append(str(path))
        if device in seen:
            continue
        seen.add(device)
        free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        if whole and free < min(LOW_BYTES, LOW_SHARE * whole):
            text = f"{size(free)} of {size(whole)} are free at {path}"
            yield Finding("disk full", text, "make room; the node takes packages again by itself")
        if found.f_files and found.f_favail < LOW_INODES * found.f_files:
            text = f"{found.f_favail} of {found.f_files} inodes are free at {path}"
            yield Finding("inodes used up", text, "remove small files on this file system; look at queue/ first")
    for point, paths in closed.items():
        below = "" if paths == [point] else f", and with it {', '.join(paths)}"
        cure = f"see dmesg; then mount -o remount,rw {shlex.quote(point)}"
        yield Finding("disk read-only", f"{point} is mounted read-only{below}", cure)


def mount_of(path: Path, mounts: str = MOUNTS) -> str:
    """Returns the mount point that `path` is below: the one that `mount -o remount` takes; `path` itself where /proc
    does not say."""
    real = os.path.realpath(path)
    above = {real, *map(str, Path(real).parents)}
    return max((point for point in _mount_points(mounts) if point in above), key=len, default=str(path))


def certificates(settings: Settings) -> Iterator[Finding]:
    now = datetime.now(UTC)
    wanted = []
    if settings.clusterd.tls.enabled and settings.is_master:
        wanted.append(("cluster port", settings.clusterd.tls.cert, "put a new one there and restart the node"))
    if settings.clusterd.api.enabled:
        wanted.append(
            (
                "REST API",
                settings.clusterd.api.cert,
                "remove it with its key, then: clusterd api enable; clusterd reload",
            )
        )
    for use, relative, cure in wanted:
        path = Path(settings.root, relative)
        try:
            ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        except (OSError, ValueError):
            continue  # check-config names it
        days = (ends - now).days
        if ends <= now:
            yield Finding("certificate expired", f"{path} ({use}) was good until {ends:%Y-%m-%d}", cure)
        elif days < SOON_DAYS:
            text = f"{path} ({use}) is good for {days} days more"
            yield Finding("certificate expires soon", text, cure, is_fault=False)


DATABASE_DAMAGED = "database damaged"


def _how_to_read(path: Path) -> str:
    """Returns options of SQLite. It makes files beside the database that belong to who reads it (root gives them to the
    owner): those of another user would keep the node from opening its database."""
    if os.geteuid() in (0, path.stat().st_uid):
        return "mode=ro"
    return "mode=ro&readonly_shm=1" if os.path.exists(f"{path}-wal") else "immutable=1"


def databases(settings: Settings, *, is_in_use: bool = False) -> Iterator[Finding]:
    """Finds a database of ours that SQLite cannot read. `is_in_use`: a running node, which reports all but damage that
    it has not read yet."""
    for finding in _databases(settings):
        if not is_in_use or finding.name == DATABASE_DAMAGED:
            yield finding


def _databases(settings: Settings) -> Iterator[Finding]:
    import sqlite3

    if settings.clusterd.store == "off":
        return
    path = Path(settings.root, "queue/db/global.db")
    if not path.exists():
        return
    if not path.is_file():  # as a container makes it that is to mount a file that is not there
        yield Finding("store cannot be used", f"{path} is no file", "move it away, and put the database in its place")
        return
    try:
        uri = f"{path.absolute().as_uri()}?{_how_to_read(path)}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as database:
            found = database.execute("pragma quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as problem:
        if "locked" in str(problem):
            yield Finding("store locked", f"{path}: {problem}", f"lsof {path} names who has it open: end that program")
        elif "readonly" not in str(problem) and "unable to open" not in str(problem):
            # A damaged one is no OperationalError.
            yield Finding("store cannot be used", f"{path}: {problem}", DISK)
    except sqlite3.DatabaseError as problem:
        yield Finding(DATABASE_DAMAGED, f"{path}: {problem}", DAMAGED)
    else:
        if found != "ok":
            yield Finding(DATABASE_DAMAGED, f"{path}: {found}", DAMAGED)

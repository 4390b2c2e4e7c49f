"""One archive of data for diagnosis: state, configuration, logs, stacks. It contains no secret of the node: each part
is searched for all of them before it is written.
"""

import contextlib
import io
import json
import os
import platform
import re
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil

from clusterd import __version__
from clusterd.agent_keys import KEY_FILE
from clusterd.config.loading import CLUSTER_JSON, load
from clusterd.errors import PlainFailure
from clusterd.monitor.journal_reader import JournalReader, JournalUnreadable
from clusterd.role import LEFT_BEHIND
from clusterd.rundir import API_FILES, journal_path
from clusterd.status.status import StatusReader
from clusterd.token_secret import SECRET_FILE
from clusterd.users import USERS_FILE
from tools.check import check
from tools.doctor.examine import examine

LOG_BYTES = 20 << 20
"""Bytes at the end of each log file that are included."""
MOST_EVENTS = 5000
STACKS_S = 3.0
CRASH_LOG = "logs/clusterd-crash.log"
SHORTEST_SECRET = 8
"""A shorter text may occur anywhere by chance."""
LONG_WORD = re.compile(rb"[0-9A-Za-z_]{32,}")
"""The form of agent keys and cluster keys; hardly anything else in a log has it."""
CHILDREN = re.compile(r"net|sync|store|api|monitor|election|pool-\d+")
"""Processes that answer SIGUSR2 with their stacks; the signal would end another program."""
EMPTY = "/dev/null"
SECRET_WORDS = re.compile(r"key$|pass|secret|token|hash|salt", re.IGNORECASE)
PROGRAMS = ("run", "on_promote", "on_demote")
"""Settings that are a program and its arguments."""
MASK = "(not shown)"
LOGIN = re.compile(r"//[^/@\s]+@")
"""A user, perhaps with a password, in a URL."""
CLUSTER_BLOCK = re.compile(r"<cluster\b[^<>]*>.*?</cluster\s*>", re.DOTALL | re.IGNORECASE)
KEY_ELEMENT = re.compile(r"(<key\b[^<>]*>)(?:(?:(?!<key\b).)*?(?=</key\s*>)|[^<]*)", re.DOTALL | re.IGNORECASE)
"""With or without an end: `support` is called just when such a file has mistakes."""
SECRET_ELEMENT = re.compile(r"<\w*(?:key|pass|secret|token)\w*\b[^<>]*>([^<>]*)", re.IGNORECASE)
PLACES_OF_SECRETS = ("etc", API_FILES, LEFT_BEHIND)
PROC_FILES = ("status", "limits", "wchan", "schedstat", "smaps_rollup", "cgroup")
KERNEL_FILES = (
    "/proc/version",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/mounts",
    "/proc/sys/fs/inotify/max_user_watches",
    "/proc/sys/fs/inotify/max_user_instances",
    "/proc/sys/user/max_inotify_watches",
    "/proc/sys/user/max_inotify_instances",
    "/proc/sys/fs/file-nr",
    "/etc/os-release",
)


class SecretFound(PlainFailure):
    """A part contains a secret, so there is no archive. The text names the part, never the secret."""


class Archive(msgspec.Struct, frozen=True):
    """`parts`: names with their sizes; `missing`: what could not be read, name to reason."""

    path: str
    size: int
    parts: dict[str, int]
    missing: dict[str, str]


def collect(root: str, target: str, now: float) -> Archive:
    """Writes the archive (0600) to `target`, which must not exist. Raises SecretFound, OSError: then there is none."""
    secrets = SecretSearch(secrets_of(root))
    parts: dict[str, int] = {}
    missing: dict[str, str] = {}
    top = Path(target).name.removesuffix(".tar.gz")
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, make in _parts(root):
                try:
                    data = make()
                except OSError as problem:
                    missing[name] = f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem)
                    continue
                except (psutil.Error, ValueError, RecursionError) as problem:
                    missing[name] = str(problem)
                    continue
                _refuse_secrets(name, data, secrets)
                info = tarfile.TarInfo(f"{top}/{name}")
                info.size, info.mtime, info.mode = len(data), int(now), 0o600
                archive.addfile(info, io.BytesIO(data))
                parts[name] = len(data)
    except BaseException:
        os.unlink(target)
        raise
    return Archive(target, os.stat(target).st_size, parts, missing)


def secrets_of(root: str) -> list[bytes]:
    """Returns all secrets of this node. Raises OSError for an existing file that cannot be read: then no archive could
    be proved clean."""
    found: set[bytes] = set()
    settings = load(root, with_api_files=False).settings
    if settings is not None:
        found.add(settings.cluster.key.value)
        etcd = settings.clusterd.ha.etcd  # absolute paths
        found.update(map(_bytes, _text(root, etcd.password_file or EMPTY).splitlines()))
        found.update(_key_lines(_text(root, etcd.key or EMPTY)))
    for match in SECRET_ELEMENT.finditer(_text(root, "etc/ossec.conf")):
        if "/" not in match[1]:  # a file's name
            found.add(_bytes(match[1]))
    for place in PLACES_OF_SECRETS:
        for directory, _, names in os.walk(os.path.join(root, place)):
            for name in names:
                found.update(_in_file(directory, name))
    return [secret for secret in found if len(secret) >= SHORTEST_SECRET]


def _in_file(directory: str, name: str) -> Iterator[bytes]:
    """Yields the secrets of a file of that name; a promotion keeps files under a name of its own for a while."""
    kind = name.removeprefix(".").removesuffix(".before-promotion")
    if kind == os.path.basename(KEY_FILE):
        for line in _text(directory, name).splitlines():
            yield _bytes(line.rstrip().rpartition(" ")[2])
    elif kind in (os.path.basename(SECRET_FILE), "authd.pass"):
        yield from map(_bytes, _text(directory, name).splitlines())
    elif kind == os.path.basename(USERS_FILE):
        yield from map(_bytes, re.findall(r'"(?:hash|salt)"\s*:\s*"([^"]+)"', _text(directory, name)))
    elif kind.endswith((".key", ".pem")):
        yield from _key_lines(_text(directory, name))


def _key_lines(text: str) -> Iterator[bytes]:
    """Returns the lines of private keys in PEM format."""
    for block in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL):
        yield from map(_bytes, block.splitlines())


def _bytes(text: str) -> bytes:
    """As they are in the file, which need not be UTF-8."""
    return text.strip().encode(errors="surrogateescape")


def _text(root: str, relative: str) -> str:
    try:
        return Path(root, relative).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


class SecretSearch:
    """Looks for secrets in a text. A master has as many as it has agents, and looking for each one alone would take
    minutes: so long words of the text, and parts of them, are looked up in a table."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._words = {secret for secret in secrets if LONG_WORD.fullmatch(secret)}
        self._lengths = sorted({len(word) for word in self._words})
        self._others = [secret for secret in secrets if secret not in self._words]

    def finds_in(self, data: bytes) -> bool:
        if any(secret in data for secret in self._others):
            return True
        return any(
            word[start : start + length] in self._words
            for word in LONG_WORD.findall(data)
            for length in self._lengths
            for start in range(len(word) - length + 1)
        )


def _refuse_secrets(name: str, data: bytes, secrets: SecretSearch) -> None:
    if secrets.finds_in(data):
        raise SecretFound(f"{name} holds a key, a token or a hash of this node; no archive was written")


# ---- parts -----------------------------------------------------------------------------------------------------------


def _parts(root: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    status = StatusReader(root).read()
    yield "versions.txt", _versions
    yield "status.json", lambda: _json(status)
    yield "doctor.json", lambda: _json(msgspec.to_builtins(examine(root, connects=False)))
    yield "check-config.txt", lambda: "\n".join(check(root).lines).encode(errors="backslashreplace")
    yield "ossec.conf-cluster.xml", lambda: _cluster_blocks(root)
    yield "cluster.json", lambda: _json(masked(json.loads(Path(root, CLUSTER_JSON).read_text("utf-8-sig"))))
    yield "journal.jsonl", lambda: _journal(root)
    for name in ("cluster.log", "cluster.log.1", "clusterd-crash.log", "clusterd-crash.log.1"):
        if name.endswith(".1") and not os.path.lexists(f"{root}/logs/{name}"):
            continue  # nothing has been moved there
        yield f"logs/{name}", lambda name=name: _tail(Path(root, "logs", name))  # type: ignore[misc]
    yield "tree.txt", lambda: _tree(root)
    for file in KERNEL_FILES:
        yield f"system{file}", Path(file).read_bytes
    yield "stacks.txt", lambda: _stacks(root, status)
    for row in status["processes"]:
        if row["pid"]:
            for file in PROC_FILES:
                yield f"processes/{row['name']}/{file}", Path(f"/proc/{row['pid']}/{file}").read_bytes
            yield f"processes/{row['name']}/files", lambda pid=row["pid"]: _descriptors(pid)  # type: ignore[misc]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def _versions() -> bytes:
    rows = [f"clusterd {__version__}", f"Python {platform.python_version()}", platform.platform()]
    rows += sorted(f"{found.metadata['Name']} {found.version}" for found in metadata.distributions())
    return ("\n".join(rows) + "\n").encode()


def _cluster_blocks(root: str) -> bytes:
    """Returns only the cluster block: other blocks contain passwords of integrations. A word of the form of a key is
    not shown wherever it stands."""
    text = Path(root, "etc/ossec.conf").read_text(encoding="utf-8", errors="replace")
    blocks = "\n".join(KEY_ELEMENT.sub(rf"\1{MASK}", block) for block in CLUSTER_BLOCK.findall(text))
    return LONG_WORD.sub(MASK.encode(), blocks.encode())


def masked(value: Any) -> Any:
    """Returns the value with masked members where these may be secrets. File names stay, programs without their
    arguments, and URLs without their users."""
    if isinstance(value, dict):
        return {key: _masked_member(key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return LOGIN.sub(rf"//{MASK}@", value) if isinstance(value, str) else value


def _masked_member(key: str, value: Any) -> Any:
    if key in PROGRAMS and isinstance(value, list):
        return [*value[:1], *[MASK] * len(value[1:])]
    return MASK if SECRET_WORDS.search(key) and isinstance(value, str) and "/" not in value else masked(value)


def _journal(root: str) -> bytes:
    """Returns the last events, the newest first."""
    try:
        found = JournalReader(journal_path(root)).latest(limit=MOST_EVENTS)
    except JournalUnreadable as problem:
        raise ValueError(str(problem)) from None
    return "".join(f"{json.dumps(event)}\n" for event in found).encode()


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
        return file.read(LOG_BYTES)


def _tree(root: str) -> bytes:
    """Lists names, sizes and owners of the node's own files, and of the synchronised directories' top."""
    rows = []
    for relative in ("queue/cluster", "var/run", "etc"):
        for directory, names, files in os.walk(os.path.join(root, relative)):
            for name in sorted([*names, *files]):
                try:
                    found = os.lstat(os.path.join(directory, name))
                except FileNotFoundError:
                    continue  # files of jobs come and go
                rows.append(
                    f"{found.st_mode:06o} {found.st_uid}:{found.st_gid} {found.st_size:>12} "
                    f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(found.st_mtime))} {os.path.join(directory, name)}"
                )
    return "\n".join(rows).encode(errors="surrogateescape")


def _stacks(root: str, status: dict[str, Any]) -> bytes:
    """Returns the stacks of every process of the node. The processes write them to the crash log."""
    path = Path(root, CRASH_LOG)
    before = path.stat().st_size
    for row in status["processes"]:
        if row["pid"] and row["state"] == "ready" and CHILDREN.fullmatch(row["name"]):
            with contextlib.suppress(ProcessLookupError):  # it has just ended; the others have stacks
                os.kill(row["pid"], signal.SIGUSR2)
    deadline, size = time.monotonic() + STACKS_S, before
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if (now := path.stat().st_size) == size > before:
            break
        size = now
    with open(path, "rb") as file:
        file.seek(before)
        return file.read(LOG_BYTES)


def _descriptors(pid: int) -> bytes:
    rows = []
    for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        try:
            rows.append(f"{name} {os.readlink(f'/proc/{pid}/fd/{name}')}")
        except OSError:
            continue
    return "\n".join(rows).encode(errors="surrogateescape")

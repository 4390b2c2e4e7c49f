"""Checks before a manager's cluster daemon is replaced by clusterd. They inspect the real installation and change
nothing."""

import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from clusterd.adoption import BIN, MODULES, State, launcher_text, look_at_all
from clusterd.config.loading import load
from clusterd.pidfile import running_daemon
from clusterd.settings import Limits, Settings
from clusterd.supervisor.code_access import access_warning, code_paths, unreadable_code_of
from clusterd.supervisor.privileges import PrivilegeProblem, answer_as, owner_to_become, tree_problem
from clusterd.sync.ports.ledger import Disk, disk_of
from tools.check import check

CONTROL = "wazuh-control"
SUPPORTED = re.compile(r"v?(4\.14\.\d+)")
COMMAND_TIMEOUT_S = 60.0
PLAIN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Check(msgspec.Struct, frozen=True):
    """`text`: the finding; if it is not `ok`, also what to do. `warnings` do not stop the cutover."""

    name: str
    ok: bool
    text: str
    warnings: list[str] = []


def checks(root: str, python: str, *, disk: Callable[[str, Limits], Disk] = disk_of) -> list[Check]:
    """Runs all checks; those that make no sense after a failed one are left out. `disk` is for tests."""
    done = [_installation(root)]
    if not done[0].ok:
        return done
    done.append(_owners(root))
    if not done[-1].ok:
        return done  # nothing of it is to be run
    done += [_version(root), _configuration(root)]
    settings = load(root).settings
    if not done[-1].ok or settings is None:
        return done
    installed = done[2].text if done[2].ok else ""
    done += [_says(settings, installed), _rights(settings), _environment(root, python)]
    return [*done, _ports(settings), _room(settings, disk)]


def _installation(root: str) -> Check:
    name = "installation"
    try:
        there = os.listdir(f"{root}/{BIN}") if os.path.isdir(root) else []
        states = {found.name: found.state for found in look_at_all(root)}
        missing = [file for file, state in states.items() if state is State.MISSING]
        if CONTROL not in there or missing:
            shown = ", ".join([CONTROL] * (CONTROL not in there) + missing)
            return Check(name, False, f"{root}/{BIN} has no {shown}: there is no stock manager")
        odd = [file for file, state in states.items() if state is State.ODD]
    except FileNotFoundError:
        return Check(name, False, f"{root} has no directory {BIN}: there is no stock manager")
    except OSError as failure:
        return Check(name, False, f"{failure.filename}: {failure.strerror}; run this as root")
    if odd:
        return Check(
            name, False, f"{root}/{BIN}/{', '.join(odd)} is no plain file: nothing that a package has put there"
        )
    return Check(name, True, f"a manager at {root}")


def _owners(root: str) -> Check:
    """Checks that no other user can change files that root runs or has run until now."""
    name, me = "owner", os.geteuid()
    trusted = {0, me}
    files = [path for file in (CONTROL, *MODULES) if os.path.lexists(path := Path(root, BIN, file))]
    for path in (Path(root), Path(root, BIN), *files):
        facts = path.lstat() if path in files else path.stat()
        mode = stat.S_IMODE(facts.st_mode)
        shown = f"{path} ({_user(facts.st_uid)}, {mode:04o})"
        if facts.st_uid not in trusted:
            text = "give it to root" if me == 0 else "run this as root"
            return Check(name, False, f"{shown} belongs to neither root nor you: {text}")
        if path in files and not (stat.S_ISREG(facts.st_mode) and mode & stat.S_IXUSR):
            return Check(name, False, f"{shown} is no program: install the manager's package again")
        if mode & WRITABLE_BY_OTHERS and path != Path(root):
            return Check(name, False, f"{shown} may be written by others: chmod go-w {path}")
    owner = Path(root, BIN).stat().st_uid
    if me not in (0, owner):
        return Check(name, False, f"{root}/{BIN} belongs to {_user(owner)}: run this as root")
    return Check(name, True, f"the files of {root}/{BIN} belong to {_user(owner)} and are nobody else's to change")


def _version(root: str) -> Check:
    """Checks the version as `wazuh-control info` reports it."""
    name, command = "version", [f"{root}/{BIN}/{CONTROL}", "info"]
    code, said = _run(command)
    version = said.partition('WAZUH_VERSION="')[2].partition('"')[0]
    if not version:
        text = f"{' '.join(command)} does not tell the manager's version (exit code {code}): {_first(said)}"
        return Check(name, False, text)
    match = SUPPORTED.fullmatch(version)
    if match is None:
        return Check(name, False, f"the manager is {version}: this clusterd is for 4.14")
    return Check(name, True, match[1])


def _configuration(root: str) -> Check:
    found = check(root)
    warnings = [line.removeprefix("warning: ") for line in found.lines if line.startswith("warning: ")]
    wrong = [line for line in found.lines if not line.startswith("warning: ")]
    if not found.ok:
        return Check("configuration", False, "; ".join(wrong), warnings)
    return Check("configuration", True, f"{root}/etc/ossec.conf is good", warnings)


def _says(settings: Settings, installed: str) -> Check:
    """Checks that the node sends the installed version to other nodes."""
    name, own = "version said", settings.clusterd.version
    if installed and own != installed and not settings.cluster.disabled:
        text = (
            f"the node would say that it is {own}, the manager is {installed}: nodes of {installed} refuse it. Put "
            f'"version": "{installed}" into the section "clusterd" of {settings.root}/etc/cluster.json'
        )
        return Check(name, False, text)
    return Check(name, True, own)


def _rights(settings: Settings) -> Check:
    """Checks that the node's user can work in the tree and read our program."""
    name = "rights"
    try:
        owner = owner_to_become(settings.clusterd.owner)
    except PrivilegeProblem as failure:
        return Check(name, False, str(failure))
    problem = (
        tree_problem(settings.root) if owner is None else answer_as(owner, lambda: tree_problem(settings.root) or "")
    )
    if problem:
        return Check(name, False, problem)
    unreadable = unreadable_code_of(owner) if owner is not None else ""
    if owner is not None and unreadable:
        return Check(name, False, access_warning(owner.name, unreadable))
    return Check(name, True, f"{owner.name if owner else _user(os.geteuid())} can work in {settings.root}")


def _environment(root: str, python: str) -> Check:
    """Runs what the launcher will run, once, as `wazuh-control` does before each start."""
    name = "environment"
    text = launcher_text(root, "wazuh-clusterd", python)
    code, said = _run(["/bin/sh", "-c", text, "wazuh-clusterd", "-t"])
    if code != 0:
        return Check(name, False, f"{python} does not start clusterd (exit code {code}): {_first(said)}")
    warnings = []
    if sys.prefix == sys.base_prefix:
        warnings.append(
            f"clusterd shares {sys.prefix} with other programs, which may bring packages of its names (ipc, hashing, "
            "tools): better install it into a virtual environment, /opt/clusterd"
        )
    others = _writable_by_others()
    if others:
        warnings.append(f"{others}: who can write there is root at the manager's next start. Install below /opt")
    return Check(name, True, f"{python} starts clusterd", warnings)


def _writable_by_others() -> str:
    for path in code_paths():
        for one in [*reversed(path.parents), path]:
            facts = one.stat()
            if facts.st_uid not in (0, os.geteuid()):
                return f"{one} belongs to {_user(facts.st_uid)}"
            if facts.st_mode & WRITABLE_BY_OTHERS and not facts.st_mode & stat.S_ISVTX:
                return f"{one} may be written by others"
    return ""


def _ports(settings: Settings) -> Check:
    """Checks that the ports are free, or held by the daemon that is replaced."""
    name, own = "ports", settings.clusterd.api
    if settings.cluster.disabled:
        return Check(name, True, "none, the cluster is disabled")
    wanted = []
    if settings.cluster.node_type == "master":
        wanted.append((settings.cluster.bind_addr, settings.cluster.port, "the cluster", "<port> of etc/ossec.conf"))
    if own.enabled:
        wanted.append((own.host, own.port, "clusterd's REST API", "clusterd.api.port of etc/cluster.json"))
    for address, port, what, setting in wanted:
        holder = _holder(settings.root, address, port)
        if holder:
            text = f"port {port}, which {what} needs, is held by {holder}: stop it, or choose another {setting}"
            return Check(name, False, text)
    return Check(name, True, ", ".join(f"{port} for {what}" for _, port, what, _ in wanted) or "a worker needs none")


def _holder(root: str, address: str, port: int) -> str:
    """Returns the program that listens there, other than the cluster daemon of this root; empty if there is none."""
    daemon = running_daemon(root)
    allowed = {daemon[0], *_children(daemon[0])} if daemon is not None else set()
    for one in psutil.net_connections("tcp"):
        if one.status != psutil.CONN_LISTEN or not one.laddr:
            continue
        if one.laddr.port != port or not _overlap(address, one.laddr.ip):
            continue
        if one.pid in allowed or (one.pid is None and daemon is not None):
            continue
        try:
            return f"{psutil.Process(one.pid).name()} (pid {one.pid})" if one.pid else "another program"
        except psutil.Error:
            continue
    return ""


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _overlap(one: str, other: str) -> bool:
    every = ("", "0.0.0.0", "::", "*")
    return one in every or other in every or one == other or not one.replace(".", "").isdigit()


def _room(settings: Settings, disk: Callable[[str, Limits], Disk]) -> Check:
    """Checks that the disk has more room than its reserve: a node with less accepts nothing from other nodes."""
    found = disk(f"{settings.root}/queue/cluster", settings.clusterd.limits)
    text = (
        f"{found.free >> 20} MiB of the disk of {settings.root}/queue/cluster are free, {found.reserve >> 20} MiB are "
        "kept in reserve"
    )
    if found.free <= found.reserve:
        text += (
            ": the node would take no files. "
            "Make room, or lower clusterd.limits.disk_reserve_bytes and disk_reserve_share"
        )
        return Check("room", False, text)
    return Check("room", True, text)


def _run(command: list[str]) -> tuple[int, str]:
    """Returns exit code and output, of both streams."""
    try:
        done = subprocess.run(
            command,
            env=PLAIN_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_TIMEOUT_S,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {COMMAND_TIMEOUT_S:g} s"
    except OSError as failure:
        return 1, f"{failure.strerror}"
    return done.returncode, done.stdout


def _first(said: str) -> str:
    return next((line for line in said.splitlines() if line.strip()), "it says nothing")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

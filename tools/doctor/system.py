"""Faults of the machine around the node."""

import contextlib
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from clusterd.listening.addresses import look_up
from clusterd.pidfile import running_pid
from clusterd.settings import Settings
from tools.doctor.files import as_owner, owner_of
from tools.doctor.finding import Finding

SYSCTLS = "/proc/sys"
WATCHES = ("fs.inotify.max_user_watches", "user.max_inotify_watches")
INSTANCES = ("fs.inotify.max_user_instances", "user.max_inotify_instances")
"""Two names of one limit, except in a container with users of its own: there both count."""
FEWEST_INSTANCES = 16
STOCK = "wazuh-clusterd"
SPARE_DESCRIPTORS = 200


def limits(settings: Settings) -> Iterator[Finding]:
    """Checks inotify, open files, /proc."""
    directories = sum(sum(1 for _ in os.walk(Path(settings.root, rule.key))) for rule in settings.rules.items)
    name, watches = _lowest(WATCHES)
    if settings.clusterd.watch and watches < 2 * directories:
        text = f"{name} is {watches}, this node watches {directories} directories"
        yield Finding("inotify limit", text, f"sysctl {name}={max(65536, 4 * directories)}; clusterd reload")
    name, instances = _lowest(INSTANCES)
    if settings.clusterd.watch and instances < FEWEST_INSTANCES:
        yield Finding("inotify limit", f"{name} is {instances}", f"sysctl {name}=128; clusterd reload")
    needed = (settings.clusterd.limits.connections if settings.is_master else 0) + SPARE_DESCRIPTORS
    allowed = _descriptors(settings.root)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        text = f"a process of the node may open {allowed} files, {needed} are needed"
        yield Finding(
            "low ulimit", text, f"LimitNOFILE={2 * needed} in the unit, or ulimit -n {2 * needed} before start"
        )
    # The node is asked for, not this program: root sees everything.
    if as_owner(owner_of(settings), lambda: ["" if os.access("/proc/1/stat", os.R_OK) else "hidden"]) != [""]:
        text = "other users' processes are hidden (/proc is mounted with hidepid)"
        cure = "mount /proc with gid=GROUP, and let the node's user be in GROUP (SupplementaryGroups= of the unit)"
        yield Finding("/proc hidden", text, cure, is_fault=False)


def _lowest(names: Sequence[str]) -> tuple[str, int]:
    """Returns the lowest of these limits of the kernel with its name; no limit where it has none of them."""
    found = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            found.append((name, int(Path(SYSCTLS, *name.split(".")).read_text())))
    return min(found, key=lambda one: one[1], default=("", sys.maxsize))


def _descriptors(root: str) -> int:
    """Returns the hard limit of the node, or the one that a node started from here would get."""
    pid = running_pid(root)
    with contextlib.suppress(psutil.Error, AttributeError):
        if pid is not None:
            return psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[1]
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def processes(settings: Settings) -> Iterator[Finding]:
    """Finds a stock daemon beside ours, a taken port, a pid file of a process that is gone."""
    ours = running_pid(settings.root)
    for process in _stock_daemons(settings.root):
        if process.pid != ours:
            text = f"a stock {STOCK} runs with pid {process.pid}"
            cure = f"{settings.root}/bin/wazuh-control stop, or kill {process.pid}; then start the node"
            yield Finding("stock daemon runs beside", text, cure)
    if ours is None:
        for path in stale_pid_files(settings.root):
            text = f"{path} is of a process that is gone"
            yield Finding("stale pid file", text, "nothing: the next start removes it", is_fault=False)
    if ours is None and settings.is_master:
        problem = _port_problem(settings.cluster.bind_addr, settings.cluster.port)
        if problem:
            where = f"port {settings.cluster.port} of {settings.cluster.bind_addr}"
            yield Finding("port taken", f"{where}: {problem}", "stop that program, or change <port> on every node")
    api = settings.clusterd.api
    if ours is None and api.enabled:
        problem = _port_problem(api.host, api.port)
        if problem:
            where, cure = f"REST API port {api.port} of {api.host}", "stop that program, or change clusterd.api.port"
            yield Finding("REST API port taken", f"{where}: {problem}", cure)
    own = settings.clusterd.monitor
    if ours is None and own.enabled:
        problem = _port_problem(own.address, own.port)
        if problem:
            where, cure = f"monitoring port {own.port} of {own.address}", "change clusterd.monitor.port in cluster.json"
            yield Finding("monitoring port taken", f"{where}: {problem}", cure, is_fault=False)


def stale_pid_files(root: str) -> list[Path]:
    """Returns the pid files that a node has left which was not stopped."""
    found = []
    for path in Path(root, "var/run").glob(f"{STOCK}-*.pid"):
        pid = path.stem.rpartition("-")[2]
        if pid.isdigit() and not _lives(int(pid)):
            found.append(path)
    return found


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _stock_daemons(root: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(word.endswith(f"/{STOCK}.py") for word in line[:3]) and any(word.startswith(root) for word in line[:3]):
            yield process


def _port_problem(host: str, port: int) -> str:
    """Tells why a process cannot listen there, and names the program that does."""
    try:
        family, _, _, _, address = look_up(host, port)[0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as problem:
        return (problem.strerror or str(problem)) + _listener(port)
    return ""


def _listener(port: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return f" ({psutil.Process(found.pid).name()}, pid {found.pid})"
    return ""

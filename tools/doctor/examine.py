"""All checks of a node, in the order in which a person would look."""

from collections.abc import Callable, Iterator
from typing import Any

from clusterd.config.loading import load
from clusterd.framework import location
from clusterd.gate import has_node
from clusterd.settings import Settings
from clusterd.status.status import StatusReader
from tools.check import check
from tools.doctor import cluster, files, services, system
from tools.doctor.etcd import etcd
from tools.doctor.finding import Finding

SHORT_KEY = "short key"
OF_THE_RUNNING_NODE = frozenset({"files are not in use", "not connected yet"})
"""Findings that say that the master takes a node with these files."""


def examine(root: str, *, connects: bool = True) -> list[Finding]:
    """Returns everything that is wrong, causes before their effects. `connects`: try the master's port where there is
    no link. A check that cannot be made is itself a finding."""
    found = list(_guarded("configuration", lambda: _configuration(root)))
    settings = load(root, with_api_files=False).settings
    if settings is None:
        return found
    status: dict[str, Any] = StatusReader(root, may_wait=False).read()
    for name, make in _checks(settings, status, connects):
        found += _guarded(name, make)
    faults = {one.what for one in found if one.is_fault}  # some are known before the node runs, as a note
    return [one for one in dict.fromkeys(found) if one.is_fault or one.what not in faults]


def try_out(settings: Settings) -> list[Finding]:
    """Runs the checks that need a try, on a node with a valid configuration: rights, certificates, its port, its
    master's port, etcd."""
    status: dict[str, Any] = StatusReader(settings.root, may_wait=False).read()
    found: list[Finding] = []
    for name, make in (
        ("rights", lambda: files.rights(settings)),
        ("certificates", lambda: files.certificates(settings)),
        ("port", lambda: system.processes(settings)),
        ("master", lambda: cluster.master_of(settings, status)),
        ("etcd", lambda: etcd(settings)),
    ):
        found += _guarded(name, make)
    # What only a restart is needed for speaks for the configuration.
    return [one for one in found if one.name not in OF_THE_RUNNING_NODE]


def _checks(
    settings: Settings, status: dict[str, Any], connects: bool
) -> Iterator[tuple[str, Callable[[], Iterator[Finding]]]]:
    yield "processes", lambda: system.processes(settings)
    yield "rights", lambda: files.rights(settings)
    yield "links", lambda: files.links_and_mounts(settings)
    yield "disks", lambda: files.disks(settings)
    yield "limits", lambda: system.limits(settings)
    yield "certificates", lambda: files.certificates(settings)
    if "store" not in status["problems"]:
        yield "databases", lambda: files.databases(settings, is_in_use=status["running"])
    yield "node", lambda: cluster.node(status)
    if connects:
        yield "master", lambda: cluster.master_of(settings, status)
        yield "etcd", lambda: etcd(settings)
    yield "framework", lambda: services.framework(settings, status)
    yield "registrations", lambda: services.registrations(settings, status)
    yield "files left out", lambda: cluster.left_out(status)
    yield "clocks", lambda: cluster.clocks(status)
    yield "workers", lambda: cluster.workers(settings.root, status)


def _configuration(root: str) -> Iterator[Finding]:
    if not has_node(root):
        yield Finding(
            "no node", f"there is no node at {root}", f"clusterd --root {root} init, or give the right --root"
        )
        return
    checked = check(root)
    settings = load(root, with_api_files=False).settings
    framework = location.find(settings) if settings is not None else location.Found()
    for line in checked.lines:
        if framework.is_wrong and line.removeprefix("warning: ") == framework.told:
            continue  # has a check of its own
        if line.startswith("note: "):
            continue  # nothing is wrong
        is_warning = line.startswith("warning: ")
        # Links have a check of their own, and a running node reports its rights itself.
        if not (is_warning and ("link" in line or "with all rights of root" in line)):
            name = _name(line)
            cure = (
                "make a new one, the same on all nodes: openssl rand -hex 16"
                if name == SHORT_KEY
                else "correct that file"
            )
            yield Finding(name, line.removeprefix("warning: "), cure, is_fault=not is_warning)


def _name(line: str) -> str:
    """Returns the name of a configuration fault; some have a name of their own."""
    if "<key>" in line:
        return SHORT_KEY
    return "configuration"


def _guarded(name: str, make: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from make()
    except OSError as problem:
        yield Finding("not checked", f"{name}: {problem}", "run it as root or as the user of the node", is_fault=False)

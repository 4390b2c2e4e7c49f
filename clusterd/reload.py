"""Decides what a reload (SIGHUP) changes in a running node, in the same way in every process: everything that no
socket, key or process depends on."""

import msgspec

from clusterd.config.loading import load
from clusterd.logs import Log
from clusterd.settings import Settings

NEEDS_RESTART = ("root", "conf", "cluster", "pool_size", "log_format")
NEEDS_RESTART_OWN = ("owner", "version", "caps", "tls", "store", "api", "framework", "monitor", "ha")
"""Fields of Settings, and of its `clusterd`, that keep their value until a restart."""


def adopt(running: Settings, read: Settings) -> tuple[Settings, list[str]]:
    """Returns the new settings, and the names of settings that were changed in the files but need a restart: `<port>`
    of ossec.conf, `clusterd.owner` of cluster.json."""
    # What the node was given beside its configuration counts for both.
    read = read if running.role is read.role is None else read.with_role(running.role)
    waiting = [
        f"<{name}>"
        for name in running.cluster.__struct_fields__
        if getattr(running.cluster, name) != getattr(read.cluster, name)
    ]
    waiting += [name for name in NEEDS_RESTART if name != "cluster" and getattr(running, name) != getattr(read, name)]
    waiting += [
        f"clusterd.{name}"
        for name in NEEDS_RESTART_OWN
        if getattr(running.clusterd, name) != getattr(read.clusterd, name)
    ]
    own = msgspec.structs.replace(
        read.clusterd, **{name: getattr(running.clusterd, name) for name in NEEDS_RESTART_OWN}
    )
    if own.journal.enabled != running.clusterd.journal.enabled:
        waiting.append("clusterd.journal.enabled")
        kept_on = running.clusterd.journal.enabled
        own = msgspec.structs.replace(own, journal=msgspec.structs.replace(own.journal, enabled=kept_on))
    connections = running.clusterd.limits.store_connections
    if own.limits.store_connections != connections:
        waiting.append("clusterd.limits.store_connections")  # the store counts them from its start on
        own = msgspec.structs.replace(own, limits=msgspec.structs.replace(own.limits, store_connections=connections))
    if own.hooks and not running.clusterd.has_monitor:
        waiting.append("clusterd.hooks")  # there is no process that could run them
        own = msgspec.structs.replace(own, hooks=())
    kept = {name: getattr(running, name) for name in (*NEEDS_RESTART, "serves_store", "framework_python")}
    level = read.log_level or running.log_level_asked
    adopted = msgspec.structs.replace(
        read, **kept, clusterd=own, log_level=level, log_level_asked=running.log_level_asked
    )
    return adopted, waiting


def read_again(running: Settings, log: Log) -> Settings:
    """Reads the files again, in a process that has nobody to tell of mistakes: the supervisor, which reads them before
    the others, says what is wrong. The settings stay as they are then."""
    read = load(running.root, conf=running.conf or None).settings
    if read is None:
        return running
    adopted, _ = adopt(running, read)
    log.set_level(adopted.log_level)
    return adopted


def changes(before: Settings, after: Settings) -> list[str]:
    """The names of the settings in which these two differ: `intervals.worker`, `clusterd.limits`; never a value."""
    names = {"worker": "intervals.worker", "master": "intervals.master", "communication": "intervals.communication"}
    found = [
        names.get(name, name)
        for name in before.__struct_fields__
        if name not in ("clusterd", "log_level_asked") and getattr(before, name) != getattr(after, name)
    ]
    found += [
        f"clusterd.{name}"
        for name in before.clusterd.__struct_fields__
        if getattr(before.clusterd, name) != getattr(after.clusterd, name)
    ]
    return found

"""Decides what a reload (SIGHUP) changes in a running node, in the same way in every process: everything that no
socket, key or process depends on."""

import msgspec

from clusterd.settings import Settings

NEEDS_RESTART = ("root", "conf", "cluster", "pool_size", "log_format")
NEEDS_RESTART_OWN = ("owner", "version", "caps", "tls", "store", "api", "framework")
"""Fields of Settings, and of its `clusterd`, that keep their value until a restart."""


def adopt(running: Settings, read: Settings) -> tuple[Settings, list[str]]:
    """Returns the new settings, and the names of settings that were changed in the files but need a restart: `<port>`
    of ossec.conf, `clusterd.owner` of cluster.json."""
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
    kept = {name: getattr(running, name) for name in (*NEEDS_RESTART, "serves_store", "framework_python")}
    level = read.log_level or running.log_level_asked
    adopted = msgspec.structs.replace(
        read, **kept, clusterd=own, log_level=level, log_level_asked=running.log_level_asked
    )
    return adopted, waiting

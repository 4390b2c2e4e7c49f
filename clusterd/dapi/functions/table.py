"""Every function that a request may name."""

from clusterd.dapi.functions import (
    agents,
    authentication,
    cluster,
    decoders,
    groups,
    lists,
    manager,
    rules,
    ruleset_files,
    stats,
)
from clusterd.dapi.registry import Registry

FUNCTIONS = Registry().join(
    agents.registry,
    authentication.registry,
    cluster.registry,
    decoders.registry,
    groups.registry,
    lists.registry,
    manager.registry,
    rules.registry,
    ruleset_files.registry,
    stats.registry,
)

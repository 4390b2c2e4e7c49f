"""Every function that a request may name."""

from clusterd.dapi.functions import (
    agents,
    authentication,
    cluster,
    decoders,
    group_members,
    groups,
    lists,
    manager,
    registrations,
    rules,
    ruleset_files,
    sca,
    stats,
    tokens,
)
from clusterd.dapi.protocol.registry import Registry

FUNCTIONS = Registry().join(
    *(
        module.registry
        for module in (
            agents,
            authentication,
            cluster,
            decoders,
            group_members,
            groups,
            lists,
            manager,
            registrations,
            rules,
            ruleset_files,
            sca,
            stats,
            tokens,
        )
    )
)

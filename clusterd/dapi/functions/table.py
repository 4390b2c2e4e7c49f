"""Every function that a request may name."""

from clusterd.dapi.functions import (
    agents,
    cluster,
    decoders,
    group_members,
    groups,
    lists,
    manager,
    rules,
    ruleset_files,
    sca,
    stats,
)
from clusterd.dapi.registry import Registry

FUNCTIONS = Registry().join(
    *(
        module.registry
        for module in (
            agents,
            cluster,
            decoders,
            group_members,
            groups,
            lists,
            manager,
            rules,
            ruleset_files,
            sca,
            stats,
        )
    )
)

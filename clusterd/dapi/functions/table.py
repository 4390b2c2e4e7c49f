"""Every function that a request may name."""

from clusterd.dapi.functions import agents, cluster, lists, ruleset_files
from clusterd.dapi.registry import Registry

FUNCTIONS = Registry().join(agents.registry, cluster.registry, lists.registry, ruleset_files.registry)

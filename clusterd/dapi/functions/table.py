"""Every function that a request may name."""

from clusterd.dapi.functions import agents, cluster
from clusterd.dapi.registry import Registry

FUNCTIONS = Registry().join(agents.registry, cluster.registry)

"""Every function that a request may name."""

from clusterd.dapi.functions import cluster
from clusterd.dapi.registry import Registry

FUNCTIONS = Registry().join(cluster.registry)

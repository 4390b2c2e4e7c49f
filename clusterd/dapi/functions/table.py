"""Every function that a request may name."""

from clusterd.dapi.registry import Registry

FUNCTIONS = Registry()

"""A framework as docs/protocol/framework.md describes the real one, and no more of it: what it is for is
tests/fakes/framework.py."""

__version__ = "4.14.1"

"""A framework as docs/protocol/framework.md describes the real one, with nothing more. tests/fakes/framework.py says
what it is for."""

__version__ = "4.14.1"

"""Where this installation is, and what the request that runs is allowed."""

import json
import os
from contextvars import ContextVar
from pathlib import Path

ROOT = next(path.parent for path in Path(__file__).parents if path.name == "framework")
BEHAVIOUR = ROOT / "framework" / "behaviour.json"
"""How a test wants the framework to fail; see tests/fakes/framework.py."""

rbac = ContextVar("rbac")
current_user = ContextVar("current_user", default="")


def behaviour(key):
    return json.loads(BEHAVIOUR.read_text()).get(key) if BEHAVIOUR.exists() else None


def exposed(function):
    """From 4.14.9 on functions that may be asked for over the cluster are marked."""
    if behaviour("marked"):
        function.__wazuh_exposed__ = True
    return function


def count(what):
    """Writes a line to ROOT/framework/calls: which function ran in which process."""
    with open(ROOT / "framework" / "calls", "a") as file:
        file.write(f"{what} {os.getpid()}\n")

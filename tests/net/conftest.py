"""Nodes that a test starts, and everything that they made, are gone when it ends."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clusterd.settings import Settings
from tests.net.harness import NetNode, master_settings, worker_settings
from tests.net.scripted_master import ScriptedMaster

Start = Callable[..., NetNode]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a node's net process: `start(settings_of)` returns when it is ready."""
    nodes: list[NetNode] = []

    def begin(settings_of: Callable[[str], Settings], **options: Any) -> NetNode:
        slabs = options.pop("slabs", (8, 4))
        node = NetNode(settings_of, slabs)
        nodes.append(node)
        return node.start(**options)

    yield begin
    for node in nodes:
        node.close()


@pytest.fixture
def master(start: Start) -> Callable[..., NetNode]:
    """Starts a master's net with changed settings."""

    def begin(**changes: Any) -> NetNode:
        options = {name: changes.pop(name) for name in ("slabs", "with_sync") if name in changes}
        return start(lambda root: master_settings(root, **changes), **options)

    return begin


@pytest.fixture
def worker(start: Start) -> Callable[..., NetNode]:
    """Starts a worker's net that connects to these nodes."""

    def begin(name: str, *nodes: str, **changes: Any) -> NetNode:
        options = {key: changes.pop(key) for key in ("slabs", "with_sync") if key in changes}
        return start(lambda root: worker_settings(root, name, nodes, **changes), **options)

    return begin


@pytest.fixture
def bosses() -> Iterator[list[ScriptedMaster]]:
    made = [ScriptedMaster(), ScriptedMaster()]
    yield made
    for one in made:
        one.close()

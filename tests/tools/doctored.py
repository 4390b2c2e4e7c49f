"""Nodes for the tests of `clusterd doctor`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterd.config.loading import load
from clusterd.settings import Settings
from tests.net.harness import CLUSTER, KEY
from tools.doctor.finding import Finding
from tools.init_node import init_node


def node(root: Path, **given: Any) -> Settings:
    """The settings of a new node."""
    wanted = {"node_type": "worker", "name": "w1", "cluster": CLUSTER, "port": None, "bind": "127.0.0.1"} | given
    key = KEY if isinstance(KEY, str) else KEY.decode()
    master = "127.0.0.1" if wanted["node_type"] == "worker" else None
    init_node(str(root), key_file=None, environment_key=key, master=master, **wanted)
    settings = load(str(root)).settings
    assert settings is not None
    return settings


def named(found: Iterator[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in found}

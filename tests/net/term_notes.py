"""Notes about terms, and nodes that have a role."""

import json
from collections.abc import Callable
from typing import Any

from clusterd.role import NodeRole, update_role
from tests.net.harness import NetNode
from tests.net.scripted_master import ScriptedMaster

Start = Callable[..., NetNode]


def given(role: NodeRole, settings_of: Callable[..., Any], *arguments: Any, **changes: Any) -> Callable[[str], Any]:
    """Settings of a node whose role is on disk."""

    def made(root: str) -> Any:
        update_role(root, lambda before: role)
        return settings_of(root, *arguments, **changes).with_role(role)

    return made


def note(**fields: Any) -> bytes:
    return json.dumps({"term": 3, "leads": True, "node": "m2", "master": "", "master_name": "m2"} | fields).encode()


def lead(boss: ScriptedMaster, **fields: Any) -> None:
    """Lets the named master be asked, and answer."""
    talker = boss.accept()
    asked = talker.read()
    assert asked.command == b"term"
    talker.respond(asked, "ok", note(**{"master": boss.node} | fields))

"""Readers ask, admins change: what each role may do at the REST API."""

import time
from typing import Any

import msgspec
import pytest

from clusterd.api.endpoint import OCTETS, Endpoint
from clusterd.api.table import ENDPOINTS
from clusterd.api.tokens import Tokens
from clusterd.dapi.protocol import policy
from tests.api.harness import SECRET, Door

VALUES = {"agent_id": "001", "filename": "a", "file_name": "agent.conf", "requirement": "tsc"}


def path_of(endpoint: Endpoint) -> str:
    """Fills the placeholders of the path with valid values."""
    path = endpoint.path
    for parameter in endpoint.parameters:
        if parameter.place == "path":
            value = VALUES.get(parameter.name, "web")
            if parameter.name == "filename" and endpoint.tag != "Lists":
                value = "a.xml"
            path = path.replace(f"{{{parameter.name}}}", value)
    return path


@pytest.fixture(scope="module")
def door() -> Door:
    made = Door()
    reader = msgspec.structs.replace(made.users["admin"], name="ann", role="reader")
    made.users = made.users | {"ann": reader}
    return made


def as_user(door: Door, name: str, endpoint: Endpoint, **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {Tokens(lambda: SECRET, 900).issue(door.users[name], time.time())}"}
    return door.send(endpoint.method, path_of(endpoint), headers=headers | options.pop("headers", {}), **options)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_a_reader_may_ask_and_change_nothing(door: Door, endpoint: Endpoint) -> None:
    door.node.asked.clear()
    body = {"headers": {"Content-Type": OCTETS}, "content": "x"} if endpoint.body is not None else {}
    answer = as_user(door, "ann", endpoint, **body)
    row = policy.find(endpoint.function.name)
    assert row is not None
    if endpoint.method == "GET" and not row.is_sensitive:
        assert answer.status_code != 403
        assert door.node.asked or answer.status_code == 400  # without a parameter that it must have
        return
    assert answer.status_code == 403
    assert answer.json()["error"] == 4000
    assert "ann has the role reader" in answer.json()["detail"]
    assert door.node.asked == []
    assert as_user(door, "admin", endpoint, **body).status_code != 403


def test_changes_and_keys_are_for_admins() -> None:
    guarded = {endpoint.name for endpoint in ENDPOINTS if endpoint.is_for_admins}
    assert {endpoint.name for endpoint in ENDPOINTS if endpoint.changes} <= guarded
    assert [name for name in guarded if name.startswith("get_")] in ([], ["get_agents_agent_id_key"])


def test_a_new_role_counts_for_tokens_that_are_out() -> None:
    door = Door()
    assert door.ask("DELETE", "/groups?groups_list=a").status_code == 200
    door.users = {"admin": msgspec.structs.replace(door.users["admin"], role="reader")}
    refused = door.ask("DELETE", "/groups?groups_list=a")
    assert refused.status_code == 403
    assert [text.split(" in ")[0] for level, text in door.said if level == "INFO"] == [
        "admin 192.0.2.7 DELETE /groups: 200",
        "admin 192.0.2.7 DELETE /groups: 403",
    ]
    assert door.get("/groups").status_code == 200

"""The recorded replies of a stock master and worker that net gives itself (tests/vectors/replies.json)."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.net.harness import NetNode, Talker

REPLIES = json.loads((Path(__file__).parent.parent / "vectors" / "replies.json").read_text())
OURS = {"hello", "echo", "echo-c", "echo-m", "nope", "ok", "syn_e_w_m_r", "dapi_clus"}
MASTER_CASES = [case for case in REPLIES["master"] if case["command"] in OURS]


def content(field: dict[str, str]) -> bytes:
    return base64.b64decode(field["b64"]) if "b64" in field else field["text"].encode()


def in_state(node: NetNode, state: str) -> Talker:
    """Returns a connection in the state that a case names."""
    if state == "another connection registered as spec1":
        node.join("spec1")
    if state.startswith("registered as "):
        return node.join(state.removeprefix("registered as "))
    if state == "registered on this same connection":
        return node.join("vec7")
    return node.connect()


@pytest.mark.parametrize("case", MASTER_CASES, ids=lambda case: f"{case['state']}: {case['command']}"[:60])
def test_a_recorded_reply_of_a_master_is_ours(master: Callable[..., NetNode], case: dict[str, Any]) -> None:
    node = master(node_name="specm")
    client = in_state(node, case["state"])
    answer = client.ask(case["command"], content(case["payload"]))
    expected = case["reply"]
    assert answer.command == expected["command_field"].split()[0].encode()
    assert answer.payload == content(expected["payload"])


def test_every_kind_of_case_is_covered() -> None:
    assert len(MASTER_CASES) >= 15

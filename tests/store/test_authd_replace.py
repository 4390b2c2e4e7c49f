"""When a registration replaces an old agent (wdb.md 8.4)."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from clusterd.agent_keys import Key
from clusterd.store.registry import AgentFacts, Registration
from tests.store.live_authd import Node, live_authd

HOUR = 3600
OLD = Key("001", "alpha", "10.0.0.1", "a" * 64)
SAME_KEY = "6ec678c9c129f41e91e0bc25adce5126393252ce"


def force(**changes: Any) -> dict[str, Any]:
    waited = {"disconnected_time": {"enabled": True, "value": "1h"}, "after_registration_time": "1h"}
    return {"enabled": True, "key_mismatch": True} | waited | changes


@pytest.mark.parametrize(
    ("status", "gone_s", "age_s", "arguments", "is_replaced"),
    [
        ("disconnected", 2 * HOUR, 2 * HOUR, {}, True),
        ("disconnected", HOUR - 60, 2 * HOUR, {}, False),
        ("disconnected", -HOUR, 2 * HOUR, {}, False),
        ("disconnected", None, 2 * HOUR, {}, False),
        ("active", None, 2 * HOUR, {}, False),
        ("pending", None, 2 * HOUR, {}, False),
        ("active", 2 * HOUR, 2 * HOUR, {}, True),
        ("never_connected", None, 2 * HOUR, {}, True),
        ("never_connected", None, HOUR - 60, {}, False),
        ("never_connected", None, 0, {"force": force(after_registration_time=0)}, True),
        ("never_connected", None, HOUR - 60, {"force": force(after_registration_time="30m")}, True),
        ("never_connected", None, HOUR - 60, {"force": force(after_registration_time="1d")}, False),
        ("never_connected", None, HOUR - 60, {"force": force(after_registration_time="1800s")}, True),
        ("disconnected", 60, 2 * HOUR, {"force": force(disconnected_time={"enabled": True, "value": 30})}, True),
        ("disconnected", 60, 2 * HOUR, {"force": force(disconnected_time={"enabled": True, "value": "90"})}, False),
        ("active", None, 2 * HOUR, {"force": force(disconnected_time={"enabled": False, "value": 0})}, True),
        ("disconnected", 2 * HOUR, 2 * HOUR, {"force": force(enabled=False)}, False),
        ("disconnected", 2 * HOUR, 2 * HOUR, {"key_hash": SAME_KEY}, False),
        ("disconnected", 2 * HOUR, 2 * HOUR, {"key_hash": SAME_KEY.upper()}, True),
        ("disconnected", 2 * HOUR, 2 * HOUR, {"key_hash": "0" * 40}, True),
        ("disconnected", 2 * HOUR, 2 * HOUR, {"key_hash": SAME_KEY, "force": force(key_mismatch=False)}, True),
        (None, None, 0, {}, False),
    ],
)
@pytest.mark.parametrize("by", ["name", "address", "id"])
def test_old_agent_is_replaced_only_if_all_rules_allow_it(
    by: str, status: str | None, gone_s: int | None, age_s: int, arguments: Any, is_replaced: bool, tmp_path: Path
) -> None:
    async def work(node: Node) -> None:
        now = int(time.time())
        node.path.write_text(OLD.line())
        if status is not None:
            node.table.agents[1] = Registration(1, OLD.name, OLD.ip, OLD.key, None, now - age_s)
            node.table.states[1] = AgentFacts(status, 0 if gone_s is None else now - gone_s, now - age_s)
        asked = {
            "name": ("alpha", "any", {}, 9008),
            "address": ("beta", "10.0.0.1", {}, 9007),
            "id": ("beta", "any", {"id": "001"}, 9012),
        }
        name, ip, chosen, refusal = asked[by]
        answer = await node.add(name, ip, **chosen, **arguments)
        assert answer["error"] == (0 if is_replaced else refusal)
        if is_replaced:
            assert answer["data"]["id"] == ("001" if by == "id" else "002")
            node.assert_even()
        else:
            assert node.keys == {"alpha": OLD}

    live_authd(tmp_path, work)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        {key: value for key, value in force().items() if key != "enabled"},
        {key: value for key, value in force().items() if key != "key_mismatch"},
        {key: value for key, value in force().items() if key != "after_registration_time"},
        {key: value for key, value in force().items() if key != "disconnected_time"},
        force(enabled="yes"),
        force(disconnected_time="1h"),
        force(disconnected_time={"enabled": True}),
        force(disconnected_time={"value": "1h"}),
        force(after_registration_time="1w"),
        force(after_registration_time=-1),
        force(after_registration_time="٣h"),
        force(after_registration_time=True),
    ],
)
def test_force_with_a_bad_member_is_refused(bad: Any, tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        assert await node.add("a", force=bad) == {"error": 9002, "message": "Parsing JSON input"}

    live_authd(tmp_path, work)


def test_key_hash_is_the_sha1_of_id_name_and_key() -> None:
    assert hashlib.sha1(b"001alpha" + b"a" * 64).hexdigest() == SAME_KEY

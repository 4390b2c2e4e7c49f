"""Logins of users that the framework knows: how long they may take, how many may fail."""

import asyncio
import json
from pathlib import Path

import pytest

from clusterd.errors import ClusterError
from tests.sync.framework_node import DENIED, FakePort, Node, ask, asked, code_of


def login(password: str, user: str = "ann") -> bytes:
    return asked("api.authentication:check_user_master", {"user": user, "password": password})


def verdict(result: object) -> bytes:
    fields = {"str_priority": None, "result": {"result": result}}
    return json.dumps({"__wazuh_result__": {"__class__": "WazuhResult", "__object__": fields}}).encode()


def test_a_login_may_take_as_long_as_a_busy_machine_needs_for_its_password(tmp_path: Path) -> None:
    port = FakePort(verdict(True))
    node = Node(tmp_path, port)
    ask(node, login("right"), "worker")
    ask(node, asked("wazuh.security:get_users"))
    ask(node, asked("api.authentication:check_user_master", {"user": "ann", "password": "x"}, api_timeout=90))
    ask(node, asked("api.authentication:check_user_master", {"user": "ann"}, wait_for_complete=True))
    assert [how["timeout_s"] for how in port.asked] == [60.0, 10.0, 90.0, 200.0]


def test_guesses_of_the_frameworks_passwords_are_limited(tmp_path: Path) -> None:
    port = FakePort(verdict(False))
    node = Node(tmp_path, port, login_attempts=3)

    async def story() -> None:
        for _ in range(3):
            assert await node.run(login("guess"), "worker", "w1") == json.loads(verdict(False))
        refusal = await node.run(login("guess"), "worker", "w1")
        assert code_of(refusal) == 6000
        assert refusal["__wazuh_exception__"]["__class__"] == "WazuhTooManyRequests"
        assert len(port.asked) == 3
        assert list(node.context.troubles.shown().values()) == [
            "Too many failed logins through w1, of one user or in all: refused for 300 s."
        ]
        assert await node.run(login("guess", "bob"), "worker", "w1") == json.loads(verdict(False))

    asyncio.run(story())


@pytest.mark.parametrize("answer", [verdict(True), DENIED, verdict("x"), b"{}", ClusterError(1000, "it died")])
def test_logins_that_are_right_or_were_not_looked_at_do_not_count(tmp_path: Path, answer: bytes | Exception) -> None:
    port = FakePort(answer)
    node = Node(tmp_path, port, login_attempts=3)
    for _ in range(10):
        ask(node, login("good"), "worker")
    assert len(port.asked) == 10

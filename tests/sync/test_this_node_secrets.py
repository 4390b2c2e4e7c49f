"""What the framework changes for the whole cluster: tokens, the cluster key, the audit."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.dapi.protocol.envelope import read_envelope
from clusterd.messages.base import INLINE_BYTES, Text
from clusterd.messages.journal import RequestEvent
from clusterd.messages.links import LinkInfo
from clusterd.settings import Secret
from clusterd.sync.links.peer import Peer
from clusterd.sync.requests.audit import Audit
from clusterd.sync.requests.masked import with_key, without_key
from clusterd.token_secret import load_secret
from tests.sync.framework_node import (
    DENIED,
    DM,
    DONE,
    KEY,
    LM,
    MASTER,
    WORKER,
    FakePort,
    Node,
    ask,
    asked,
    code_of,
    text_of,
)

REVOCATIONS = ["wazuh.core.security:revoke_tokens", "wazuh.security:wrapper_revoke_tokens"]


@pytest.mark.parametrize("name", REVOCATIONS)
@pytest.mark.parametrize(
    "permissions", [{"rbac_mode": "black"}, {"rbac_mode": "white", "security:revoke": {"*:*:*": "allow"}}]
)
def test_revoking_tokens_reaches_every_node(tmp_path: Path, name: str, permissions: dict[str, Any]) -> None:
    """Tokens are revoked also on nodes that the asker may not read."""
    port = FakePort()
    node = Node(tmp_path, port)
    answer = ask(node, asked(name, request_type=DM, rbac_permissions=permissions, broadcasting=True), "worker")
    assert answer == json.loads(DONE)
    assert sorted(node.given) == ["w1", "w2"]
    assert all(json.loads(given)["from_cluster"] for given in node.given.values())
    assert len(port.asked) == 1


@pytest.mark.parametrize("name", REVOCATIONS)
@pytest.mark.parametrize("role", [MASTER, WORKER])
@pytest.mark.parametrize("port", [None, FakePort(), FakePort(DENIED), FakePort(state="failed")])
def test_tokens_of_both_apis_are_revoked_or_none(tmp_path: Path, name: str, role: str, port: FakePort | None) -> None:
    """One answer for two revocations: it is good only if both are done."""
    (tmp_path / "etc").mkdir()
    secret = load_secret(str(tmp_path)).value
    node = Node(tmp_path, port, role)
    node.others.clear()
    answer = ask(
        node, asked(name, request_type=DM, from_cluster=role == WORKER), "master" if role == WORKER else "client"
    )
    is_done = "__wazuh_result__" in answer
    assert is_done == (port is None or (port.state == "ready" and port.answers(DONE)))
    assert (load_secret(str(tmp_path)).value != secret) == is_done
    if port is not None and is_done:
        assert answer == json.loads(DONE)


def test_what_the_framework_revoked_and_ours_could_not_has_failed(tmp_path: Path) -> None:
    (tmp_path / "etc/clusterd-api-token.key").mkdir(parents=True)
    port = FakePort()
    answer = ask(Node(tmp_path, port, WORKER), asked(REVOCATIONS[0], request_type=DM, from_cluster=True), "master")
    assert (code_of(answer), len(port.asked)) == (1000, 1)
    assert "cannot be replaced" in text_of(answer)


def test_a_node_that_did_not_revoke_them_is_reported(tmp_path: Path) -> None:
    node = Node(tmp_path, FakePort())
    node.others["w2"] = DENIED
    assert code_of(ask(node, asked(REVOCATIONS[0], request_type=DM, broadcasting=True))) == 4000


CONF = f"<cluster>\n<key>{KEY}</key>\n</cluster>"


def test_configurations_leave_without_the_cluster_key(tmp_path: Path) -> None:
    node = Node(tmp_path, None)
    for size in (0, 2 * INLINE_BYTES):
        content = json.dumps({"conf": CONF, "padding": "x" * size}).encode()
        for name, is_masked in (("wazuh.manager:read_ossec_conf", True), ("wazuh.agent:get_agents_keys", False)):
            answer = node.texts.write(content)
            shown = without_key(node.texts, read_envelope(asked(name)), answer, node.settings.cluster.key)
            read = node.texts.read(shown, 1 << 30)
            assert read == (content.replace(KEY.encode(), b"*****") if is_masked else content)
            node.texts.remove(shown)
            assert list(node.spool_dir.iterdir()) == []


def test_a_configuration_written_back_as_it_was_shown_keeps_the_key() -> None:
    shown, key = CONF.replace(KEY, "*****"), Secret(KEY.encode())
    for name, is_restored in (("wazuh.manager:update_ossec_conf", True), ("wazuh.rule:upload_rule_file", False)):
        content = asked(name, {"new_conf": shown}, DM)
        given = with_key(read_envelope(content), content, key)
        assert json.loads(given)["f_kwargs"]["new_conf"] == (CONF if is_restored else shown)


def test_changes_by_the_framework_are_in_the_audit(tmp_path: Path) -> None:
    node = Node(tmp_path, FakePort())
    events: list[Any] = []
    audit = Audit(cast(Any, node.log), "Master", events.append)
    info = LinkInfo(1, "worker", "w1")
    peer = cast(Peer, type("P", (), {"info": info, "name": "w1"})())

    def told(content: bytes) -> list[tuple[str, str]]:
        node.log.written.clear()

        async def work(envelope: Any) -> Text:
            return await node.runner.run(Text(content), envelope, "worker", "w1")

        asyncio.run(_as_coroutine(audit.audited(peer, content, work)(read_envelope(content))))
        return [(level, text) for level, _, subtag, text in node.log.written if subtag == "API audit"]

    ((level, text),) = told(
        asked("wazuh.security:create_user", {"username": "x", "password": "secret"}, current_user="ann")
    )
    assert level == "INFO"
    assert text == "create_user (username \"x\"), user 'ann', asked by worker w1: done."
    ((level, text),) = told(asked("wazuh.security:get_users"))
    assert level == "DEBUG2"
    ((level, text),) = told(asked("wazuh.manager:read_ossec_conf", request_type=LM))
    assert (level, text) == ("INFO", "read_ossec_conf asked by worker w1: refused with 4000.")
    # The journal gets those at INFO: who, what, and the outcome, but no argument that may be secret.
    assert events == [
        RequestEvent(
            function="create_user", about='username "x"', user="ann", through="worker w1", result="done", why="done"
        ),
        RequestEvent(function="read_ossec_conf", through="worker w1", result="refused", why="refused with 4000"),
    ]


async def _as_coroutine(work: Any) -> Any:
    return await work

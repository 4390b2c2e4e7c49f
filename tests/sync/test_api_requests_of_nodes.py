"""Requests of the API that other nodes send to a master: what they may ask, and how each gets its answer
(docs/protocol/dapi.md 1.3, 3.2, 3.3)."""

from pathlib import Path
from typing import Any

import pytest

from clusterd.messages.links import LinkInfo, TaskNote
from tests.sync.scripted_node import PROGRAM, WORKER, Node, code_in, on, turns
from tests.sync.test_api_requests import NODES, QUEUED, refusal, request

UPLOAD = request("upload_rule_file", "wazuh.rule", f_kwargs={"filename": "planted.xml", "content": "<group/>"})
KEYS = request("get_agents_keys", "wazuh.agent")


def test_request_of_a_worker_is_a_task_until_its_answer_is_given(tmp_path: Path) -> None:
    """The next sync process then knows which asker to tell (wire.md 4.5)."""
    node = Node(tmp_path, "master", pool=True)

    def notes() -> list[tuple[str, str, bool]]:
        return [(sent.command, sent.task_id, sent.open) for sent in node.sent if isinstance(sent, TaskNote)]

    async def story() -> None:
        await node.up(WORKER)
        first = await node.reply(await node.ask(WORKER, "dapi", b"77 " + NODES))
        assert (first.payload, first.more) == (QUEUED, False)
        answer = await node.string(WORKER.link, "dapi_res")
        assert (answer.word, notes()) == ("77", [("dapi_err", "77", True)])
        await node.says(answer)
        await node.until(lambda: len(notes()) == 2)
        assert notes()[1] == ("dapi_err", "77", False)

    on(node, story())


@pytest.mark.parametrize("bad", [b"{}", b"[]", b"{", b"\xff", b'{"f": 1}'])
def test_what_is_no_request_is_refused_and_logged_once_a_second(tmp_path: Path, bad: bytes) -> None:
    node = Node(tmp_path, "master")

    def said() -> int:
        return sum("Error in distributed API" in line[3] for line in node.log.written)

    async def story() -> None:
        await node.up(WORKER)
        for number in range(5):
            assert (await node.reply(await node.ask(WORKER, "dapi", f"{number} ".encode() + bad))).payload == QUEUED
        errors = [await node.request(WORKER.link, "dapi_err")]
        assert errors[0].payload.startswith(b"0 ")
        assert code_in(errors[0].payload.partition(b" ")[2]) == 1000
        await turns()
        assert (node.asked(WORKER.link), said()) == (["dapi_err"] * 5, 1)
        node.clock.move(1.0)
        await node.ask(WORKER, "dapi", b"9 " + bad)
        await turns()
        assert said() == 2

    on(node, story())


@pytest.mark.parametrize("caps", [("answer",), ("digest",)])
def test_small_answer_is_the_response_where_that_was_offered(tmp_path: Path, caps: tuple[str, ...]) -> None:
    node = Node(tmp_path, "master", caps=caps, pool=True)

    async def story() -> None:
        await node.up(WORKER)
        told = await node.reply(await node.ask(WORKER, "dapi_now", b"77 " + NODES))
        if "answer" in caps:
            assert told.command == "ok"
            assert told.payload.startswith(b'={"__wazuh_result__"')
            assert not any(isinstance(sent, TaskNote) for sent in node.sent)
        else:
            assert told.command == "err"
            assert b"unknown command" in told.payload

    on(node, story())


@pytest.mark.parametrize(("allowed", "reads"), [("read", True), ("off", False)])
def test_a_master_decides_what_its_workers_may_ask(tmp_path: Path, allowed: str, reads: bool) -> None:
    node = Node(tmp_path, "master", pool=True, worker_api=allowed)

    async def answer(number: int, content: bytes) -> bytes:
        await node.ask(WORKER, "dapi", f"{number} ".encode() + content)
        found = await node.find(lambda sent: getattr(sent, "word", None) == str(number))
        text: bytes = found.content  # type: ignore[union-attr]
        return text

    async def story() -> None:
        await node.up(WORKER)
        await node.up(PROGRAM)
        for number, content in enumerate((UPLOAD, KEYS)):
            code, text = refusal(await answer(number, content))
            assert code == 4000
            assert f"worker_api is {allowed}" in text
        assert (b"__wazuh_exception__" not in await answer(7, NODES)) is reads
        # The setting affects neither the master's own programs nor requests about a worker itself.
        await node.ask(PROGRAM, "dapi", request("get_agents_keys", "wazuh.agent"))
        assert b"worker_api" not in (await node.string(PROGRAM.link, "dapi_res")).content

    on(node, story())
    audit = [text for _, _, where, text in node.log.written if where == "API audit"]
    assert sum("refused with 4000" in line for line in audit) == (2 if reads else 3)
    assert 'upload_rule_file (filename "planted.xml")' in audit[0]
    assert "asked by worker w1" in audit[0]


@pytest.mark.parametrize("setting", ["allow", "deny"])
def test_a_request_that_states_no_permissions_is_one_for_everything_or_refused(tmp_path: Path, setting: str) -> None:
    node = Node(tmp_path, "master", pool=True, missing_permissions=setting)

    async def is_refused(info: LinkInfo, number: int, **fields: Any) -> bool:
        content = request("get_nodes_info", basic_services=["wazuh-clusterd"], **fields)
        if info is PROGRAM:
            await node.ask(info, "dapi", content)
            answer = (await node.string(info.link, "dapi_res")).content
        else:
            await node.ask(info, "dapi", f"{number} ".encode() + content)
            answer = (await node.find(lambda sent: getattr(sent, "word", None) == str(number))).content  # type: ignore[union-attr]
        if b"__wazuh_exception__" not in answer:
            return False
        code, text = refusal(answer)
        return code == 4000 and "missing_permissions is deny" in text

    async def story() -> None:
        await node.up(WORKER)
        await node.up(PROGRAM)
        for number, info in enumerate((PROGRAM, WORKER)):
            assert not await is_refused(info, 10 + number, rbac_permissions={"rbac_mode": "black"})
            node.sent.clear()
            assert await is_refused(info, 20 + number) == (setting == "deny")
            node.sent.clear()
            assert await is_refused(info, 30 + number, rbac_permissions=None) == (setting == "deny")
            node.sent.clear()

    on(node, story())


def test_who_adds_an_agent_is_an_event_with_its_name_and_without_its_key(tmp_path: Path) -> None:
    node = Node(tmp_path, "master", pool=True)
    secret = "0123456789abcdef" * 4
    given = {"name": "web-01", "key": secret, "agent_id": "007"}

    async def story() -> None:
        await node.up(PROGRAM)
        await node.ask(PROGRAM, "dapi", request("add_agent", "wazuh.agent", f_kwargs=given))
        assert b"1013" in (await node.string(PROGRAM.link, "dapi_res")).content  # nobody serves authd's socket here

    on(node, story())
    (line,) = [text for level, _, where, text in node.log.written if where == "API audit" and level == "INFO"]
    assert line.startswith('add_agent (agent_id "007", name "web-01") asked by a local program')
    assert line.endswith("refused with 1013.")
    assert not any(secret in str(written) for written in node.log.written)

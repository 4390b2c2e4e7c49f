"""Requests of the API on their way: which node is asked, whose answer counts, what each asker gets
(docs/protocol/dapi.md 1.3, 3.2, 3.3)."""

import asyncio
import contextlib
import gc
import json
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.dapi.protocol.envelope import Envelope, read_envelope
from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.messages.journal import RequestEvent
from clusterd.messages.links import LinkDown, LinkInfo, TaskNote, Unanswered
from clusterd.sync.requests.api import ApiRequests
from clusterd.sync.requests.audit import Audit
from clusterd.wire.results import encode_failure
from tests.sync.scripted_node import MASTER, PROGRAM, STRANGER, WORKER, Node, code_in, on, turns

OTHER = LinkInfo(2, "worker", "w2")
QUEUED, FORWARDED = b"Added request to API requests queue", b"Request forwarded to worker node"
ANSWER = b'{"__wazuh_result__": {"__class__": "WazuhResult", "__object__": {"result": "x"}}}'


def request(name: str, module: str = "wazuh.cluster", **fields: Any) -> bytes:
    found = {"__callable__": {"__name__": name, "__module__": module, "__qualname__": name, "__type__": "function"}}
    return json.dumps({"f": found, "f_kwargs": {}} | fields).encode()


NODES = request("get_nodes_info")


def refusal(content: bytes) -> tuple[int, str]:
    """Returns code and whole text of an answer that is an exception."""
    return code_in(content), content.decode()


async def gives(node: Node, info: LinkInfo, name: str, content: bytes) -> bytes:
    """Another node sends its answer: a long string, then `dapi_res`. Returns the response to that."""
    opened = await node.reply(await node.ask(info, "new_str", str(len(content)).encode()))
    await node.reply(await node.ask(info, "str_upd", opened.payload + b" " + content))
    told = await node.reply(await node.ask(info, "dapi_res", name.encode() + b" " + opened.payload))
    return told.payload if told.command == "ok" else str(code_in(told.payload)).encode()


# ---- programs --------------------------------------------------------------------------------------------------------


def test_program_of_a_master_is_answered_by_it(tmp_path: Path) -> None:
    node = Node(tmp_path, "master", pool=True)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        first = await node.reply(await node.ask(PROGRAM, "dapi", NODES))
        assert (first.payload, first.more) == (QUEUED, True)
        answer = await node.string(PROGRAM.link, "dapi_res")
        items = json.loads(answer.content)["__wazuh_result__"]["__object__"]["affected_items"]
        assert [item["name"] for item in items] == ["m", "w1"]
        assert answer.word == ""
        assert node.asked(WORKER.link) == []

    on(node, story())


def test_question_about_a_worker_itself_is_not_for_its_master(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", pool=True)

    async def story() -> None:
        await node.up(PROGRAM)
        first = await node.reply(await node.ask(PROGRAM, "dapi", request("get_node_wrapper", request_type="local_any")))
        assert first.payload == QUEUED
        assert b'"node": "w1"' in (await node.string(PROGRAM.link, "dapi_res")).content

    on(node, story())


async def passed_on(node: Node) -> str:
    """A program of a worker sends a request. Returns the id under which the master has it."""
    await node.up(PROGRAM)
    await node.up(MASTER)
    first = await node.reply(await node.ask(PROGRAM, "dapi", NODES))
    assert (first.payload, first.more) == (QUEUED, True)
    given = await node.request(MASTER.link, "dapi")
    name, _, content = given.payload.partition(b" ")
    assert content == NODES
    await node.says(given, QUEUED)
    return name.decode()


def test_program_of_a_worker_gets_its_masters_answer_unchanged(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=(), pool=True)

    async def story() -> None:
        name = await passed_on(node)
        assert await gives(node, MASTER, name, ANSWER) == b"Response forwarded to worker"
        assert (await node.string(PROGRAM.link, "dapi_res")).content == ANSWER
        assert await gives(node, MASTER, name, b"another") == b"Response forwarded to worker", "a worker stays friendly"
        await turns()
        assert sum(getattr(sent, "command", "") == "dapi_res" for sent in node.sent) == 1

    on(node, story())


@pytest.mark.parametrize("how", ["refused", "lost", "cut while it was asked"])
def test_program_of_a_worker_hears_why_there_is_no_answer(tmp_path: Path, how: str) -> None:
    node = Node(tmp_path, "worker", caps=(), pool=True)

    async def story() -> None:
        if how == "cut while it was asked":
            await node.up(PROGRAM)
            await node.up(MASTER)
            await node.ask(PROGRAM, "dapi", NODES)
            await node.core.handle(Unanswered((await node.request(MASTER.link, "dapi")).id, "closed"))
        else:
            name = await passed_on(node)
            if how == "lost":
                await node.core.handle(LinkDown(MASTER.link, "it ended"))
            else:
                failure = encode_failure(ClusterError(3034, "gone"))
                told = await node.reply(await node.ask(MASTER, "dapi_err", name.encode() + b" " + failure))
                assert told.command == "ok"
        code = code_in((await node.request(PROGRAM.link, "dapi_err")).payload)
        assert code == (3034 if how == "refused" else 3023)

    on(node, story())


# ---- whose answer counts ---------------------------------------------------------------------------------------------


def test_only_the_node_that_has_a_request_may_answer_it_and_once(tmp_path: Path) -> None:
    """docs/protocol/dapi.md 8, number 21."""
    node = Node(tmp_path, "master", pool=True)

    async def story() -> None:
        for info in (PROGRAM, WORKER, OTHER):
            await node.up(info)
        first = await node.reply(await node.ask(PROGRAM, "dapi_fwd", b"w1 " + NODES))
        assert first.payload == FORWARDED
        given = await node.request(WORKER.link, "dapi")
        await node.says(given, QUEUED)
        name = given.payload.partition(b" ")[0].decode()
        error = encode_failure(ClusterError(1000, "forged"))
        assert await gives(node, OTHER, name, b"forged") == b"3032"
        forged = await node.reply(await node.ask(OTHER, "dapi_err", name.encode() + b" " + error))
        assert (forged.command, code_in(forged.payload)) == ("err", 3032)
        assert await gives(node, WORKER, name + "1", b"of nothing") == b"3032"
        await turns()
        assert node.asked(PROGRAM.link) == []
        assert await gives(node, WORKER, name, ANSWER) == b"Forwarded response"
        assert (await node.string(PROGRAM.link, "dapi_res")).content == ANSWER
        assert await gives(node, WORKER, name, b"again") == b"3032"

    on(node, story())


def test_worker_that_a_program_asks_to_reload_is_asked_after_the_master_has_seen_its_files(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        looking, may_end = asyncio.Event(), asyncio.Event()

        async def scan(*, fresh: bool) -> None:
            looking.set()
            await may_end.wait()

        node.context.manifests.scan = scan  # type: ignore[assignment,method-assign]
        reload = request("reload_ruleset", "wazuh.analysis", request_type="distributed_master", from_cluster=True)
        await node.ask(PROGRAM, "dapi_fwd", b"w1 " + reload)
        await node.until(lambda: looking.is_set() or bool(node.asked(WORKER.link)))
        await turns()
        assert node.asked(WORKER.link) == []
        may_end.set()
        await node.request(WORKER.link, "dapi")

    on(node, story())


@pytest.mark.parametrize(("info", "payload", "code"), [(STRANGER, b"w1 {}", 4000), (PROGRAM, b"nobody {}", 3022)])
def test_forwarding_is_for_privileged_programs_and_nodes_that_are_there(
    tmp_path: Path, info: LinkInfo, payload: bytes, code: int
) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(info)
        await node.up(WORKER)
        refused = await node.reply(await node.ask(info, "dapi_fwd", payload))
        assert (refused.command, code_in(refused.payload)) == ("err", code)
        assert node.asked(WORKER.link) == []

    on(node, story())


def test_program_that_hangs_up_before_its_answer_leaves_nothing_behind(tmp_path: Path) -> None:
    """A dashboard that waits for less long than an answer takes does so every few seconds, for years."""
    node = Node(tmp_path, "master", pool=True)
    api: ApiRequests = node.side._both._api
    carried_out = api._runner.run

    async def story() -> None:
        await node.up(PROGRAM)
        is_gone = asyncio.Event()

        async def slow(*request: Any) -> Text:
            await is_gone.wait()
            return await carried_out(*request)

        api._runner.run = slow  # type: ignore[method-assign]
        await node.reply(await node.ask(PROGRAM, "dapi", NODES))
        await node.core.handle(LinkDown(PROGRAM.link, ""))
        is_gone.set()
        given = await node.string(PROGRAM.link, "dapi_res")
        await node.core.handle(Unanswered(given.id, "closed"))
        await node.until(lambda: not api.giving)
        gc.collect()
        assert not api._askers

    on(node, story())


@pytest.mark.parametrize("is_taken", [True, False])
def test_large_answer_that_came_when_its_asker_gave_up_is_removed(tmp_path: Path, is_taken: bool) -> None:
    node = Node(tmp_path, "master")
    forwarder = node.side._both._api._forwarder

    async def story() -> None:
        asking = asyncio.create_task(forwarder.ask(await node.up(WORKER), Text(NODES), None))
        await node.says(await node.request(WORKER.link, "dapi"), QUEUED)
        await turns()
        (asked,) = forwarder._asked.values()
        path = node.context.spool.create("string")
        asked.answer.set_result(Text(b"", path, 9))
        if is_taken:
            assert (await asking).path == path
        else:
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert Path(path).exists() == is_taken

    on(node, story())


def test_large_answer_that_is_taken_while_its_asker_gives_up_is_removed(tmp_path: Path) -> None:
    """The worker was too slow, and its answer is just being read from the link."""
    node = Node(tmp_path, "master")
    forwarder = node.side._both._api._forwarder

    async def story() -> None:
        peer = await node.up(WORKER)
        asking = asyncio.create_task(forwarder.ask(peer, Text(NODES), 0.001))
        given = await node.request(WORKER.link, "dapi")
        taken, path = asyncio.Event(), node.context.spool.create("string")

        async def take(*_: Any) -> Text:
            await taken.wait()
            return Text(b"", path, 9)

        forwarder._take = take
        answering = asyncio.create_task(forwarder.answered(peer, given.payload.partition(b" ")[0] + b" 1"))
        await turns()
        await node.says(given, QUEUED)
        with pytest.raises(ClusterError, match="did not answer"):
            await asking
        taken.set()
        await answering
        assert not Path(path).exists()

    on(node, story())


@pytest.mark.parametrize(
    ("answer", "result", "why"),
    [
        (ANSWER, "done", "done"),
        (encode_failure(ClusterError(4000)), "refused", "refused with 4000"),
        (encode_failure(ClusterError(1000)), "failed", "failed with 1000"),
        (encode_failure(ClusterError(3021)), "failed", "failed with 3021, it may have been done"),
        (None, "failed", "broken off, it may have been done"),
    ],
)
def test_journal_says_of_no_request_that_it_was_done_when_nobody_knows(
    tmp_path: Path, answer: bytes | None, result: str, why: str
) -> None:
    told: list[RequestEvent] = []
    node = Node(tmp_path, "master")
    content = request("create_group", "wazuh.agent", f_kwargs={"group_id": "web"})

    async def work(_: Envelope) -> Text:
        if answer is None:
            raise asyncio.CancelledError
        return Text(answer)

    async def story() -> None:
        audit = Audit(cast(Any, node.log), "Master", cast(Any, told.append))
        with contextlib.suppress(asyncio.CancelledError):
            await audit.audited(await node.up(PROGRAM), content, work)(read_envelope(content))

    on(node, story())
    assert [(event.function, event.result, event.why) for event in told] == [("create_group", result, why)]


# ---- requests of other nodes -----------------------------------------------------------------------------------------


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


UPLOAD = request("upload_rule_file", "wazuh.rule", f_kwargs={"filename": "planted.xml", "content": "<group/>"})
KEYS = request("get_agents_keys", "wazuh.agent")


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

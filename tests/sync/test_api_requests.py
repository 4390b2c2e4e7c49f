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
from clusterd.messages.links import LinkDown, LinkInfo, Unanswered
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

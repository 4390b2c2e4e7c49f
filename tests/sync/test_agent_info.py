"""Reports of agents, both sides on scripted ports: no agent counts as reported before the master has it (wire.md 4.9,
6.1, 6.2)."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.messages.links import Request
from clusterd.role import NodeRole, update_role
from clusterd.sync.agents import info
from clusterd.sync.agents.info import MERGES_AT_ONCE, REPORT
from clusterd.wdb.client import DatabaseError, MergeResult, Taken
from clusterd.wire.payloads import BatchResult, build_batch_result
from tests.sync.scripted_node import MASTER, WORKER, Node, on, turns

ROWS = b'{"syncreq": [{"id": 1, "name": "a"}]}'
WRITTEN = BatchResult(1, [], 0.1)


class Agents:
    """clusterd's own database. `taken`: the rows that it has to report. `fails`: what it raises instead of merging."""

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.there = True
        self.confirmed: list[int] = []
        self.again: list[str] = []
        self.merged: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.result: MergeResult | Exception = MergeResult(merged=1)

    def is_there(self) -> bool:
        return self.there

    async def is_ours(self) -> bool:
        return True

    async def take(self, out: str, limit: int, *, moments: bool) -> Taken:
        Path(out).write_bytes(ROWS)
        return self.taken

    async def report_again(self, key: str) -> int:
        self.again.append(key)
        return 3

    async def confirm(self, batch: int) -> None:
        self.confirmed.append(batch)

    async def merge_ours(self, path: str, size: int, timeout_s: float, **_: Any) -> MergeResult:
        self.merged.append(Path(path).read_bytes().decode())
        await self.gate.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def close(self) -> None:
        pass


def of(root: Path, role: str, taken: Taken | None = None, caps: tuple[str, ...] = ()) -> tuple[Node, Agents]:
    """There are no capabilities, as beside a stock node. A worker reports again and again without a pause, and checks
    no files."""
    node = Node(root, role, caps=caps, pool=True)
    agents = Agents(taken or Taken(len(ROWS), False, agents=1, batch=7))
    node.context.database = cast(Any, agents)
    settings = node.context.settings
    quick = msgspec.structs.replace(settings.worker, sync_agent_info_s=0.01, sync_integrity_s=3600.0)
    node.context.settings = msgspec.structs.replace(settings, worker=quick)
    return node, agents


# ---- a worker --------------------------------------------------------------------------------------------------------


async def reported(node: Node) -> None:
    """Waits until the master has the rows, and has said so."""
    await node.says(await node.request(MASTER.link, "syn_a_w_m_p"), b"True")
    await node.says(await node.request(MASTER.link, "new_str"), b"55")
    told = await node.request(MASTER.link, "str_upd")
    content = json.loads(told.payload.removeprefix(b"55 "))
    assert content == {
        "set_data_command": "global sync-agent-info-set", "payload": {}, "chunks": json.loads(ROWS)
    }  # fmt: skip
    await node.says(told)
    begun = await node.request(MASTER.link, "syn_a_w_m")
    assert begun.payload == b"55"
    await node.says(begun, b"55")


async def ended(node: Node) -> None:
    """Waits for the next round: the worker asks for permission once more."""
    await node.until(lambda: node.asked(MASTER.link).count("syn_a_w_m_p") == 2)


@pytest.mark.parametrize(
    ("command", "result", "confirmed", "shown"),
    [
        ("syn_m_a_e", WRITTEN, [7], "synced"),
        ("syn_m_a_e", BatchResult(1, ["one of them"], 0.1), [7], "partly"),
        ("syn_m_a_e", BatchResult(0, ["nothing"], 0.1), [], "failed"),
        ("syn_m_a_e", BatchResult(0, [], 0.1), [], "failed"),
        ("syn_m_a_err", "it could not", [], "failed"),
    ],
)
def test_agents_count_as_reported_when_the_master_has_written_them(
    tmp_path: Path, command: str, result: BatchResult | str, confirmed: list[int], shown: str
) -> None:
    node, agents = of(tmp_path, "worker")
    payload = result.encode() if isinstance(result, str) else build_batch_result(result)

    async def story() -> None:
        await node.up(MASTER)
        await reported(node)
        await turns()
        assert agents.confirmed == [], "the master has not said anything yet"
        assert (await node.reply(await node.ask(MASTER, command, payload))).payload == b"Thanks"
        await ended(node)
        assert agents.confirmed == confirmed
        own = node.side._info.last
        assert own.result == shown
        assert (own.reported_at is not None, own.agents) == (bool(confirmed), len(confirmed))

    on(node, story())


def test_result_that_comes_late_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow master would be sent the same agents again and again otherwise, by all workers."""
    monkeypatch.setattr(info, "awake_timeout", lambda seconds: asyncio.timeout(0))
    node, agents = of(tmp_path, "worker")

    async def story() -> None:
        await node.up(MASTER)
        await reported(node)
        await ended(node)
        assert (agents.confirmed, node.side._info.last.result) == ([], "failed")
        await node.reply(await node.ask(MASTER, "syn_m_a_e", build_batch_result(WRITTEN)))
        await node.until(lambda: agents.confirmed == [7])
        await node.reply(await node.ask(MASTER, "syn_m_a_e", build_batch_result(WRITTEN)))
        await turns()
        assert agents.confirmed == [7]

    on(node, story())


def test_nothing_to_report_sends_nothing_and_no_trouble_is_left(tmp_path: Path) -> None:
    node, _ = of(tmp_path, "worker", Taken(2, True))
    node.context.troubles.begin(REPORT, "No space left on device")

    async def story() -> None:
        await node.up(MASTER)
        await node.says(await node.request(MASTER.link, "syn_a_w_m_p"), b"True")
        await ended(node)
        assert set(node.asked(MASTER.link)) == {"syn_a_w_m_p"}
        assert node.side._info.last.result == "equal"
        assert node.context.troubles.shown() == {}

    on(node, story())


@pytest.mark.parametrize("caps", [("term",), ()])
def test_the_master_of_a_new_term_hears_of_all_agents_again(tmp_path: Path, caps: tuple[str, ...]) -> None:
    node, agents = of(tmp_path, "worker", caps=caps)
    update_role(str(tmp_path), lambda before: NodeRole(3, master="a:1", master_name="two"))

    async def story() -> None:
        await node.up(MASTER)
        if caps:
            await node.says(await node.request(MASTER.link, "caps"), b'["term"]')
        for count in range(1, 4):
            await node.until(lambda count=count: node.asked(MASTER.link).count("syn_a_w_m_p") == count)  # type: ignore[misc]
            asked = [one for one in node.sent if isinstance(one, Request) and one.command == "syn_a_w_m_p"]
            await node.says(asked[-1], b"False")
            if count == 2:
                update_role(str(tmp_path), lambda before: NodeRole(5, master="b:1", master_name="three"))
        assert agents.again == (["3 two", "5 three"] if caps else [])
        told = [text for level, _, subtag, text in node.log.written if subtag == "Agent-info guard"]
        assert told == [
            f"The master of term {key} has not heard of 3 agents: they are reported again." for key in agents.again
        ]

    on(node, story())


@pytest.mark.parametrize("answer", [b"False", b"", b"true"])
def test_without_permission_nothing_is_taken_out_of_the_database(tmp_path: Path, answer: bytes) -> None:
    """A stock database clears its marks when it is asked for the rows."""
    node, _ = of(tmp_path, "worker")

    async def story() -> None:
        await node.up(MASTER)
        await node.says(await node.request(MASTER.link, "syn_a_w_m_p"), answer)
        await ended(node)
        assert set(node.asked(MASTER.link)) == {"syn_a_w_m_p"}

    on(node, story())
    assert not any(text == "Starting." for _, _, _, text in node.log.written)


def test_without_a_database_no_permission_is_asked_for_and_it_is_logged_once(tmp_path: Path) -> None:
    node, agents = of(tmp_path, "worker")
    agents.there = False

    async def story() -> None:
        await node.up(MASTER)
        await node.until(lambda: node.side._info.last.result == "failed")
        first = node.side._info.last.at
        node.clock.move(0.5)
        await node.until(lambda: node.side._info.last.at != first)
        assert "syn_a_w_m_p" not in node.asked(MASTER.link)

    on(node, story())
    said = [text for level, _, _, text in node.log.written if level == "ERROR"]
    assert sum("Could not obtain data from wazuh-db" in text for text in said) == 1


# ---- a master --------------------------------------------------------------------------------------------------------

STRING = b'{"set_data_command": "global sync-agent-info-set", "payload": {}, "chunks": ' + ROWS + b"}"


async def string(node: Node, content: bytes = STRING) -> bytes:
    opened = await node.reply(await node.ask(WORKER, "new_str", str(len(content)).encode()))
    await node.reply(await node.ask(WORKER, "str_upd", opened.payload + b" " + content))
    return opened.payload


async def permission(node: Node) -> bytes:
    return (await node.reply(await node.ask(WORKER, "syn_a_w_m_p"))).payload


async def outcome(node: Node, name: bytes) -> Request:
    """Returns what the worker hears of its string."""
    assert (await node.reply(await node.ask(WORKER, "syn_a_w_m", name))).payload == name
    return cast(Request, await node.find(lambda sent: getattr(sent, "command", "")[:8] == "syn_m_a_"))


def test_report_is_written_and_confirmed_to_the_worker(tmp_path: Path) -> None:
    node, agents = of(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        assert await permission(node) == b"True"
        told = await outcome(node, await string(node))
        assert told.command == "syn_m_a_e"
        assert json.loads(told.payload)["updated_chunks"] == 1
        assert json.loads(agents.merged[0]) == json.loads(ROWS)
        assert await permission(node) == b"False", "the report is not over before the worker knows"
        await node.says(told, b"Thanks")
        await turns()
        assert await permission(node) == b"True"

    on(node, story())


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (DatabaseError(2014), "Timeout while processing agent-info chunks."),
        (DatabaseError(2012, "full"), "Error while processing agent-info chunks: "),
    ],
)
def test_report_that_could_not_be_written_is_reported_as_failed(tmp_path: Path, failure: Exception, text: str) -> None:
    """C13: otherwise the worker would count its agents as reported."""
    node, agents = of(tmp_path, "master")
    agents.result = failure

    async def story() -> None:
        await node.up(WORKER)
        told = json.loads((await outcome(node, await string(node))).payload)
        assert told["updated_chunks"] == 0
        assert len(told["error_messages"]) == 1
        assert told["error_messages"][0].startswith(text)

    on(node, story())


def test_worker_that_has_heard_the_result_is_told_no_second_one(tmp_path: Path) -> None:
    """It would take that for the result of its next report."""
    node, _ = of(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        told = await outcome(node, await string(node))
        await node.says(told, b"busy", "err")
        await turns()
        assert await permission(node) == b"True"
        assert node.asked(WORKER.link) == ["syn_m_a_e"]

    on(node, story())


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_unusable_string_is_reported_as_such(tmp_path: Path, content: bytes) -> None:
    node, agents = of(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        told = await outcome(node, await string(node, content))
        assert told.command == "syn_m_a_err"
        assert agents.merged == []

    on(node, story())


def test_no_worker_may_report_while_the_database_is_away(tmp_path: Path) -> None:
    """Otherwise a stock worker would clear its marks, although nothing was stored."""
    node, agents = of(tmp_path, "master")
    agents.there = False

    async def story() -> None:
        await node.up(WORKER)
        assert [await permission(node) for _ in range(3)] == [b"False"] * 3
        agents.there = True
        assert await permission(node) == b"True"

    on(node, story())
    guard = [(level, text) for level, _, where, text in node.log.written if where == "Agent-info guard"]
    assert [level for level, _ in guard] == ["ERROR", "INFO"]


def test_third_report_of_a_worker_at_a_time_is_refused(tmp_path: Path) -> None:
    node, agents = of(tmp_path, "master")
    agents.gate.clear()

    async def story() -> None:
        await node.up(WORKER)
        names = [await string(node) for _ in range(3)]
        answers = [await node.reply(await node.ask(WORKER, "syn_a_w_m", name)) for name in names]
        assert [answer.command for answer in answers] == ["ok", "ok", "err"]
        agents.gate.set()

    on(node, story())


def test_reports_of_many_workers_are_written_a_few_at_a_time(tmp_path: Path) -> None:
    """All at once, none of 50 would be written before its time is over, and then all come again."""
    node, agents = of(tmp_path, "master")
    agents.gate.clear()
    workers = [msgspec.structs.replace(WORKER, link=WORKER.link + n, name=f"worker{n}") for n in range(6)]

    async def story() -> None:
        for worker in workers:
            await node.up(worker)
            opened = await node.reply(await node.ask(worker, "new_str", str(len(STRING)).encode()))
            await node.reply(await node.ask(worker, "str_upd", opened.payload + b" " + STRING))
            await node.reply(await node.ask(worker, "syn_a_w_m", opened.payload))
        await node.until(lambda: len(agents.merged) == MERGES_AT_ONCE)
        await turns()
        assert len(agents.merged) == MERGES_AT_ONCE
        agents.gate.set()
        await node.until(lambda: len(agents.merged) == len(workers))

    on(node, story())

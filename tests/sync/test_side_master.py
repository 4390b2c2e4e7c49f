"""A master's side of sync, on ports that only the test reads: workers come and go, workers and programs ask."""

import json
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.messages.bodies import OpenBody, Opened
from clusterd.messages.links import LinkDown, PeerRequest
from clusterd.messages.packages import CompareBuckets, Compared
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.pool_port import JobError
from clusterd.sync.requests.api import ApiRequests
from clusterd.sync.side_master import QUIET_S, MasterSide
from clusterd.wire.transfer import IncomingFile
from ipc.descriptor import Descriptor
from tests.sync.scripted_node import PROGRAM, WORKER, Node, on, turns


def test_status_of_a_master_is_by_worker_and_remembers_absent_ones(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")
    assert isinstance(node.side, MasterSide)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        node.side._integrity.record("w1").is_behind(node.clock.monotonic(), 3)
        node.clock.move(5.0)
        node.clock.jump(-3600.0)
        await node.core.handle(LinkDown(1, "it ended"))
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert (shown["problem"], shown["peers"]) == ("", [])
        assert (shown["results"]["w1"]["lag_s"], shown["results"]["w1"]["lag_files"]) == (5.0, 3)
        assert list(shown["agents"]["syncs"]) == ["w1"]

    on(node, story())


def test_what_a_worker_lacks_is_told_without_the_store(tmp_path: Path) -> None:
    """In a switchover it takes no writes, and a status waits for it: 0.8 s in which nothing is registered."""
    node = Node(tmp_path, "master", serves_store=True)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        node.side._integrity.record("w1").is_behind(node.clock.monotonic(), 3)
        found = json.loads((await node.reply(await node.ask(PROGRAM, "lacking", b"w1"))).payload)
        assert (found["result"]["lag_files"], found["answered_at"]) == (3, node.clock.wall())
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert found["result"] == shown["results"]["w1"]
        other = json.loads((await node.reply(await node.ask(PROGRAM, "lacking", b"w2"))).payload)
        assert other["result"] is None

    on(node, story())


def test_master_asks_nothing_of_a_worker_that_comes_and_has_a_line_of_groups_for_it(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        await node.up(PROGRAM)
        await turns()
        assert node.asked(1) == []
        assert list(node.side._groups._queues) == [1]
        await node.core.handle(LinkDown(1, "it ended"))
        assert list(node.side._groups._queues) == []

    on(node, story())


def test_worker_that_left_in_its_check_may_check_again(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        node.side._integrity.permissions.begin("w1", "check", node.clock.monotonic())
        assert not node.side._integrity.is_free("w1")
        await node.core.handle(LinkDown(1, "it ended"))
        assert node.side._integrity.is_free("w1")

    on(node, story())


def test_package_that_came_in_the_moment_in_which_its_link_ended_is_removed(tmp_path: Path) -> None:
    """Else it stays in the spool, and on the account of its worker, until the node is restarted."""
    node = Node(tmp_path, "master", pool=True)

    async def story() -> None:
        await node.context.manifests.scan()
        peer = await node.up(WORKER)
        task_id = (await node.reply(await node.ask(WORKER, "syn_i_w_m"))).payload.decode()
        await turns()
        awaited = peer.incoming.awaited(task_id)
        assert awaited is not None
        package = node.context.spool.create("package")
        awaited.file.set_result(IncomingFile("/queue/cluster/w1/a.zip", package, 9, complete=True, digest=b"d" * 32))
        await node.core.handle(LinkDown(1, "it ended"))
        assert not Path(package).exists()

    on(node, story())


def test_link_ends_in_order_whatever_one_part_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First its open requests fail, then its tasks end, then it is removed."""
    node = Node(tmp_path, "master")
    steps: list[str] = []

    def trip(self: IntegrityMaster, peer: Peer) -> None:
        steps.append(f"integrity, closed {peer.gone.is_set()}")
        raise OSError("disk")

    monkeypatch.setattr(IntegrityMaster, "forget", trip)
    monkeypatch.setattr(AgentGroupsMaster, "left", lambda self, peer: steps.append("groups"))
    monkeypatch.setattr(ApiRequests, "link_lost", lambda self, peer: steps.append(f"api, closed {peer.gone.is_set()}"))

    async def story() -> None:
        await node.up(WORKER)
        with pytest.raises(OSError, match="disk"):
            await node.core.handle(LinkDown(1, "it ended"))
        assert steps == ["api, closed False", "integrity, closed True", "groups"]
        await node.core.handle(LinkDown(1, "it ended"))  # it is gone already

    on(node, story())


async def begun(node: Node, asked: PeerRequest) -> None:
    """Sends a request whose job then waits."""
    node.pool.go_on.clear()
    before = len(node.pool.jobs)
    await node.core.handle(asked)
    await node.until(lambda: len(node.pool.jobs) > before)


def test_request_whose_link_has_ended_while_it_was_opened_is_not_carried_out(tmp_path: Path) -> None:
    """What it would leave behind nobody would remove: the link was forgotten before."""
    node = Node(tmp_path, "master", caps=("status",), pool=True)
    told = b'{"count": 1, "files": {"etc/a": "no permission"}}'
    node.pool.answers[OpenBody] = lambda job: Opened(told, len(told))

    async def story() -> None:
        for ends in (False, True):
            (await node.up(WORKER)).agree({"status"})
            await begun(node, PeerRequest(1, 5 + ends, "node_state", b"", [Descriptor(0, 0, 9)]))
            if ends:
                await node.core.handle(LinkDown(1, "it ended"))
            node.pool.go_on.set()
            await node.reply(5 + ends)
            assert node.side._exchange.left_out().keys() == (set() if ends else {"w1"})
            await node.core.handle(LinkDown(1, "it ended"))

    on(node, story())


def test_comparison_whose_worker_has_gone_meanwhile_leaves_nothing_behind(tmp_path: Path) -> None:
    node = Node(tmp_path, "master", pool=True)
    differs = Compared(1, 1, 0, 0, [7], b"c" * 16, b"w" * 16)
    outcomes = [differs, JobError("disk", "it is full")]

    def compared(job: CompareBuckets) -> Compared:
        Path(job.out).write_bytes(b"x")
        outcome = outcomes.pop()
        if isinstance(outcome, JobError):
            raise outcome
        return outcome

    node.pool.answers[CompareBuckets] = compared

    async def story() -> None:
        await node.context.manifests.scan()
        while outcomes:
            left = len(outcomes)
            (await node.up(WORKER)).agree({"digest"})
            await begun(node, PeerRequest(1, left, "syn_buckets", b"rows"))
            await node.core.handle(LinkDown(1, "it ended"))
            node.pool.go_on.set()
            assert (await node.reply(left)).command == "err"
            await turns()
            assert (len(outcomes), node.context.troubles.shown()) == (left - 1, {})
            assert [path for path in Path(node.context.spool.directory).iterdir() if "difference" in path.name] == []
            assert node.side._integrity.record("w1").result == ""

    on(node, story())


def test_master_answers_workers_and_programs_about_nodes_alike(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(WORKER)
        await node.up(PROGRAM)
        answers = [(await node.reply(await node.ask(who, "get_nodes", b"{}"))) for who in (WORKER, PROGRAM)]
        assert [answer.command for answer in answers] == ["ok", "ok"]
        assert answers[0].payload == answers[1].payload
        assert [row["name"] for row in json.loads(answers[0].payload)["items"]] == ["m", "w1"]

    on(node, story())


def test_node_that_only_says_hello_is_no_worker_that_came_and_is_lost(tmp_path: Path) -> None:
    """`doctor` and `check-config --connect` do that, under the name of a worker that may be lost at that moment."""
    node = Node(tmp_path, "master")

    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in node.side._known.shown({})}

    async def story() -> None:
        worker = msgspec.structs.replace(WORKER, up_since=node.clock.monotonic())
        node.clock.jump(3600.0)  # a clock that is set makes no try a worker
        await node.up(worker)
        await turns()
        await node.core.handle(LinkDown(WORKER.link, "it ended"))
        assert (states(), told(node)) == ({}, [])
        peer = await node.up(worker)
        await node.ask(worker, "echo", b"x")
        await node.until(peer.spoke.is_set)
        await turns()
        assert (states(), told(node)) == ({"w1": "connected"}, ["connected"])
        await node.core.handle(LinkDown(WORKER.link, "it ended"))
        node.clock.move(60)
        node.side._known._say_lost()
        assert await members(node) == ["w1"]
        await node.up(msgspec.structs.replace(WORKER, up_since=node.clock.monotonic()))
        await turns()
        assert (states(), told(node)) == ({"w1": "lost"}, ["connected", "lost"])
        assert await members(node) == []  # else the list of nodes would have it twice
        refused = await node.reply(await node.ask(PROGRAM, "forget", b"w1"))
        assert b"worker w1 is connected: stop it first" in refused.payload

    on(node, story())


def test_worker_that_has_been_connected_for_a_while_is_known_before_it_asks(tmp_path: Path) -> None:
    """So does a new sync process know the workers whose links net has kept."""
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(msgspec.structs.replace(WORKER, up_since=node.clock.monotonic() - QUIET_S))
        await turns()
        assert told(node) == ["connected"]

    on(node, story())


def told(node: Node) -> list[str]:
    return [event.what for event in cast(Any, node.context.events).told]


async def members(node: Node) -> list[str]:
    """Who is away, as `control nodes` is told."""
    if node.context.roster.at(PROGRAM.link) is None:
        await node.up(PROGRAM)
    reply = await node.reply(await node.ask(PROGRAM, "get_members"))
    return [row["name"] for row in json.loads(reply.payload)["workers"]]

"""A worker's side of sync, on ports that only the test reads: its master comes and goes, programs ask."""

import json
from pathlib import Path

from clusterd.messages.links import Answered, LinkDown, MasterAway
from clusterd.sync.side_worker import WorkerSide
from tests.sync.scripted_node import MASTER, PROGRAM, Node, code_in, on, turns

SENDSYNC = b'{"daemon_name":"authd","message":{"function":"add"}}'


def test_worker_tells_its_master_first_what_it_can_do(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")
    assert isinstance(node.side, WorkerSide)

    async def story() -> None:
        peer = await node.up(MASTER)
        await node.request(1, "caps")
        assert node.asked(1) == ["caps"]
        assert not peer._agreed.is_set()

    on(node, story())


def test_worker_whose_capabilities_are_off_asks_nothing_and_waits_for_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=())

    async def story() -> None:
        peer = await node.up(MASTER)
        assert await peer.agreed() == frozenset()
        await turns()
        assert node.asked(1) == []

    on(node, story())


def test_program_on_a_worker_starts_no_round(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        peer = await node.up(PROGRAM)
        await turns()
        assert (node.asked(9), len(peer._tasks)) == ([], 0)

    on(node, story())


def test_rounds_of_a_worker_end_with_the_link_to_its_master(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        peer = await node.up(MASTER)
        await turns()
        assert len(peer._tasks) == 4  # capabilities, checks, reports of agents, what status shows
        await node.core.handle(LinkDown(1, "it ended"))
        assert (len(peer._tasks), peer.gone.is_set()) == (0, True)
        assert node.context.roster.all() == []

    on(node, story())


def test_request_that_a_master_has_ends_with_its_link(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(MASTER)
        await node.up(PROGRAM)
        await node.ask(PROGRAM, "sendsync", SENDSYNC)
        given = await node.request(1, "sendsync")
        await node.core.handle(Answered(given.id, "ok", b"queued"))
        await turns()
        await node.core.handle(LinkDown(1, "it ended"))
        assert code_in((await node.request(9, "err")).payload) == 3023

    on(node, story())


def test_worker_passes_questions_about_nodes_on_to_its_master(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(PROGRAM)
        for command in ("get_nodes", "get_health"):
            refused = await node.reply(await node.ask(PROGRAM, command))
            assert (refused.command, code_in(refused.payload)) == ("err", 3023)
        await node.up(MASTER)
        for command in ("get_nodes", "get_health"):
            first = await node.reply(await node.ask(PROGRAM, command, b'{"a": 1}'))
            assert (first.command, first.more) == ("ok", True)
            assert (await node.request(1, command)).payload == b'{"a": 1}'

    on(node, story())


def test_status_of_a_worker_tells_of_its_master_and_of_itself(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker")

    async def story() -> None:
        await node.up(PROGRAM)
        await node.core.handle(MasterAway("it refuses us"))
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert shown["problem"] == "The master is not connected: it refuses us."
        assert (list(shown["results"]), list(shown["agents"]["syncs"])) == (["self"], ["self"])
        await node.up(MASTER)
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert (shown["problem"], [peer["kind"] for peer in shown["peers"]]) == ("", ["master"])

    on(node, story())

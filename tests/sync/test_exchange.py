"""What two nodes tell each other for `status`: files left out, clocks, absent workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkInfo
from clusterd.settings import DEFAULT_RULES
from clusterd.sync.links.exchange import (
    AGAIN_S,
    ITEMS,
    LONGEST_PATH,
    LOOK_S,
    MOST_FILES,
    LeftOutFiles,
    StatusExchange,
    _Answer,
    _parse,
    bounded,
)
from clusterd.sync.links.peer import Peer
from clusterd.wire import commands
from clusterd.wire.command_table import SMALL
from clusterd.wire.results import dump_json
from tests.sync.scripted_node import MASTER, PROGRAM, WORKER, Node, on

CAPS = ("digest", "status")


async def linked(node: Node, link: LinkInfo, *caps: str) -> Peer:
    peer = await node.up(link)
    peer.agree(caps)
    return peer


async def came_and_went(master: Node, link: LinkInfo) -> None:
    """A worker that is not connected any more, but known: it has asked for something."""
    peer = await linked(master, link, *CAPS)
    peer.spoke.set()
    await master.until(lambda: bool(master.side._known.shown({})))
    await master.core._link_down(link.link, "closed")


async def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await node.reply(await node.ask(PROGRAM, commands.STATUS))).payload)
    return found


def requests(node: Node) -> list[dict[str, Any]]:
    return [json.loads(sent.payload) for sent in node.sent if getattr(sent, "command", "") == commands.NODE_STATE]


def test_worker_tells_each_try_at_files_that_it_cannot_put_in_place(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=CAPS)

    async def story() -> None:
        await linked(node, MASTER, *CAPS)
        await node.says(await node.request(1, commands.NODE_STATE), b'{"wall_s": 5.0}')
        await node.until(lambda: len(requests(node)) == 1)
        worker = node.side._integrity
        worker.last.problems, worker.last.left_out = {"etc/rules/a.xml": "is mounted"}, 3
        for count in (2, 3):  # the same again is news: the worker has tried again
            worker.tried()
            await node.until(lambda count=count: len(requests(node)) == count)  # type: ignore[misc]
            asked = [sent for sent in node.sent if getattr(sent, "command", "") == commands.NODE_STATE][-1]
            await node.says(asked, b'{"wall_s": 5.0}')  # type: ignore[arg-type]
        assert requests(node) == [
            {"count": 0, "files": {}},
            *[{"count": 3, "files": {"etc/rules/a.xml": "is mounted"}}] * 2,
        ]
        await node.up(PROGRAM)
        left = (await status(node))["left_out"]
        assert left == {"w1": {"count": 3, "files": {"etc/rules/a.xml": "is mounted"}, "at": None}}

    on(node, story())


def test_master_shows_what_a_worker_tells_until_it_is_gone(tmp_path: Path) -> None:
    node = Node(tmp_path, "master", caps=CAPS)

    async def story() -> None:
        await linked(node, WORKER, *CAPS)
        await node.up(PROGRAM)
        told = dump_json({"count": 2, "files": {"etc/rules/a.xml": "[Errno 16] Device or resource busy"}})
        answer = await node.reply(await node.ask(WORKER, commands.NODE_STATE, told))
        assert json.loads(answer.payload) == {
            "wall_s": node.clock.wall(),
            "items": [item.key for item in DEFAULT_RULES.items],
        }
        row = (await status(node))["left_out"]["w1"]
        assert (row["count"], row["at"]) == (2, node.clock.wall())
        assert row["files"] == {"etc/rules/a.xml": "[Errno 16] Device or resource busy"}
        await node.ask(WORKER, commands.NODE_STATE, dump_json({"count": 0, "files": {}}))
        assert (await status(node))["left_out"] == {}
        await node.ask(WORKER, commands.NODE_STATE, told)
        node.context.troubles.begin("telling w1 the state of this node", "It cannot be told.")
        await node.core._link_down(WORKER.link, "closed")
        assert ((await status(node))["left_out"], node.context.troubles.shown()) == ({}, {})

    on(node, story())


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"[]", b"{", b'{"count": -1}', b'{"count": "x"}', b'{"files": [1]}', b'{"files": {"a": 1}}'),
        b'{"count": 100000000000000000000}',  # no status could be encoded with it
    ],
)
def test_what_is_no_state_of_a_node_is_refused(tmp_path: Path, payload: bytes) -> None:
    node = Node(tmp_path, "master", caps=CAPS)

    async def story() -> None:
        await linked(node, WORKER, *CAPS)
        assert (await node.reply(await node.ask(WORKER, commands.NODE_STATE, payload))).command == "err"

    on(node, story())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", "1e300", "9" * 300])
def test_invalid_clock_is_not_shown(number: str) -> None:
    with pytest.raises(ClusterError, match=r"node_state is not what it should be|no number of JSON"):
        _parse(f'{{"wall_s": {number}}}'.encode(), _Answer)


def test_told_problems_are_bounded_and_fit_into_a_small_request() -> None:
    paths = {f"{n}" + "\udc80" * 5000: "\x01" * 5000 for n in range(5000)}
    found = bounded(paths)
    assert (found.count, len(found.files)) == (5000, MOST_FILES)
    assert max(len(path) for path in found.files) < LONGEST_PATH + 40
    assert len(dump_json({"count": found.count, "files": found.files})) < SMALL
    assert bounded({"a": "b"}, 7) == LeftOutFiles(7, {"a": "b"})


def test_clocks_are_compared_with_half_of_the_answers_time_as_their_doubt(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=CAPS)

    async def story() -> None:
        await linked(node, MASTER, *CAPS)
        await node.up(PROGRAM)
        asked = await node.request(1, commands.NODE_STATE)
        begun = node.clock.wall()
        node.clock.move(0.5)
        await node.says(asked, json.dumps({"wall_s": begun + 100.25}).encode())
        await node.until(lambda: bool(node.side._exchange.clocks()))
        assert (await status(node))["clocks"] == {"m": {"offset_s": 100.0, "off_by_s": 0.25, "at": begun + 0.5}}

    on(node, story())


def clock_of(exchange: StatusExchange) -> float | None:
    row = exchange.clocks().get("m")
    return None if row is None else row["offset_s"]


def test_clock_that_differs_is_looked_at_again_soon_and_one_that_does_not_within_a_minute(tmp_path: Path) -> None:
    """Whoever has set it right does not wait a minute to see that nothing is wrong any more."""
    node = Node(tmp_path, "worker", caps=CAPS)

    async def story() -> None:
        await linked(node, MASTER, *CAPS)
        exchange = node.side._exchange
        for count, (offset_s, again_s) in enumerate(((100.0, LOOK_S), (0.5, AGAIN_S)), 1):
            await node.until(lambda count=count: len(requests(node)) == count)  # type: ignore[misc]
            asked = [sent for sent in node.sent if getattr(sent, "command", "") == commands.NODE_STATE][-1]
            await node.says(asked, json.dumps({"wall_s": node.clock.wall() + offset_s}).encode())  # type: ignore[arg-type]
            await node.until(lambda offset_s=offset_s: clock_of(exchange) == offset_s)  # type: ignore[misc]
            for seconds, more in ((again_s - 0.1, 0), (0.2, 1)):
                node.clock.move(seconds)
                exchange._timers[1].wake()
                await node.until(lambda: exchange._timers[1]._due is None)  # it has looked
                assert len(requests(node)) == count + more

    on(node, story())


def test_worker_says_which_directories_its_master_does_not_synchronise(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=CAPS)
    ours = [item.key for item in DEFAULT_RULES.items]

    async def story() -> None:
        await linked(node, MASTER, *CAPS)
        troubles = node.context.troubles
        for count, (theirs, has_told) in enumerate(((ours[1:], True), (None, True), ([*ours, "etc/x/"], False)), 1):
            await node.until(lambda count=count: len(requests(node)) == count)  # type: ignore[misc]
            asked = [sent for sent in node.sent if getattr(sent, "command", "") == commands.NODE_STATE][-1]
            answer = {"wall_s": node.clock.wall()} | ({} if theirs is None else {"items": theirs})
            await node.says(asked, dump_json(answer))  # type: ignore[arg-type]
            await node.until(lambda has_told=has_told: (ITEMS in troubles.shown()) == has_told)  # type: ignore[misc]
            node.side._integrity.tried()
        await node.until(lambda: len(requests(node)) == count + 1)
        asked = [sent for sent in node.sent if getattr(sent, "command", "") == commands.NODE_STATE][-1]
        await node.says(asked, dump_json({"wall_s": 5.0, "items": ours[1:]}))  # type: ignore[arg-type]
        await node.until(lambda: ITEMS in troubles.shown())
        assert ours[0] in troubles.shown()[ITEMS]
        await node.core._link_down(MASTER.link, "closed")
        assert ITEMS not in troubles.shown()

    on(node, story())


def test_node_without_the_capability_is_not_asked(tmp_path: Path) -> None:
    node = Node(tmp_path, "worker", caps=CAPS)

    async def story() -> None:
        peer = await linked(node, MASTER, "digest")
        assert await node.side._exchange.run(peer) is None  # type: ignore[func-returns-value]
        assert not requests(node)
        assert (await node.reply(await node.ask(MASTER, commands.NODE_STATE, b"{}"))).payload.startswith(b"unknown")

    on(node, story())


def test_absent_and_refused_are_asked_on_any_node(tmp_path: Path) -> None:
    master = Node(tmp_path / "m", "master", caps=CAPS)

    async def on_master() -> None:
        await came_and_went(master, WORKER)
        await linked(master, LinkInfo(2, "worker", "w2"), *CAPS)
        found = json.loads((await master.reply(await master.ask(LinkInfo(2, "worker", "w2"), "get_members"))).payload)
        assert [(row["name"], row["state"]) for row in found["workers"]] == [("w1", "expected")]
        assert found["refused"] == []

    on(master, on_master())


def test_forgotten_worker_is_in_no_backup_that_is_made_afterwards(tmp_path: Path) -> None:
    node = Node(tmp_path, "master", caps=CAPS)

    async def story() -> None:
        await came_and_went(node, WORKER)
        known = node.side._known
        await known.save()
        file = Path(node.context.spool.state_dir, "workers.json")
        assert [row["name"] for row in json.loads(file.read_bytes())] == ["w1"]
        await node.up(PROGRAM)
        assert (await node.reply(await node.ask(PROGRAM, commands.FORGET, b"w1"))).command == "ok"
        assert json.loads(file.read_bytes()) == []

    on(node, story())


@pytest.mark.parametrize("caps", [CAPS, ("digest",)])
def test_worker_asks_a_master_that_knows(tmp_path: Path, caps: tuple[str, ...]) -> None:
    worker = Node(tmp_path, "worker", caps=CAPS)

    async def story() -> None:
        await linked(worker, MASTER, *caps)
        await worker.up(PROGRAM)
        serial = await worker.ask(PROGRAM, commands.GET_MEMBERS)
        reply = await worker.reply(serial)
        if caps == CAPS:
            assert reply.payload == commands.SENT_TO_MASTER
            await worker.says(await worker.request(1, commands.GET_MEMBERS), b'{"workers": [], "refused": [1]}')
            assert (await worker.request(9, commands.CONTROL_RES)).payload == b'{"workers": [], "refused": [1]}'
        else:
            assert json.loads(reply.payload) == {"workers": [], "refused": []}
            assert commands.GET_MEMBERS not in worker.asked(1)

    on(worker, story())

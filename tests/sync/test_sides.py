"""Each role's side of sync, on ports that only the test reads: links come up and go down, programs ask."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import (
    Answered,
    LinkDown,
    LinkInfo,
    LinkUp,
    MasterAway,
    PeerRequest,
    Reply,
    Request,
    SyncToNet,
)
from clusterd.settings import ClusterBlock, Clusterd, Settings
from clusterd.sync.agents.groups_master import AgentGroupsMaster
from clusterd.sync.core import Core
from clusterd.sync.integrity.master import IntegrityMaster
from clusterd.sync.links.context import Context
from clusterd.sync.links.outgoing import Sender
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.roster import Roster
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.ports.net_port import NetPort
from clusterd.sync.ports.pool_port import PoolPort
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests.api import ApiRequests
from clusterd.sync.side_master import MasterSide
from clusterd.sync.side_worker import WorkerSide
from clusterd.wdb.client import Database
from ipc.job_queue import JobQueue
from tests.fakes.clock import FakeClock
from tests.sync.rounds_bench import run

WORKER = LinkInfo(1, "worker", "w1")
MASTER = LinkInfo(1, "master", "m")
PROGRAM = LinkInfo(9, "local", "9", uid=0)
STRANGER = LinkInfo(8, "local", "8", uid=12345)
SENDSYNC = b'{"daemon_name":"authd","message":{"function":"add"}}'


class Lines:
    """A log."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, str, str]] = []

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        self.written.append((level, tag, subtag, text))


class Node:
    """A sync process of which net and the pool are the test: `sent` is what net was given, in order."""

    def __init__(self, root: Path, role: str, caps: tuple[str, ...] = ("digest",)) -> None:
        self.sent: list[SyncToNet] = []
        self.log = Lines()
        self.clock = FakeClock()
        block = ClusterBlock(node_type=role, node_name="m" if role == "master" else "w1", nodes=("127.0.0.1",))
        settings = Settings(str(root), cluster=block, clusterd=Clusterd(caps=caps))
        spool = Spool(str(root), 1)
        spool.prepare()
        slabs = SlabPool([])
        jobs = PoolPort(self._drop, JobQueue(100), 1, self.clock)
        self.context = Context(
            settings=settings,
            clock=self.clock,
            log=cast(Any, self.log),
            net=NetPort(self._send, slabs),
            jobs=jobs,
            slabs=slabs,
            spool=spool,
            manifests=ManifestKeeper(str(root), spool.state_dir, 1, jobs, self.clock, 300.0),
            sender=Sender(jobs, slabs, self.clock),
            progress=[],
            database=Database(str(root)),
            troubles=Troubles(),
            roster=Roster(),
        )
        self.core = Core(self.context)
        self.side: Any = self.core._side
        self._serial = 0

    async def _send(self, message: SyncToNet) -> None:
        self.sent.append(message)

    async def _drop(self, *_: Any) -> None:
        pass

    async def up(self, info: LinkInfo) -> Peer:
        await self.core.handle(LinkUp(info))
        peer = self.context.roster.at(info.link)
        assert peer is not None
        return peer

    async def ask(self, info: LinkInfo, command: str, payload: bytes = b"") -> int:
        """A request of the other end; its serial number."""
        self._serial += 1
        await self.core.handle(PeerRequest(info.link, self._serial, command, payload))
        return self._serial

    async def reply(self, serial: int) -> Reply:
        return cast(Reply, await self.find(lambda sent: isinstance(sent, Reply) and sent.serial == serial))

    async def request(self, link: int, command: str) -> Request:
        return cast(
            Request,
            await self.find(lambda sent: isinstance(sent, Request) and (sent.link, sent.command) == (link, command)),
        )

    async def find(self, matches: Callable[[SyncToNet], bool]) -> SyncToNet:
        async with asyncio.timeout(10):
            while True:
                for message in self.sent:
                    if matches(message):
                        return message
                await asyncio.sleep(0.002)

    def asked(self, link: int) -> list[str]:
        return [sent.command for sent in self.sent if isinstance(sent, Request) and sent.link == link]

    async def close(self) -> None:
        await self.core.net_lost()
        await self.context.database.close()


def on(node: Node, story: Coroutine[Any, Any, None]) -> None:
    async def closed() -> None:
        try:
            await story
        finally:
            await node.close()

    run(closed())


def code_in(payload: bytes) -> int:
    code: int = json.loads(payload)["__wazuh_exception__"]["__object__"]["code"]
    return code


async def turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


# ---- a worker ----------------------------------------------------------------------------------------------------------


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
        assert len(peer._tasks) == 3  # capabilities, checks, reports of agents
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


# ---- a master ----------------------------------------------------------------------------------------------------------


def test_status_of_a_master_is_by_worker_and_remembers_who_left(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")
    assert isinstance(node.side, MasterSide)

    async def story() -> None:
        await node.up(PROGRAM)
        await node.up(WORKER)
        node.side._integrity.record("w1").is_behind(node.clock.wall(), 3)
        node.clock.move(5.0)
        await node.core.handle(LinkDown(1, "it ended"))
        shown = json.loads((await node.reply(await node.ask(PROGRAM, "status"))).payload)
        assert (shown["problem"], shown["peers"]) == ("", [])
        assert (shown["results"]["w1"]["lag_s"], shown["results"]["w1"]["lag_files"]) == (5.0, 3)
        assert list(shown["agents"]["syncs"]) == ["w1"]

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


def test_link_ends_in_order_whatever_one_part_trips_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was asked fails first, then its tasks end, then it is forgotten."""
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


# ---- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "commands", "foreign"),
    [
        ("master", ("syn_i_w_m_p", "syn_digest", "sendsync", "dapi"), ("syn_m_c", "syn_changed", "sendsyn_res")),
        ("worker", ("syn_m_c", "syn_changed", "sendsyn_res", "dapi"), ("syn_i_w_m_p", "syn_digest", "sendsync")),
    ],
)
def test_node_knows_the_commands_of_its_role_only(
    tmp_path: Path, role: str, commands: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    node = Node(tmp_path, role)
    assert set(commands) <= set(node.side.remote)
    assert not set(foreign) & set(node.side.remote)
    assert ("syn_buckets" in node.side.sealed) is (role == "master")
    assert not set(node.side.sealed) & set(node.side.remote)
    forever = node.side.forever()
    assert len(forever) == (2 if role == "master" else 0)
    for work in forever:
        work.close()


@pytest.mark.parametrize(("role", "commands"), [("master", ["dapi_fwd"]), ("worker", ["sendsync", "sendasync"])])
def test_other_users_may_not_use_what_changes_something(tmp_path: Path, role: str, commands: list[str]) -> None:
    node = Node(tmp_path, role)

    async def story() -> None:
        await node.up(STRANGER)
        for command in ("sync_now", "send_file", *commands):
            refused = await node.reply(await node.ask(STRANGER, command, b"x {}"))
            assert (command, refused.command, code_in(refused.payload)) == (command, "err", 4000)

    on(node, story())


def test_program_may_not_send_what_is_for_other_nodes(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(PROGRAM)
        for command in ("syn_buckets", "file_upd", "str_upd", "syn_i_w_m_p"):
            refused = await node.reply(await node.ask(PROGRAM, command))
            assert refused.command == "err"
            assert b"unknown command" in refused.payload

    on(node, story())


def test_worker_that_is_not_there_is_3022(tmp_path: Path) -> None:
    node = Node(tmp_path, "master")

    async def story() -> None:
        await node.up(PROGRAM)
        for command, payload in (("diff", b"w1"), ("dapi_fwd", b"w1 {}"), ("send_file", b"/x w1")):
            refused = await node.reply(await node.ask(PROGRAM, command, payload))
            assert (command, code_in(refused.payload)) == (command, 3022)
        with pytest.raises(ClusterError):
            node.context.roster.need_worker("w1")

    on(node, story())

"""A replica through both sync processes, on scripted ports, with the stores' real sockets between them."""

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import Reply, Request
from clusterd.messages.replica import Mark, Marked
from clusterd.role import NodeRole
from clusterd.rounds import Rounds
from clusterd.rundir import API_FILES, replica_socket
from clusterd.settings import ApiSettings, HaSettings
from clusterd.store import agents
from clusterd.store.replica_port import MOST_BYTES, ReplicaPort
from clusterd.store.stream import StreamServer
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.replica import worker as worker_module
from clusterd.sync.replica.api_files import MOST_FILE_BYTES, PIECE_BYTES, sources
from clusterd.wdb.replica import ReplicaStore
from clusterd.wire import commands
from tests.store.replica_bench import Bench
from tests.sync.rounds_bench import run
from tests.sync.scripted_node import MASTER, PROGRAM, WORKER, Node

CARRIED = (commands.CAPS, commands.GET_CHANGES, commands.GET_API)
WANTED = HaSettings(replica=True)
API = ApiSettings(enabled=True)


class Pair:
    """A master and a candidate. The candidate's requests are carried to the master, and its answers back."""

    def __init__(self, base: Path, *, stores: tuple[bool, bool] = (True, True), ha: HaSettings = WANTED) -> None:
        self.bench = Bench(base)
        self.master = Node(self.bench.master, "master", ("replica",), serves_store=stores[0], ha=ha, api=API)
        self.worker = Node(self.bench.candidate, "worker", ("replica",), serves_store=stores[1], ha=WANTED)
        self.is_cut = False
        self.carried: list[str] = []
        self._servers: list[StreamServer] = []

    async def serve(self) -> None:
        for root, side in ((self.bench.master, self.bench.source), (self.bench.candidate, self.bench.copy)):
            Path(replica_socket(str(root))).parent.mkdir(parents=True, exist_ok=True)
            server = StreamServer(
                replica_socket(str(root)),
                ReplicaPort(side, mark=self.bench.engine.mark).answer,
                most=8,
                rounds=Rounds(lambda *_: None),
                largest=MOST_BYTES,
            )
            server.start()
            self._servers.append(server)

    async def stop(self) -> None:
        for server in self._servers:
            await server.stop()
        self._servers.clear()

    async def carry(self) -> None:
        done = 0
        while True:
            if done == len(self.worker.sent):
                await asyncio.sleep(0.001)
                continue
            message = self.worker.sent[done]
            done += 1
            if isinstance(message, Request) and message.command in CARRIED and not self.is_cut:
                self.carried.append(message.command)
                asyncio.create_task(self._pass_on(message)).add_done_callback(lambda task: task.cancelled())

    async def _pass_on(self, asked: Request) -> None:
        serial = await self.master.ask(WORKER, asked.command, asked.payload)
        reply: Reply = await self.master.reply(serial)
        await self.worker.says(asked, reply.payload, reply.command)

    async def ha(self, node: Node) -> dict[str, Any]:
        found: dict[str, Any] = await node.side.ha_status()
        return found

    async def is_equal(self) -> bool:
        found = await self.ha(self.worker)
        return found.get("state") == "following" and found["digest_equal"] is True and found["lag"] == 0


@contextlib.asynccontextmanager
async def paired(pair: Pair) -> AsyncIterator[None]:
    pair.bench.open()
    carrying = asyncio.create_task(pair.carry())
    try:
        await pair.bench.populate()
        await pair.serve()
        await pair.master.up(WORKER)
        await pair.worker.up(MASTER)
        yield
    finally:
        carrying.cancel()
        await pair.worker.close()
        await pair.master.close()
        await pair.stop()
        pair.bench.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.002)


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path short enough for a socket below it."""
    return tmp_path_factory.mktemp("r")


def test_changed_user_is_on_a_candidate_when_the_command_that_changed_it_ends(base: Path) -> None:
    """A candidate that has all agents asks again only after ten seconds: the user was lost with the master."""

    async def story() -> None:
        pair = Pair(base)
        write_api_files(pair.master, b"secret of the tokens")
        async with paired(pair):
            await until(pair.is_equal)
            users = sources(pair.master.context.settings)["users.json"]
            for number in range(3):
                users.write_bytes(b"users %d" % number)
                found = await ReplicaStore(str(pair.bench.master)).ask(Mark(), 60)
                assert msgspec.msgpack.decode(found, type=Marked) == Marked(is_kept=True)
                assert (pair.bench.candidate / API_FILES / "users.json").read_bytes() == users.read_bytes()
            here = await ReplicaStore(str(pair.bench.candidate)).ask(Mark(), 60)
            assert msgspec.msgpack.decode(here, type=Marked) == Marked(), "its users are those of its master"
            pair.is_cut = True
            pair.bench.source.candidates._limit_s = 0.05  # how long it may take to be back
            pair.bench.source.candidates.gone(WORKER.name)
            found = await ReplicaStore(str(pair.bench.master)).ask(Mark(), 60)
            assert msgspec.msgpack.decode(found, type=Marked) == Marked(why="no candidate is connected")

    run(story())


def write_api_files(node: Node, token: bytes) -> None:
    for name, path in sources(node.context.settings).items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(token if name == "token.key" else name.encode() + os.urandom(PIECE_BYTES))


def test_candidate_follows_its_master_and_has_what_logins_need(base: Path) -> None:
    async def story() -> None:
        pair = Pair(base)
        write_api_files(pair.master, b"secret of the tokens")
        async with paired(pair):
            await until(pair.is_equal)
            await pair.bench.engine.write(lambda session: agents.delete_agent(session, 3))
            copies = base / "w" / API_FILES

            async def has_all() -> bool:
                db = pair.bench.copy._replica
                assert db is not None
                return not db.db.execute("select 1 from agent where id = 3").fetchall() and len(os.listdir(copies)) == 4

            await until(has_all)
            for name, path in sources(pair.master.context.settings).items():
                assert (copies / name).read_bytes() == path.read_bytes()
                assert stat.S_IMODE((copies / name).stat().st_mode) == 0o600
            assert stat.S_IMODE(copies.stat().st_mode) == 0o700
            assert (await pair.ha(pair.worker))["api_files"] == 4
            (shown,) = (await pair.ha(pair.master))["candidates"]
            assert (shown["name"], shown["connected"]) == (WORKER.name, True)
            # A former master: its replica is older than what it has answered itself since, and must not replace that.
            context = pair.worker.context
            assert (await pair.ha(pair.worker))["may_not_lead"] is None
            before, context.settings = context.settings, context.settings.with_role(NodeRole(3, "master", 2))
            assert "newer than its replica" in (await pair.ha(pair.worker))["may_not_lead"]
            context.settings = before
            # Changes: another secret, and a file that is gone.
            write_api_files(pair.master, b"another secret")
            sources(pair.master.context.settings)["users.json"].unlink()
            await pair.bench.engine.write(lambda session: agents.delete_agent(session, 4))

            async def changed() -> bool:
                listed = sorted(name for name in os.listdir(copies) if not name.startswith("."))
                return listed == ["certificate.pem", "key.pem", "token.key"]

            await until(changed)
            assert (copies / "token.key").read_bytes() == b"another secret"
            for node in (pair.master, pair.worker):
                assert b"secret" not in json.dumps(node.log.written).encode()
            await pair.master.core.net_lost()
            await until(lambda: _is_gone(pair))
            await cast(Any, pair.master.side).forget(PROGRAM, WORKER.name.encode())  # `clusterd forget w1`
            assert (await pair.ha(pair.master))["candidates"] == []

    run(story())


def test_api_file_that_cannot_be_read_stops_no_replica_and_costs_no_copy(base: Path) -> None:
    async def story() -> None:
        pair = Pair(base)
        write_api_files(pair.master, b"good")
        copies = base / "w" / API_FILES
        async with paired(pair):
            await until(pair.is_equal)
            await pair.worker.until(lambda: copies.is_dir() and len(os.listdir(copies)) == 4)
            with open(sources(pair.master.context.settings)["users.json"], "ab") as file:
                file.truncate(MOST_FILE_BYTES + 1)
            await pair.bench.engine.write(lambda session: agents.delete_agent(session, 4))
            await pair.master.until(lambda: "files of the REST API" in pair.master.context.troubles.shown())
            await until(pair.is_equal)
            assert (copies / "token.key").read_bytes() == b"good"

    run(story())


async def _is_gone(pair: Pair) -> bool:
    (shown,) = (await pair.ha(pair.master))["candidates"]
    return shown["may_not_lead"] == "it is not connected"


def test_absent_store_is_logged_once_and_work_goes_on_when_it_is_back(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "AGAIN_S", 0.01)

    async def story() -> None:
        pair = Pair(base)
        async with paired(pair):
            await until(pair.is_equal)
            await pair.stop()
            await pair.worker.until(lambda: "replica" in pair.worker.context.troubles.shown())
            carried = len(pair.carried)
            await pair.serve()
            await pair.worker.until(lambda: "replica" not in pair.worker.context.troubles.shown())
            await pair.worker.until(lambda: len(pair.carried) > carried)
            said = [
                text for level, _, subtag, text in pair.worker.log.written if subtag == "Replica" and level == "ERROR"
            ]
            assert len(said) == 1

    run(story())


def test_store_that_begins_after_the_link_is_no_failure(base: Path) -> None:
    """As when a node starts on a busy machine: each candidate had an ERROR in its log then."""

    async def story() -> None:
        pair = Pair(base)
        pair.bench.open()
        carrying = asyncio.create_task(pair.carry())
        try:
            await pair.bench.populate()
            await pair.master.up(WORKER)
            await pair.worker.up(MASTER)
            await pair.worker.until(lambda: commands.CAPS in pair.carried)
            for _ in range(200):
                await asyncio.sleep(0)
            await pair.serve()
            await until(pair.is_equal)
            assert [text for level, *_, text in pair.worker.log.written if level == "ERROR" and "replica" in text] == []
        finally:
            carrying.cancel()
            await pair.worker.close()
            await pair.master.close()
            await pair.stop()
            pair.bench.close()

    run(story())


def test_link_that_ends_is_no_replica_that_works_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(base, "worker", ("replica",), serves_store=True, ha=WANTED)

    async def agreed() -> set[str]:
        return {"replica"}

    async def ask(*_: Any, **__: Any) -> bytes:
        raise LinkClosed(commands.GET_CHANGES)

    async def following(request: object) -> bytes:
        return b"the next question"

    async def story() -> None:
        replica = worker_module.ReplicaWorker(node.context)
        monkeypatch.setattr(worker_module, "BEGINS_S", 0.0)
        monkeypatch.setattr(replica, "_next", following)
        node.context.troubles.begin("replica", "The store is away.")
        await replica.run(cast(Peer, SimpleNamespace(agreed=agreed, request=ask, timeout_s=1.0)))
        assert "replica" in node.context.troubles.shown()
        await node.close()

    run(story())


def test_candidate_asks_again_soon_after_one_failure(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations wait for the candidate that confirms, and no longer than for `synchronous_timeout`."""
    monkeypatch.setattr(worker_module, "SOON_S", 0.001)
    monkeypatch.setattr(worker_module, "AGAIN_S", 600.0)
    node = Node(base, "worker", ("replica",), serves_store=True, ha=WANTED)
    ends: list[Exception] = [ClusterError(1000, "the files of the REST API have changed meanwhile"), LinkClosed("x")]

    async def agreed() -> set[str]:
        return {"replica"}

    async def ask(*_: Any, **__: Any) -> bytes:
        raise ends.pop(0)

    async def following(request: object) -> bytes:
        return b"the next question"

    async def story() -> None:
        replica = worker_module.ReplicaWorker(node.context)
        monkeypatch.setattr(worker_module, "BEGINS_S", 0.0)
        monkeypatch.setattr(replica, "_next", following)
        async with asyncio.timeout(60):
            await replica.run(cast(Peer, SimpleNamespace(agreed=agreed, request=ask, timeout_s=1.0)))
        assert ends == []
        await node.close()

    run(story())


@pytest.mark.parametrize(
    ("stores", "ha", "who", "text"),
    [
        ((False, True), WANTED, "worker", "the agent database of this master is served by another program"),
        ((False, True), WANTED, "master", "the agent database of this master is served by another program"),
        ((True, False), WANTED, "worker", "the agent database of this node is served by another program"),
        ((True, True), HaSettings(), "worker", "the master gives none"),
    ],
)
def test_why_there_is_no_replica_is_reported(
    base: Path, stores: tuple[bool, bool], ha: HaSettings, who: str, text: str
) -> None:
    async def story() -> None:
        pair = Pair(base, stores=stores, ha=ha)
        async with paired(pair):
            node = pair.worker if who == "worker" else pair.master
            await node.until(lambda: text in node.context.troubles.shown().get("replica", ""))
            assert text in (await pair.ha(node))["problem"]

    run(story())


def test_stock_master_gives_no_replica_and_is_not_asked_for_one(base: Path) -> None:
    async def story() -> None:
        pair = Pair(base)
        pair.is_cut = True
        async with paired(pair):
            asked = await pair.worker.request(MASTER.link, commands.CAPS)
            await pair.worker.says(asked, commands.unknown_command_text(commands.CAPS), "err")
            await pair.worker.until(lambda: "a stock one" in pair.worker.context.troubles.shown().get("replica", ""))
            assert commands.GET_CHANGES not in pair.worker.asked(MASTER.link)

    run(story())


def test_node_without_the_setting_asks_nothing_and_shows_nothing(base: Path) -> None:
    async def story() -> None:
        node = Node(base, "worker", ("digest",), serves_store=True)
        await node.up(MASTER)
        await asyncio.sleep(0)
        assert commands.GET_CHANGES not in node.asked(MASTER.link)
        assert await node.side.ha_status() is None
        await node.close()

    run(story())

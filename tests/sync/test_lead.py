"""Without the lease a master in an election gives workers and programs nothing; what it asks and answers while etcd is
away."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.leadership import NOT_LEADING
from clusterd.messages.election import AskFailsafe, FailsafeAnswer, FailsafeAnswers, FailsafeAsked
from clusterd.messages.links import GiveString, LinkInfo, PeerRequest, Release, Request
from clusterd.role import NodeRole, update_role
from clusterd.sync.requests import failsafe
from clusterd.wdb.election import ElectionPort
from ipc.descriptor import Descriptor
from tests.sync.scripted_node import MASTER, PROGRAM, WORKER, Node, code_in, on

ROLE = NodeRole(7, "master", 7, "127.0.0.1:1", "m")


class Lease:
    def __init__(self) -> None:
        self.is_held = True

    def holds(self) -> bool:
        return self.is_held


def master(root: Path, **more: Any) -> tuple[Node, Lease]:
    """Made as in process.py: core looks at the context when a link comes up."""
    node, lease = Node(root, "master", **more), Lease()
    node.context.leadership = cast(Any, lease)
    return node, lease


def test_nothing_is_sent_to_a_worker_without_the_lease(tmp_path: Path) -> None:
    node, lease = master(tmp_path)

    async def story() -> None:
        peer = await node.up(WORKER)
        lease.is_held = False
        for work in (peer.request("syn_m_c"), peer.begin("file_upd"), peer.give_string("syn_g_m_w", "", b"x")):
            with pytest.raises(ClusterError, match=NOT_LEADING):
                await work
        assert not [sent for sent in node.sent if isinstance(sent, Request | GiveString)]

    on(node, story())


def test_large_bodies_give_their_room_back_without_the_lease(tmp_path: Path) -> None:
    """The process goes on, and leads again with the next lease: what it kept each time would be missing then."""
    node, lease = master(tmp_path, slabs=1)

    async def story() -> None:
        slabs = node.context.slabs
        peer = await node.up(WORKER)
        await slabs.admit()
        body = Descriptor(await slabs.take(), 0, 9)
        lease.is_held = False
        with pytest.raises(ClusterError, match=NOT_LEADING):
            await peer.begin("file_upd", body=body)
        assert slabs.free == 1
        for serial, command in enumerate(("file_upd", "syn_buckets", "dapi", "nonsense"), 70):
            await node.core.handle(PeerRequest(1, serial, command, b"", [Descriptor(serial, 0, 9)]))
            assert code_in((await node.reply(serial)).payload) == 3023
            assert node.sent.count(Release([serial])) == 1

    on(node, story())


def test_what_a_worker_asks_is_refused_without_the_lease(tmp_path: Path) -> None:
    node, lease = master(tmp_path)

    async def story() -> None:
        await node.up(WORKER)
        assert (await node.reply(await node.ask(WORKER, "syn_i_w_m_p"))).command == "ok"
        lease.is_held = False
        answer = await node.reply(await node.ask(WORKER, "syn_i_w_m_p"))
        assert (answer.command, code_in(answer.payload)) == ("err", 3023)

    on(node, story())


def test_an_answer_that_is_ready_after_the_lease_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, lease = master(tmp_path)

    async def story() -> None:
        await node.up(WORKER)

        async def slow(*_: Any) -> bytes:
            lease.is_held = False
            return b"True"

        monkeypatch.setattr(node.side._integrity, "ask_permission", slow)
        answer = await node.reply(await node.ask(WORKER, "syn_i_w_m_p"))
        assert (answer.command, code_in(answer.payload)) == ("err", 3023)

    on(node, story())


@pytest.mark.parametrize(("command", "is_refused"), [("sync_now", True), ("dapi", True), ("get_hash", False)])
def test_programs_get_what_needs_no_master(tmp_path: Path, command: str, is_refused: bool) -> None:
    node, lease = master(tmp_path, pool=True)
    lease.is_held = False

    async def story() -> None:
        await node.up(PROGRAM)
        answer = await node.reply(await node.ask(PROGRAM, command, b"{}"))
        found = answer.command == "err" and b"__wazuh_exception__" in answer.payload and code_in(answer.payload) == 3023
        assert found == is_refused

    on(node, story())


def test_a_request_that_waited_past_the_lease_is_not_executed(tmp_path: Path) -> None:
    node, lease = master(tmp_path)

    async def story() -> None:
        here = node.side._both._api._runner._here
        lease.is_held = False
        with pytest.raises(ClusterError, match=NOT_LEADING):
            await here.execute(cast(Any, None), cast(Any, None), None)

    on(node, story())


# ---- etcd is away ----------------------------------------------------------------------------------------------------


def test_every_candidate_is_asked_over_its_link_and_who_does_not_answer_has_not_said_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failsafe, "LIMIT_S", 0.2)
    node, _ = master(tmp_path, caps=("term",))
    node.context.settings = node.context.settings.with_role(ROLE)
    names = ("yes", "no", "mute", "old", "absent")

    async def story() -> None:
        for number, name in enumerate(names[:4], 1):
            info = LinkInfo(number, "worker", name)
            await node.up(info)
            if name != "old":
                await node.reply(await node.ask(info, "caps", b'["term"]'))
        await node.up(PROGRAM)
        question = msgspec.msgpack.encode(AskFailsafe(7, "m", names, 15.0))
        serial = await node.ask(PROGRAM, "askfailsafe", question)
        for number, yes in ((1, True), (2, False)):
            asked = await node.request(number, "failsafe")
            assert msgspec.msgpack.decode(asked.payload, type=FailsafeAsked) == FailsafeAsked(7, "m", 15.0)
            await node.says(asked, msgspec.msgpack.encode(FailsafeAnswer(yes)))
        answer = await node.reply(serial)
        found = msgspec.msgpack.decode(answer.payload, type=FailsafeAnswers)
        assert found.yes == {"yes": True, "no": False}
        assert "failsafe" not in node.asked(4)

    on(node, story())


@pytest.mark.parametrize(("term", "leader", "asks"), [(7, "m", True), (6, "m", False), (7, "other", False)])
def test_a_candidate_answers_its_own_master_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: int, leader: str, asks: bool
) -> None:
    told: list[tuple[int, str]] = []

    async def election(self: ElectionPort, term: int, leader: str, for_s: float, timeout_s: float) -> FailsafeAnswer:
        told.append((term, leader))
        return FailsafeAnswer(True)

    monkeypatch.setattr(ElectionPort, "failsafe", election)
    node = Node(tmp_path, "worker", caps=("term",))
    update_role(str(tmp_path), lambda before: NodeRole(7, master="127.0.0.1:1", master_name="m"))

    async def story() -> None:
        await node.up(MASTER)
        await node.says(await node.request(MASTER.link, "caps"), b'["term"]')
        payload = msgspec.msgpack.encode(FailsafeAsked(term, leader))
        answer = await node.reply(await node.ask(MASTER, "failsafe", payload))
        assert msgspec.msgpack.decode(answer.payload, type=FailsafeAnswer).yes == asks
        assert told == ([(7, "m")] if asks else [])
        assert (await node.reply(await node.ask(MASTER, "failsafe", b"\xc1"))).command == "err"

    on(node, story())

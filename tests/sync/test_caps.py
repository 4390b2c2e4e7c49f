"""Which capabilities two nodes agree on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import combinations, product
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.links import LinkDown, Reply
from clusterd.role import NodeRole
from clusterd.settings import CAPABILITIES, ClusterBlock, Clusterd, HaSettings, Settings
from clusterd.sync.links import caps
from clusterd.sync.links.caps import answer_caps, asks_as_stock, offer_caps, offered, recall
from clusterd.sync.links.peer import Peer
from clusterd.sync.ports.net_port import LinkClosed
from clusterd.wire.results import WireException
from tests.sync.scripted_node import MASTER, Node, on, turns


def test_only_a_node_with_its_own_store_offers_moments() -> None:
    usual = tuple(name for name in CAPABILITIES if name not in ("replica", "term"))
    assert offered(Settings("/", serves_store=True)) == usual
    assert offered(Settings("/", clusterd=Clusterd(store="off"))) == usual[1:]


@pytest.mark.parametrize("node_type", ["master", "worker"])
def test_replica_is_offered_only_where_it_is_wanted(node_type: str) -> None:
    """A master without its own store offers it, too: a node that asks then hears why there is none."""
    block, wanted = ClusterBlock(node_type="master" if node_type == "master" else "worker"), HaSettings(replica=True)
    for store in (True, False):
        settings = Settings("/", cluster=block, clusterd=Clusterd(ha=wanted), serves_store=store)
        assert ("replica" in offered(settings)) == (store or node_type == "master")
        assert "replica" not in offered(msgspec.structs.replace(settings, clusterd=Clusterd()))


def test_a_master_offers_to_speak_of_terms_once_there_is_one() -> None:
    master = Settings("/", serves_store=True)
    assert set(CAPABILITIES) - set(offered(master)) == {"replica", "term"}
    assert "term" in offered(master.with_role(NodeRole(2, "master", 2)))
    assert "term" in offered(Settings("/", cluster=ClusterBlock(node_type="worker")))


# ---- what two nodes agree to -----------------------------------------------------------------------------------------

OURS = ("digest", "push", "lz4", "resume", "ahead")
SWITCHES = [names for size in range(len(OURS) + 1) for names in combinations(OURS, size)]


class Notes:
    """Returns what net was told to keep of links, as (command, id)."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str]] = []
        self.closed: list[str] = []

    async def close(self, link: int, reason: str) -> None:
        self.closed.append(reason)

    async def note_task(self, link: int, command: str, task_id: str, *, is_open: bool) -> None:
        if is_open:
            self.kept.append((command, task_id))
        else:
            self.kept.remove((command, task_id))


class End:
    """One end of a link; `other` answers its requests."""

    def __init__(self, other: Callable[[bytes], Awaitable[bytes]] | None = None) -> None:
        self.link, self.program = 1, ""
        self.capabilities: frozenset[str] = frozenset()
        self._other = other
        self.has_agreed = False

    def agree(self, capabilities: Iterable[str]) -> None:
        self.capabilities, self.has_agreed = frozenset(capabilities), True

    async def request(self, command: str, payload: bytes = b"") -> bytes:
        assert self._other is not None
        return await self._other(payload)


def node(*caps: str) -> Settings:
    return Settings("/", clusterd=Clusterd(caps=caps))


async def join(master: Settings, worker: Settings) -> tuple[End, End, Notes]:
    """Both ends of a link after `caps`."""
    notes = Notes()
    of_worker = End()

    async def hear(payload: bytes) -> bytes:
        return await answer_caps(cast(Peer, of_worker), payload, master, cast(Any, notes))

    of_master = End(hear)
    await offer_caps(cast(Peer, of_master), worker, cast(Any, Notes()))
    return of_worker, of_master, notes


def test_every_mix_of_switches_leaves_what_both_ends_have() -> None:
    async def story() -> None:
        for ours, theirs in product(SWITCHES, SWITCHES):
            of_worker, of_master, _ = await join(node(*ours), node(*theirs))
            both = set(ours) & set(theirs)
            assert of_worker.capabilities == of_master.capabilities == both, (ours, theirs)
            assert of_worker.program == of_master.program == "clusterd"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        (WireException(3000, "unknown command 'b'caps''"), "stock"),
        (LinkClosed("caps"), ""),
        (b"", ""),
        (b"nonsense", ""),
        (b'{"digest": true}', ""),
        (b'["digest", 1]', ""),
        (b"[" * 100_000, ""),
    ],
    ids=["stock", "closed", "nothing", "word", "object", "number", "deep"],
)
def test_master_that_agrees_to_nothing_is_known_to_be_so_at_once(answer: bytes | Exception, program: str) -> None:
    """The first check waits for the agreement, so it must always come."""

    async def say(payload: bytes) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return answer

    end = End(say)
    asyncio.run(offer_caps(cast(Peer, end), node(*OURS), cast(Any, Notes())))
    assert (end.has_agreed, end.capabilities, end.program) == (True, frozenset(), program)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_master_that_cannot_say_it_now_is_asked_again_and_at_last_over_another_link(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Its sync process was being replaced. Without an agreement this link would be one to a stock master for ever."""
    monkeypatch.setattr(caps, "PAUSES_S", (0.0, 0.0, 0.0))
    left = [ClusterError(1000, "sync process was restarted"), ClusterError(3020, "caps"), ClusterError(1000)][:failures]

    async def say(payload: bytes) -> bytes:
        if left:
            raise left.pop(0)
        return b'["digest"]'

    end, notes = End(say), Notes()
    asyncio.run(offer_caps(cast(Peer, end), node("digest"), cast(Any, notes)))
    assert end.has_agreed
    if failures < 3:
        assert (end.capabilities, end.program, notes.closed) == ({"digest"}, "clusterd", [])
    else:
        assert (end.capabilities, end.program, len(notes.closed)) == (frozenset(), "", 1)
        assert "Error 1000" in notes.closed[0]


def test_master_cannot_agree_to_what_was_not_offered() -> None:
    async def say(payload: bytes) -> bytes:
        return b'["digest", "push", "format-disk"]'

    end = End(say)
    asyncio.run(offer_caps(cast(Peer, end), node("push"), cast(Any, Notes())))
    assert end.capabilities == {"push"}


def test_new_sync_of_the_master_remembers_what_was_agreed() -> None:
    async def story() -> None:
        master = node("digest", "push")
        of_worker, _, notes = await join(master, node("push", "digest", "lz4"))
        ((command, noted),) = notes.kept
        after = End()
        recall(cast(Peer, after), noted, master)
        assert (command, after.capabilities, after.program) == ("caps", of_worker.capabilities, "clusterd")
        less = End()
        recall(cast(Peer, less), noted, node("push"))
        assert less.capabilities == {"push"}

    asyncio.run(story())


def test_worker_that_says_it_again_and_again_is_kept_once() -> None:
    async def story() -> None:
        notes, end = Notes(), End()
        for said in (b'["digest"]', b"[]", b'["push", "digest"]', b'["push"]', b'["push"]'):
            await answer_caps(cast(Peer, end), said, node(*OURS), cast(Any, notes))
        assert notes.kept == [("caps", "push")]

    asyncio.run(story())


def test_worker_that_begins_a_check_without_a_word_of_its_own_is_stock() -> None:
    async def story() -> None:
        silent = End()
        asks_as_stock(cast(Peer, silent))
        assert silent.program == "stock"
        of_worker, _, notes = await join(node("digest"), node("digest"))
        asks_as_stock(cast(Peer, of_worker))
        assert of_worker.program == "clusterd"
        # a node that says it late after all is believed, and net is told once
        await answer_caps(cast(Peer, silent), b'["digest"]', node("digest"), cast(Any, notes))
        assert (silent.program, len(notes.kept)) == ("clusterd", 2)

    asyncio.run(story())


def test_a_masters_command_waits_until_its_answer_about_capabilities_was_read(tmp_path: Path) -> None:
    """The master counts them as agreed as soon as it has answered, and uses them at once."""
    node = Node(tmp_path, "worker", caps=("status",))

    async def story() -> None:
        await node.up(MASTER)
        offered_now = await node.request(MASTER.link, "caps")
        serial = await node.ask(MASTER, "node_state", b"{}")
        await turns()
        assert not [sent for sent in node.sent if isinstance(sent, Reply)]
        await node.says(offered_now, b'["status"]')
        assert (await node.reply(serial)).command == "ok"

    on(node, story())


@pytest.mark.parametrize("answer", [b"[]", None])
def test_what_a_master_has_not_agreed_to_is_unknown_to_it(tmp_path: Path, answer: bytes | None) -> None:
    """None: the link ends before the answer."""
    node = Node(tmp_path, "worker", caps=("status",))

    async def story() -> None:
        await node.up(MASTER)
        offered_now = await node.request(MASTER.link, "caps")
        serial = await node.ask(MASTER, "node_state", b"{}")
        await turns()
        if answer is None:
            await node.core.handle(LinkDown(MASTER.link, ""))
        else:
            await node.says(offered_now, answer)
        assert (await node.reply(serial)).payload == b"unknown command 'b'node_state''"

    on(node, story())

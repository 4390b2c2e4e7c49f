"""The table of peers."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd.messages.links import LinkInfo, LinkUp
from clusterd.settings import Clusterd, Communication, Limits
from clusterd.sync.core import Core
from tests.sync.scripted_node import WORKER, Node, on

LINK = LinkInfo(7, "worker", "w")


class Net:
    def __init__(self) -> None:
        self.closed: list[int] = []

    async def close(self, link: int, reason: str) -> None:
        self.closed.append(link)


def test_link_that_cannot_be_served_as_a_whole_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Core, info: LinkInfo) -> None:
        raise RuntimeError("half of it")

    async def story() -> None:
        net = Net()
        core = Core.__new__(Core)
        core._context = cast(Any, SimpleNamespace(net=net))
        with pytest.raises(RuntimeError):
            await core.handle(LinkUp(LINK))
        assert net.closed == [LINK.link]

    monkeypatch.setattr(Core, "_link_up", fail)
    asyncio.run(story())


def test_reload_changes_times_and_limits_of_links_that_are_up(tmp_path: Path) -> None:
    """docs/operations/reference.md: at once. A link may live for months."""
    node = Node(tmp_path, "master")

    async def story() -> None:
        peer = await node.up(WORKER)
        assert (await node.reply(await node.ask(WORKER, "new_str", b"11"))).command == "ok"
        node.context.settings = msgspec.structs.replace(
            node.context.settings,
            communication=Communication(timeout_cluster_request_s=5.0, max_zip_size_bytes=1000),
            clusterd=Clusterd(limits=Limits(string_bytes=21)),
        )
        node.core.reloaded()
        assert (peer.timeout_s, peer.zip_limit.current) == (5.0, 1000)
        assert (await node.reply(await node.ask(WORKER, "new_str", b"11"))).command == "err"

    on(node, story())

"""The table of peers."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.messages.links import LinkInfo, LinkUp
from clusterd.sync.core import Core

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

"""A master that hands over begins no change of its files for a request of the API, and has those that were answered in
its manifest."""

import asyncio
import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.messages.election import HeldChanges
from clusterd.sync.links.change_gate import ChangeGate
from clusterd.sync.manifest.scan import ScanFailed
from clusterd.sync.requests import handing_over
from clusterd.sync.requests.handing_over import HandingOver
from tests.sync.framework_node import DONE, FakePort, Node, asked
from tests.sync.kept_tree import until

UPLOAD = "wazuh.rule:upload_rule_file"
READ = "wazuh.agent:get_full_overview"


class Slow(FakePort):
    """A framework that answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def run(self, request: Text, **how: Any) -> Text:
        answer = await super().run(request, **how)
        await self.may_end.wait()
        return answer


class Manifests:
    def __init__(self) -> None:
        self.scans = 0
        self.failing_since: float | None = None

    async def scan(self, *, fresh: bool = False) -> None:
        assert fresh, "events of a moment ago may not be here yet"
        self.scans += 1
        if self.failing_since is not None:
            raise ScanFailed("Input/output error")


class Bench:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handing_over, "CHANGES_S", 0.01)
        self.port, self.manifests = Slow(), Manifests()
        self.node = Node(root, self.port)
        context = self.node.context
        context.changes = self.gate = ChangeGate(context.clock)
        seen = SimpleNamespace(changes=self.gate, clock=context.clock, manifests=self.manifests)
        self.over = HandingOver(cast(Any, seen), lambda: 0, lambda name: {})

    async def hold(self, seconds: bytes = b"15") -> HeldChanges:
        return msgspec.json.decode(await self.over.hold(cast(Any, None), seconds), type=HeldChanges)


def test_change_under_way_ends_first_and_a_later_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, monkeypatch)
        first = asyncio.create_task(bench.node.run(asked(UPLOAD), "client"))
        await until(lambda: len(bench.port.asked) == 1)
        assert (await bench.hold()).runs == "upload_rule_file"
        bench.node.context.clock.move(1)  # type: ignore[attr-defined]
        second = asyncio.create_task(bench.node.run(asked(UPLOAD), "worker"))
        reading = asyncio.create_task(bench.node.run(asked(READ), "client"))
        await until(lambda: len(bench.port.asked) == 2)  # reading goes on
        bench.port.may_end.set()
        assert await first == json.loads(DONE)
        await reading
        held = await bench.hold()
        assert (held.runs, bench.manifests.scans) == ("", 1)
        assert held.changed_s is not None
        await bench.hold()
        assert bench.manifests.scans == 1, "nothing has changed since"
        assert (second.done(), len(bench.port.asked)) == (False, 2)
        bench.node.context.clock.move(1)  # type: ignore[attr-defined]
        await bench.hold(b"0")
        assert await second == json.loads(DONE)
        assert (await bench.hold()).changed_s is not None
        assert bench.manifests.scans == 2

    asyncio.run(story())


def test_gate_opens_by_itself_when_nobody_asks_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process `election` was killed meanwhile."""

    async def story() -> None:
        bench = Bench(tmp_path, monkeypatch)
        bench.port.may_end.set()
        assert await bench.hold(b"0.05") == HeldChanges()
        assert await bench.node.run(asked(UPLOAD), "client") == json.loads(DONE)

    asyncio.run(story())


def test_failed_change_counts_as_one_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, monkeypatch)
        bench.port._answers = [ClusterError(1000, "it has written half of it")]
        await bench.node.run(asked(UPLOAD), "client")
        held = await bench.hold()
        assert held.runs == ""
        assert held.changed_s is not None

    asyncio.run(story())


@pytest.mark.parametrize(("failing_for_s", "is_refused"), [(0.0, True), (60.0, True), (-60.0, False)])
def test_master_that_cannot_look_at_its_files_hands_over_unless_one_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_for_s: float, is_refused: bool
) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, monkeypatch)
        bench.port.may_end.set()
        await bench.node.run(asked(UPLOAD), "client")
        bench.manifests.failing_since = bench.node.context.clock.monotonic() - failing_for_s
        if is_refused:
            with pytest.raises(ClusterError, match="Input/output error"):
                await bench.hold()
        else:
            assert await bench.hold() == HeldChanges()

    asyncio.run(story())


@pytest.mark.parametrize("payload", [b"", b"soon", b"nan"])
def test_duration_that_is_none_keeps_nothing_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    async def story() -> None:
        bench = Bench(tmp_path, monkeypatch)
        bench.port.may_end.set()
        with contextlib.suppress(ClusterError):
            await bench.hold(payload)
        assert await bench.node.run(asked(UPLOAD), "client") == json.loads(DONE)

    asyncio.run(story())

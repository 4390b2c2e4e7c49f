"""A framework that cannot be used, and lives of sync."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.messages.base import Text
from clusterd.sync.ports import framework_crew, framework_port
from clusterd.sync.ports.framework_port import FrameworkPort, NotBegun
from clusterd.sync.ports.spool import Spool
from clusterd.wire.results import WireCallable
from tests.fakes.framework import FakeFramework
from tests.framework.lone_port import LonePort
from tests.framework.stories import is_there, play

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"import": "fail"}, "ImportError: libfoo.so.1"),
        ({"import": "exit"}, "half of the framework is not there"),
        ({"items": True}, "cluster.json is broken"),
    ],
)
def test_why_it_cannot_be_used_is_logged_once_and_it_is_tried_again(
    framework: FakeFramework, tmp_path: Path, how: dict[str, Any], text: str
) -> None:
    framework.behave(**how)

    async def story(lone: LonePort) -> None:
        with pytest.raises(NotBegun, match=text):
            await lone.run("wazuh.agent", "get_agents")
        assert lone.port.state == "failed"
        assert text in lone.troubles.shown()["framework"]
        assert text in lone.port.shown()["reason"]
        await lone.until(lambda: lone.port.shown()["started"] >= 3, "it is tried again")
        framework.behave()
        await lone.until(lambda: lone.port.state == "ready", "it can be used")
        assert not lone.troubles.shown()
        assert sum("cannot be started" in line for line in lone.log.lines) == 1
        assert (await lone.run("wazuh.agent", "get_agents"))["total_affected_items"] == 5

    play(story, framework, tmp_path)


def test_half_an_installation_says_so(framework: FakeFramework, tmp_path: Path) -> None:
    for path in (framework.site / "wazuh" / "core").rglob("utils.py"):
        path.unlink()

    async def story(lone: LonePort) -> None:
        with pytest.raises(NotBegun, match=r"No module named 'wazuh.core.cluster.utils'"):
            await lone.run("wazuh.agent", "get_agents")

    play(story, framework, tmp_path)


def test_an_invalid_interpreter_is_reported(framework: FakeFramework, tmp_path: Path) -> None:
    framework.python.unlink()
    framework.python.write_text("#!/bin/sh\necho no library libpython3.10.so.1.0 >&2\nexit 127\n")
    framework.python.chmod(0o755)

    async def story(lone: LonePort) -> None:
        with pytest.raises(NotBegun, match=r"libpython3.10.so.1.0"):
            await lone.run("wazuh.agent", "get_agents")
        framework.python.write_text("no program")
        await lone.until(lambda: "cannot be started" in lone.port.shown()["reason"], "it is tried again")
        with pytest.raises(NotBegun, match="cannot be started"):
            await lone.run("wazuh.agent", "get_agents")

    play(story, framework, tmp_path)


def test_an_import_that_hangs_has_its_time(
    framework: FakeFramework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework_crew, "START_S", 2.0)
    monkeypatch.setattr(framework_port, "START_WAIT_S", 0.2)
    framework.behave(**{"import": "hang"})

    async def story(lone: LonePort) -> None:
        with pytest.raises(NotBegun, match=r"no process of the framework was free within 0\.2 s"):
            await lone.run("wazuh.agent", "get_agents", timeout_s=0.1)
        (hanging,) = await lone.until(lambda: lone.shown, "it is started")
        with pytest.raises(NotBegun, match="it was not ready after"):
            await lone.run("wazuh.agent", "get_agents")
        await lone.until(lambda: not is_there(hanging["pid"]), "it is killed")

    play(story, framework, tmp_path)


def test_another_version_is_used_and_reported(framework: FakeFramework, tmp_path: Path) -> None:
    (framework.site / "wazuh" / "__init__.py").write_text('__version__ = "4.9.0"\n')

    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        assert "version 4.9.0" in lone.troubles.shown()["framework version"]

    play(story, framework, tmp_path)


def test_a_new_life_of_sync_asks_again_and_the_old_helpers_end(
    framework: FakeFramework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterd.supervisor.helpers.STOP_S", 0.5)
    lone = LonePort(framework, tmp_path)

    async def story() -> None:
        async with lone.alive():
            await lone.run("wazuh.agent", "get_agents")
            (before,) = lone.shown
            stuck = asyncio.create_task(lone.run("wazuh.bad_luck", "block_the_loop", seconds=3600))
            await lone.until(lambda: "blocking" in framework.calls, "it does not see that its connection ends")
            stuck.cancel()
            await asyncio.gather(stuck, return_exceptions=True)
            await lone.crew.close()
            lone.row.begin(2, 2)
            lone.make_port(2)
            forever = asyncio.create_task(lone.crew.forever())
            try:
                assert (await lone.run("wazuh.agent", "get_agents"))["total_affected_items"] == 5
                await lone.until(lambda: not is_there(before["pid"]), "the old one ends")
                assert lone.shown[0]["pid"] != before["pid"]
            finally:
                forever.cancel()
                await asyncio.gather(forever, return_exceptions=True)

    asyncio.run(story())


def test_no_descriptor_is_left(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        count = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(ClusterError):
                await lone.run("wazuh.bad_luck", "die", is_read_only=False)
            await lone.run("wazuh.agent", "get_agents")
        await lone.until(lambda: len(os.listdir("/proc/self/fd")) <= count, "all are closed")

    play(story, framework, tmp_path)


@pytest.mark.parametrize("timeout_s", [3600.0, None])
def test_a_change_is_not_begun_after_its_asker_has_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    """However long it may run, it does not wait that long for a process."""
    monkeypatch.setattr(framework_port, "MOST_WAIT_S", 0.05)

    class Busy:
        state, known, cannot = "ready", None, ""

        def free(self) -> None:
            return None

        async def change(self) -> None:
            await asyncio.Event().wait()

    name = WireCallable("add_agent", "wazuh.agent", "add_agent")

    async def story() -> None:
        port = FrameworkPort(cast(Any, Busy()), [("wazuh.agent", "add_agent")], 1, Spool(str(tmp_path), 1), Clock())
        async with asyncio.timeout(60):
            with pytest.raises(NotBegun, match="was free within"):
                await port.run(Text(b"{}"), timeout_s=timeout_s, is_read_only=False, name=name)

    asyncio.run(story())

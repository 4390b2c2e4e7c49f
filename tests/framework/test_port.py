"""Sync's port of the framework, the supervisor's part and real helpers of the fake framework, without a node."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.ports import framework_crew, framework_port
from clusterd.sync.ports.framework_port import NotBegun
from tests.fakes.framework import PASSWORD, FakeFramework
from tests.framework.lone_port import LonePort, no_sigio
from tests.framework.requests import named

pytestmark = pytest.mark.slow
Story = Callable[[LonePort], Awaitable[None]]


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFramework]:
    monkeypatch.setattr(framework_crew, "TICK_S", 0.02)
    monkeypatch.setattr(framework_crew, "FIRST_PAUSE_S", 0.02)
    with no_sigio():
        yield FakeFramework(tmp_path / "root")


def play(story: Story, framework: FakeFramework, tmp_path: Path, **own: Any) -> LonePort:
    lone = LonePort(framework, tmp_path, **own)

    async def whole() -> None:
        async with lone.alive():
            await story(lone)

    asyncio.run(whole())
    return lone


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_first_request_starts_it_and_others_share_it(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await asyncio.sleep(0)
        assert lone.port.state == "idle"
        assert not lone.shown
        assert lone.port.can_run(named("wazuh.nothing", "here"))  # nobody knows yet
        found = await asyncio.gather(
            lone.run("wazuh.agent", "get_agents"),
            lone.run("api.authentication", "check_user_master", user="wazuh", password=PASSWORD),
            lone.run("wazuh.agent", "assign_agents_to_group", group_list=["g"], agent_list=["001"]),
        )
        assert found[0]["total_affected_items"] == 5
        assert found[1]["result"] == {"result": True}
        assert found[2]["affected_items"] == ["001"]
        assert lone.port.state == "ready"
        assert lone.port.can_run(named("wazuh.agent", "get_agents"))
        assert not lone.port.can_run(named("wazuh.nothing", "here"))
        assert not lone.port.can_run(named("os", "system"))
        (helper,) = lone.shown
        assert helper["requests"] == 3
        assert helper["state"] == "ready"
        assert helper["rss_bytes"] > 1 << 20
        assert lone.port.shown()["version"] == "4.14.1"
        assert lone.port.shown()["missing"].keys() == {"wazuh.nothing.here"}

    play(story, framework, tmp_path)


def test_the_start_does_not_count_as_time_of_the_function(framework: FakeFramework, tmp_path: Path) -> None:
    framework.behave(**{"import": "slow"})

    async def story(lone: LonePort) -> None:
        assert (await lone.run("wazuh.agent", "get_agents", timeout_s=2.5))["total_affected_items"] == 5

    play(story, framework, tmp_path)


def test_names_that_are_not_listed_start_nothing(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        with pytest.raises(NotBegun, match="is not one that the framework is asked for"):
            await lone.run("os", "system", command="id")
        await asyncio.sleep(0.1)
        assert not lone.shown
        assert lone.port.state == "idle"

    play(story, framework, tmp_path)


def test_on_starts_it_with_the_node(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.until(lambda: lone.port.state == "ready", "it is ready")

    play(story, framework, tmp_path, mode="on")


def test_permissions_and_the_user_reach_the_function(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        assert (await lone.run("wazuh.security", "get_user_me"))["affected_items"] == [{"id": 1, "username": "wazuh"}]

    play(story, framework, tmp_path)


def test_a_database_that_is_locked_is_a_failure_of_that_request(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        locking = sqlite3.connect(framework.database, isolation_level=None)
        locking.execute("begin exclusive")
        try:
            assert (await lone.run("wazuh.security", "get_users"))["code"] == 1000
        finally:
            locking.close()
        assert len((await lone.run("wazuh.security", "get_users"))["affected_items"]) == 1

    play(story, framework, tmp_path)


def test_the_cluster_key_leaves_no_node(framework: FakeFramework, tmp_path: Path) -> None:
    (framework.root / "etc").mkdir()
    (framework.root / "etc" / "ossec.conf").write_text(f"<key>{'c98b62a9b6169ac5f67dae55ae4a9088'}</key>")

    async def story(lone: LonePort) -> None:
        assert (await lone.run("wazuh.manager", "read_ossec_conf"))["result"]["data"]["cluster"]["key"] == "*****"
        raw = await lone.run("wazuh.manager", "read_ossec_conf", raw=True)
        assert raw["result"] == {"message": "<key>*****</key>"}

    play(story, framework, tmp_path)


def test_what_dies_while_it_reads_is_run_again_once(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        with pytest.raises(ClusterError, match="ended before it answered"):
            await lone.run("wazuh.bad_luck", "die", text="reading")
        assert framework.calls == ["died-reading"] * 2
        assert len(set(framework.pids)) == 2

    play(story, framework, tmp_path)


def test_what_dies_while_it_changes_something_is_never_run_twice(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        with pytest.raises(ClusterError, match="ended before it answered") as caught:
            await lone.run("wazuh.bad_luck", "die", is_read_only=False, text="changing", signal=11)
        assert not isinstance(caught.value, NotBegun)
        assert (await lone.run("wazuh.agent", "get_agents"))["total_affected_items"] == 5
        assert framework.calls == ["died-changing"]
        assert "ended by SIGSEGV" in lone.log
        assert "Fatal Python" in lone.log or "Segmentation fault" in lone.log

    play(story, framework, tmp_path)


def test_others_that_only_read_do_not_notice_a_death(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        slow = asyncio.create_task(lone.run("wazuh.bad_luck", "sleep_first", seconds=3600, text="slow"))
        await lone.until(lambda: "slept-slow" in framework.calls, "it has begun")
        with pytest.raises(ClusterError):
            await lone.run("wazuh.bad_luck", "die", is_read_only=False)
        assert (await slow)["result"] == {"slept": 3600}
        assert framework.calls.count("slept-slow") == 2

    play(story, framework, tmp_path)


@pytest.mark.parametrize("function", ["compute_for_ever", "sleep", "block_the_loop"])
def test_at_the_deadline_the_asker_hears_it_and_the_process_is_killed(
    framework: FakeFramework, tmp_path: Path, function: str
) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        (before,) = lone.shown
        arguments = {} if function == "compute_for_ever" else {"seconds": 3600}
        with pytest.raises(ClusterError, match="Error 3021") as caught:
            await lone.run("wazuh.bad_luck", function, timeout_s=0.5, **arguments)
        assert not isinstance(caught.value, NotBegun)
        await lone.until(lambda: not is_there(before["pid"]), "it is killed")
        assert (await lone.run("wazuh.agent", "get_agents"))["total_affected_items"] == 5
        assert lone.shown[0]["pid"] != before["pid"]

    play(story, framework, tmp_path)


def test_a_deadline_hurts_nobody_else_on_that_process(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        (before,) = lone.shown
        changing = asyncio.create_task(
            lone.run("wazuh.bad_luck", "sleep", is_read_only=False, seconds=1.5, text="changing")
        )
        await lone.until(lambda: "slept-changing" in framework.calls, "it has begun")
        with pytest.raises(ClusterError, match="3021"):
            await lone.run("wazuh.bad_luck", "sleep", timeout_s=0.2, seconds=3600)
        assert (before["pid"], "ready") not in [(helper["pid"], helper["state"]) for helper in lone.shown]
        assert (await changing)["result"] == {"slept": 1.5}
        assert framework.calls.count("slept-changing") == 1
        await lone.until(lambda: not is_there(before["pid"]), "it is gone")

    play(story, framework, tmp_path)


def test_an_asker_that_goes_away_is_forgotten(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        (before,) = lone.shown
        gone = asyncio.create_task(lone.run("wazuh.bad_luck", "large", megabytes=8))
        await lone.until(lambda: lone.shown[0]["running"] == 1, "it is asked")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await lone.until(lambda: lone.shown[0]["running"] == 0, "it has answered nobody")
        assert lone.shown[0]["pid"] == before["pid"]
        # its file is gone: LonePort.alive looks

    play(story, framework, tmp_path)


def test_worn_processes_are_replaced_with_no_request_lost(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        pids = set()
        deadline = time.monotonic() + 60
        while len(pids) < 3:
            assert time.monotonic() < deadline
            assert (await lone.run("wazuh.agent", "get_agents"))["total_affected_items"] == 5
            pids |= {helper["pid"] for helper in lone.shown if helper["state"] == "ready"}
            await asyncio.sleep(0.02)
        await lone.until(lambda: sum(is_there(pid) for pid in pids) <= 2, "the first is gone")
        assert "is replaced after" in lone.log

    play(story, framework, tmp_path, requests=5, processes=1)


def test_a_process_that_leaks_is_replaced(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        (before,) = lone.shown
        await lone.run("wazuh.bad_luck", "leak", megabytes=150)
        await lone.until(lambda: not is_there(before["pid"]), "it is replaced")
        assert "MiB of memory" in lone.log
        assert (await lone.run("wazuh.agent", "get_agents"))["total_affected_items"] == 5

    play(story, framework, tmp_path, memory_bytes=128 << 20)


def test_a_process_that_takes_all_memory_is_not_waited_for(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        with contextlib.suppress(ClusterError):  # it may be killed before it has answered
            await lone.run("wazuh.bad_luck", "leak", is_read_only=False, megabytes=120)
        await lone.until(lambda: "and is killed" in lone.log, "it is killed")

    play(story, framework, tmp_path, memory_bytes=32 << 20)


def test_what_a_function_leaves_behind_goes_with_its_process(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        child = (await lone.run("wazuh.bad_luck", "fork_and_stay"))["result"]["pid"]
        assert is_there(child)
        with pytest.raises(ClusterError):
            await lone.run("wazuh.bad_luck", "die", is_read_only=False)
        await lone.until(lambda: not is_there(child), "it is gone")

    play(story, framework, tmp_path)


def test_an_answer_above_the_limit_is_refused_clearly(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        for function in ("large", "long_text"):
            with pytest.raises(ClusterError, match="more than 4194304 bytes: ask for less") as caught:
                await lone.run("wazuh.bad_luck", function, megabytes=10)
            assert not isinstance(caught.value, NotBegun)
        assert len((await lone.run("wazuh.bad_luck", "large", megabytes=2))["affected_items"]) == 2048

    play(story, framework, tmp_path, answer_bytes=4 << 20)


def test_what_is_printed_is_in_the_log_within_bounds(
    framework: FakeFramework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework_crew, "PRINTED_S", 1.0)

    async def story(lone: LonePort) -> None:
        began = time.monotonic()
        await lone.run("wazuh.bad_luck", "say", lines=5000, text="an Error and a Traceback")
        await lone.until(lambda: "more lines" in lone.log, "the rest is counted")
        printed = [line for line in lone.log.lines if "framework-1:" in line]
        assert 1 <= len(printed) <= framework_crew.PRINTED_LINES * (time.monotonic() - began + 1)
        assert all(line.startswith("INFO") for line in printed)
        assert not any("error" in line.lower() or "traceback" in line.lower() for line in printed)

    play(story, framework, tmp_path)


def test_nobody_takes_all_places(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        greedy = [
            asyncio.create_task(lone.run("wazuh.bad_luck", "sleep", asker="w1", seconds=3600, timeout_s=None))
            for _ in range(40)
        ]
        await lone.until(lambda: lone.port.shown()["running"] == 6, "as many run as may")
        assert (await lone.run("wazuh.agent", "get_agents", asker="w2"))["total_affected_items"] == 5
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)

    play(story, framework, tmp_path, processes=1)


def test_too_many_requests_of_one_asker_are_refused(
    framework: FakeFramework, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framework_port, "KNOWN_SOURCE", 3)

    async def story(lone: LonePort) -> None:
        waiting = [asyncio.create_task(lone.run("wazuh.bad_luck", "sleep", asker="w1", seconds=0.1)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(NotBegun, match="too many"):
            await lone.run("wazuh.agent", "get_agents", asker="w1")
        await asyncio.gather(*waiting)

    play(story, framework, tmp_path)


@pytest.mark.parametrize("askers", [6, 30])
def test_under_load_there_are_more_processes_and_never_more_than_wanted(
    framework: FakeFramework, tmp_path: Path, askers: int
) -> None:
    async def story(lone: LonePort) -> None:
        async def ask(asker: str) -> None:
            while len(set(framework.pids)) < 2:
                await lone.run("wazuh.bad_luck", "sleep", asker=asker, seconds=0.1, text="busy")

        async with asyncio.timeout(60):
            await asyncio.gather(*(ask(f"w{number}") for number in range(askers)))
        assert len(lone.shown) == 2
        assert lone.port.shown()["started"] == 2

    play(story, framework, tmp_path, processes=2)


# ---- it cannot be used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"import": "fail"}, "ImportError: libfoo.so.1"),
        ({"import": "exit"}, "half of the framework is not there"),
        ({"items": True}, "cluster.json is broken"),
    ],
)
def test_why_it_cannot_be_used_is_said_once_and_it_is_tried_again(
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


def test_an_interpreter_that_is_none_says_so(framework: FakeFramework, tmp_path: Path) -> None:
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


def test_another_version_is_used_and_said(framework: FakeFramework, tmp_path: Path) -> None:
    (framework.site / "wazuh" / "__init__.py").write_text('__version__ = "4.9.0"\n')

    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        assert "version 4.9.0" in lone.troubles.shown()["framework version"]

    play(story, framework, tmp_path)


# ---- lives of sync ---------------------------------------------------------------------------------------------------


def test_a_new_life_of_sync_asks_anew_and_the_old_helpers_end(
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

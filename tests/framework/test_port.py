"""Processes of the framework: what runs in them, how many there are, and how they end."""

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.ports import framework_output, framework_port
from clusterd.sync.ports.framework_port import NotBegun
from tests.fakes.framework import PASSWORD, FakeFramework
from tests.framework.lone_port import LonePort
from tests.framework.requests import named
from tests.framework.stories import is_there, play
from tools.rig.patience import Patience

pytestmark = pytest.mark.slow


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


def test_a_deadline_ends_no_other_request_of_that_process(framework: FakeFramework, tmp_path: Path) -> None:
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


def test_what_changes_something_ends_once_although_its_asker_was_restarted(
    framework: FakeFramework, tmp_path: Path
) -> None:
    """As when the API is restarted: its connection ends in the middle, and it asks other things on a new one."""

    async def story(lone: LonePort) -> None:
        await lone.run("wazuh.agent", "get_agents")
        (before,) = lone.shown
        changes = {"is_read_only": False, "seconds": 0.5, "text": "changing"}
        gone = asyncio.create_task(lone.run("wazuh.bad_luck", "sleep", asker="the API", **changes))
        await lone.until(lambda: "slept-changing" in framework.calls, "it has begun")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        found = await lone.run("wazuh.agent", "get_agents", asker="the API")
        assert found["total_affected_items"] == 5
        await lone.until(lambda: lone.shown[0]["running"] == 0, "it has ended")
        assert [helper["pid"] for helper in lone.shown] == [before["pid"]]
        assert framework.calls == ["slept-changing"]

    play(story, framework, tmp_path)


def test_worn_processes_are_replaced_with_no_request_lost(framework: FakeFramework, tmp_path: Path) -> None:
    async def story(lone: LonePort) -> None:
        pids = set()
        patience = Patience(60)
        while len(pids) < 3:
            assert not patience.is_over()
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


def test_what_a_function_leaves_behind_is_removed_with_its_process(framework: FakeFramework, tmp_path: Path) -> None:
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
    monkeypatch.setattr(framework_output, "PRINTED_S", 1.0)

    async def story(lone: LonePort) -> None:
        began = time.monotonic()
        await lone.run("wazuh.bad_luck", "say", lines=5000, text="an Error and a Traceback")
        await lone.until(lambda: "more lines" in lone.log, "the rest is counted")
        printed = [line for line in lone.log.lines if "framework-1:" in line]
        assert 1 <= len(printed) <= framework_output.PRINTED_LINES * (time.monotonic() - began + 1)
        assert all(line.startswith("INFO") for line in printed)
        assert not any("error" in line.lower() or "traceback" in line.lower() for line in printed)

    play(story, framework, tmp_path)


def test_no_asker_takes_all_places(framework: FakeFramework, tmp_path: Path) -> None:
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

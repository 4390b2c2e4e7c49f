"""The cost of a request to the framework in addition to its function: CPU of the framework's process and of sync's
side, with the fake framework, whose functions do almost nothing."""

import asyncio
import time
from pathlib import Path

import psutil
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.fakes.framework import FakeFramework
from tests.framework.lone_port import LonePort, no_sigio

CALLS = 200


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (("wazuh.agent", "get_agents"), {}),
        (("wazuh.agent", "assign_agents_to_group"), {"agent_list": ["001"] * 500}),
        (("wazuh.bad_luck", "page"), {"agents": 500}),
        (("wazuh.bad_luck", "large"), {"megabytes": 1}),
    ],
    ids=["small", "coroutine", "page of 500 agents", "answer of 1 MiB"],
)
@pytest.mark.parametrize("at_once", [1, 8])
def test_cpu_of_a_call(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: tuple[str, str],
    arguments: dict[str, object],
    at_once: int,
) -> None:
    async def measure() -> tuple[float, float, float, int]:
        async with LonePort(FakeFramework(tmp_path / "root"), tmp_path, processes=1).alive() as lone:
            await lone.run(*name, **arguments)
            helper = psutil.Process(lone.shown[0]["pid"])

            async def some() -> None:
                for _ in range(CALLS // at_once):
                    answer = await lone.answer(*name, timeout_s=60.0, is_read_only=True, asker="", **arguments)
                    lone.spool.remove(
                        *filter(None, [answer.path])
                    )  # sync does not look into an answer, it passes it on

            theirs, ours, began = helper.cpu_times(), time.process_time(), time.perf_counter()
            await asyncio.gather(*(some() for _ in range(at_once)))
            took_s = time.perf_counter() - began
            after = helper.cpu_times()
            cpu_s = after.user + after.system - theirs.user - theirs.system
            return cpu_s, time.process_time() - ours, took_s, helper.memory_full_info().uss

    with no_sigio():
        theirs_s, ours_s, took_s, uss = benchmark.pedantic(lambda: asyncio.run(measure()), rounds=1)
    with capsys.disabled():
        print(
            f"\n{at_once} at a time: framework {theirs_s / CALLS * 1000:.2f} ms, sync's side "
            f"{ours_s / CALLS * 1000:.2f} ms of CPU a call, {took_s / CALLS * 1000:.2f} ms each; {uss >> 20} MiB of "
            "memory"
        )

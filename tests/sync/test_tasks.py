"""Tasks whose result no caller awaits."""

import asyncio

import pytest

from clusterd.errors import ClusterError
from clusterd.sync.ports.tasks import Tasks


def test_unforeseen_failure_is_logged_and_a_cancelled_task_is_none() -> None:
    told: list[str] = []

    async def fail() -> None:
        raise KeyError("surprise")

    async def story() -> None:
        tasks = Tasks(told.append)
        tasks.spawn(fail())
        tasks.spawn(asyncio.sleep(60))
        while len(tasks) > 1:
            await asyncio.sleep(0)
        await tasks.close()
        assert not len(tasks)

    asyncio.run(story())
    assert len(told) == 1
    assert "KeyError: 'surprise'" in told[0]


def test_no_more_tasks_than_the_limit() -> None:
    async def story() -> None:
        tasks = Tasks(print, most=2)
        tasks.spawn(asyncio.sleep(60))
        tasks.spawn(asyncio.sleep(60))
        with pytest.raises(ClusterError, match="2 answers"):
            tasks.spawn(asyncio.sleep(60))
        await tasks.close()
        tasks.spawn(asyncio.sleep(0))
        await tasks.close()

    asyncio.run(story())

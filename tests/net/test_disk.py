"""The thread that does net's work on the disk."""

import asyncio
import threading

import pytest

from clusterd.net import disk
from clusterd.net.disk import DiskThread


def test_while_the_disk_hangs_the_newest_of_each_kind_waits_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_WAITING", 3)
    hangs, began, done = threading.Event(), threading.Event(), list[str]()

    def hang() -> None:
        began.set()
        hangs.wait(60)

    async def story() -> None:
        thread = DiskThread()
        hanging = thread.run("term", hang)
        await asyncio.to_thread(began.wait, 60)
        asked = [
            thread.run("settings", lambda number=number: done.append(f"settings {number}")) for number in range(50)
        ]
        asked += [thread.run(f"w{number}", lambda number=number: done.append(f"w{number}")) for number in range(3)]  # type: ignore[misc]
        asked.append(thread.run("w0", lambda: done.append("w0 again")))
        assert len(thread._waiting) == 3
        hangs.set()
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert hanging.done()
        assert [isinstance(one, asyncio.CancelledError) for one in ended] == [True] * 49 + [
            False,
            True,
            False,
            False,
            False,
        ]
        assert isinstance(ended[52], OSError), "one too many"
        assert done == ["settings 49", "w0 again", "w1"]

    asyncio.run(story())


def test_thread_that_cannot_be_made_is_a_failure_of_that_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker's hello ended in an exception, and no term was ever kept on the disk after that."""
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def starting(thread: threading.Thread) -> None:
        if thread.name == "disk" and failures:
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)

    async def story() -> None:
        thread = DiskThread()
        with pytest.raises(OSError, match="can't start new thread"):
            await thread.run("term", lambda: "never")
        async with asyncio.timeout(60):
            assert await thread.run("term", lambda: "kept") == "kept"

    asyncio.run(story())

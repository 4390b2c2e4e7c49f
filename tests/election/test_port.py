"""The socket of the election: requests of the store, of sync and of operators, and the answers when it cannot serve."""

import asyncio
import os
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from clusterd.election.port import ElectionServer
from clusterd.errors import ClusterError
from clusterd.messages.election import ConfirmingSet, FailsafeAnswer, FailsafeAsked, HaAnswer, HaCommand, SetConfirming
from clusterd.rounds import Rounds
from clusterd.rundir import election_socket, run_dir
from clusterd.wdb.election import ElectionPort
from clusterd.wdb.stream import Stream


async def answer(request: Any) -> Any:
    match request:
        case SetConfirming(term, name, position):
            return ConfirmingSet(name, (term, position) == (7, 40), "not that term")
        case FailsafeAsked(_, leader):
            return FailsafeAnswer(leader == "one")
        case HaCommand("switchover"):
            raise RuntimeError("a bug")
        case HaCommand():
            return HaAnswer(ok=True, facts={"leader": request.to})


def served(root: Path, story: Callable[[ElectionPort], Coroutine[Any, Any, None]]) -> list[str]:
    """Runs a story against a server; returns its log lines."""
    lines: list[str] = []
    Path(run_dir(str(root))).mkdir(parents=True, exist_ok=True)

    async def run() -> None:
        server = ElectionServer(str(root), answer, Rounds(lambda level, text: lines.append(f"{level} {text}")))
        await server.start()
        try:
            await story(ElectionPort(str(root)))
        finally:
            await server.stop()

    asyncio.run(run())
    return lines


def test_each_request_is_answered_and_only_the_owner_may_use_the_socket(tmp_path: Path) -> None:
    async def story(port: ElectionPort) -> None:
        assert stat.S_IMODE(os.stat(election_socket(str(tmp_path))).st_mode) == 0o600
        assert (await port.set_confirming(7, "two", 40, 30)).ok
        assert await port.set_confirming(8, "two", 40, 30) == ConfirmingSet("two", ok=False, why="not that term")
        assert (await port.failsafe(7, "one", 15.0, 30)).yes
        assert not (await port.failsafe(7, "two", 15.0, 30)).yes
        assert (await port.command(HaCommand("status", "x"), 30)).facts == {"leader": "x"}

    assert served(tmp_path, story) == []
    assert not os.path.exists(election_socket(str(tmp_path)))


def test_bug_or_nonsense_ends_only_one_request(tmp_path: Path) -> None:
    async def story(port: ElectionPort) -> None:
        with pytest.raises(ClusterError, match="bug of the election"):
            await port.command(HaCommand("switchover"), 30)
        async with Stream(election_socket(str(tmp_path)), 30) as stream:
            assert b"cannot be read" in await stream.ask(b"\xc1nonsense")
        assert (await port.failsafe(7, "one", 15.0, 30)).yes

    (first, *_) = served(tmp_path, story)
    assert first.startswith("ERROR answering")


def test_request_without_an_election_process_is_answered_with_that_reason(tmp_path: Path) -> None:
    async def story() -> None:
        port = ElectionPort(str(tmp_path))
        with pytest.raises(ClusterError, match="no election runs on this node"):
            await port.failsafe(7, "one", 15.0, 30)
        Path(run_dir(str(tmp_path))).mkdir(parents=True)
        server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), election_socket(str(tmp_path)))
        with pytest.raises(ClusterError, match="cannot be asked"):
            await port.failsafe(7, "one", 15.0, 30)
        server.close()

    asyncio.run(story())

"""The client of the agent database while the server behind its socket is starting."""

import asyncio
from pathlib import Path

import pytest

from clusterd.rundir import WDB_SOCKET
from clusterd.wdb.client import Database, DatabaseError
from clusterd.wdb.stream import frame


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = int.from_bytes(await reader.readexactly(4), "little")
    await reader.readexactly(size)
    writer.write(frame(b'ok [{"n":1}]'))
    await writer.drain()
    writer.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / WDB_SOCKET).parent.mkdir(parents=True)
    return tmp_path


def test_server_that_is_starting_is_waited_for(root: Path) -> None:
    async def story() -> None:
        asking = asyncio.create_task(Database(str(root), start_s=60.0).rows("select 1 as n"))
        await asyncio.sleep(0)
        server = await asyncio.start_unix_server(answer, str(root / WDB_SOCKET))
        async with server, asyncio.timeout(60):
            assert await asking == [{"n": 1}]

    asyncio.run(story())


def test_server_that_never_comes_is_an_answer_at_once_after_the_start(root: Path) -> None:
    async def story() -> None:
        async with asyncio.timeout(60):
            for start_s in (0.0, 0.1):
                with pytest.raises(DatabaseError, match="2005"):
                    await Database(str(root), start_s).rows("select 1 as n")

    asyncio.run(story())

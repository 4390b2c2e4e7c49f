"""A spool that takes nothing: no table of a link fills up with entries without a file, and the failure is reported
once."""

import asyncio
import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.base import INLINE_BYTES
from clusterd.settings import Limits
from clusterd.sync.links.incoming import Incoming
from clusterd.sync.links.partials import Partials
from clusterd.sync.ports.spool import AGAIN_S, UNWRITABLE, Spool, SpoolRefused
from clusterd.sync.ports.troubles import Troubles
from clusterd.sync.requests.blobs import JsonBlobs
from clusterd.wire.transfer import IncomingFile
from ipc.arena import Arena
from tests.sync.fake_pool import FakePool, port
from tests.sync.rounds_bench import TagLog

PATH = "/queue/cluster/w1/a.zip"
TASK = "7b0f3b8e-0000-4000-8000-000000000001"


class Disk:
    """Creates no file while `is_closed`, writes nothing while `is_full`; reading and removing work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
        self.is_closed = self.is_full = False
        self._below = str(below)
        self._open, self._write = os.open, os.pwrite
        monkeypatch.setattr(os, "open", self._make)
        monkeypatch.setattr(os, "pwrite", self._put)

    def _make(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if self.is_closed and flags & os.O_CREAT and str(path).startswith(self._below):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return self._open(path, flags, *rest, **options)

    def _put(self, fd: int, data: Any, offset: int) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data, offset)


class Link:
    """What one worker sends to a node whose spool is on that disk."""

    def __init__(self, root: Path) -> None:
        self.lines: list[tuple[str, str]] = []
        self.troubles = Troubles()
        self.spool = Spool(str(root), 1, self.troubles, cast(Any, TagLog(self.lines)))
        self.spool.prepare()
        self.partials = Partials(self.spool, lambda: 0.0)
        self.incoming = Incoming(
            "w1",
            self.spool,
            port(FakePool(str(root), Arena(0, 1, 65536))),
            file_limit=1 << 20,
            limits=Limits(),
            now=lambda: 0.0,
            partials=self.partials,
        )
        self.incoming.expect(TASK)

    @property
    def files(self) -> list[str]:
        return os.listdir(self.spool.directory)

    def refused(self, work: Callable[[], object]) -> None:
        with pytest.raises(SpoolRefused):
            work()

    async def all_works(self) -> None:
        """As many strings and files as a link may have."""
        incoming = self.incoming
        names = [incoming.strings.begin(b"2") for _ in range(Limits().strings_per_link)]
        for name in names:
            await incoming.strings.chunk(f"{name} hi".encode(), None)
        assert Path((await incoming.strings.take(names[0])).path).read_bytes() == b"hi"
        incoming.new_file(PATH.encode())
        await incoming.file_chunk(f"{PATH} hi".encode(), None)
        await incoming.end_file(f"{PATH} ".encode() + sha256(b"hi").digest())
        await incoming.end_task(f"{TASK} {PATH[1:]}".encode())
        awaited = incoming.awaited(TASK)
        assert awaited is not None
        found: IncomingFile = awaited.file.result()
        assert Path(found.place).read_bytes() == b"hi"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch, tmp_path)


def run(story: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story

    asyncio.run(bounded())


def test_strings_and_files_that_could_not_be_made_take_no_places(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        disk.is_closed = True
        for _ in range(3 * Limits().strings_per_link):
            link.refused(lambda: link.incoming.strings.begin(b"2"))
            link.refused(lambda: link.incoming.new_file(PATH.encode()))
        assert link.files == []
        disk.is_closed = False
        await link.all_works()

    run(story())


def test_strings_and_files_whose_bytes_could_not_be_written_leave_their_places(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        disk.is_full = True
        for _ in range(3 * Limits().strings_per_link):
            name = link.incoming.strings.begin(b"2")
            with pytest.raises(SpoolRefused):
                await link.incoming.strings.chunk(f"{name} hi".encode(), None)
            link.incoming.new_file(PATH.encode())
            with pytest.raises(SpoolRefused):
                await link.incoming.file_chunk(f"{PATH} hi".encode(), None)
        assert link.files == []
        disk.is_full = False
        await link.all_works()

    run(story())


def test_length_that_no_string_has_is_refused_and_is_no_trouble_of_the_spool(tmp_path: Path) -> None:
    """A peer could fill log and journal with a spool that is full and has room again."""

    async def story() -> None:
        link = Link(tmp_path)
        for length in (b"9" * 20, str(Limits().string_bytes + 1).encode()):
            with pytest.raises(ClusterError, match="strings of more than"):
                link.incoming.strings.begin(length)
        assert (link.troubles.shown(), link.lines, link.files) == ({}, [], [])

    run(story())


def test_package_that_goes_on_and_cannot_be_written_is_not_kept(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        link, claim = Link(tmp_path), f"{'0' * 64} 100".encode()
        await link.incoming.resume_file(claim)
        link.incoming.new_file(PATH.encode())
        await link.incoming.file_chunk(f"{PATH} hi".encode(), None)
        disk.is_full = True
        with pytest.raises(SpoolRefused):
            await link.incoming.file_chunk(f"{PATH} ho".encode(), None)
        link.incoming.forget(TASK)
        assert link.files == []
        link.incoming.expect(TASK)
        assert await link.incoming.resume_file(claim) == 0

    run(story())


def test_string_that_cannot_be_completed_is_refused_and_removed(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def story() -> None:
        link = Link(tmp_path)
        name = link.incoming.strings.begin(b"2")
        monkeypatch.setattr(os, "truncate", refuse)
        with pytest.raises(SpoolRefused):
            await link.incoming.strings.take(name)
        assert link.files == []

    run(story())


def test_a_refusing_spool_is_logged_once_and_shown_until_it_takes_bytes_again(tmp_path: Path, disk: Disk) -> None:
    async def story() -> None:
        link = Link(tmp_path)
        disk.is_closed = True
        for _ in range(100):
            link.refused(lambda: link.incoming.strings.begin(b"2"))
        link.spool.tidy(AGAIN_S)
        assert [level for level, _ in link.lines] == ["error"]
        assert "Permission denied" in link.troubles.shown()[UNWRITABLE]
        disk.is_closed = False
        link.spool.tidy(3 * AGAIN_S)
        assert not link.troubles.shown()
        assert link.files == []
        assert [level for level, _ in link.lines] == ["error", "info"]

    run(story())


def test_text_that_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path), 1)
    spool.prepare()

    def refuse(path: str, mode: str) -> Any:
        os.close(os.open(path, os.O_CREAT))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError):
        JsonBlobs(spool).write(bytes(INLINE_BYTES + 1))
    assert os.listdir(spool.directory) == []

"""The copy of the log on standard error never waits for whoever reads it."""

import errno
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from clusterd.foreground import Foreground
from clusterd.logs import Log

LINES = 5000
TEXT = "x" * 200


@pytest.mark.parametrize("kind", ["pipe", "pipe of another user", "socket"])
def test_a_reader_that_stops_loses_lines_and_hears_how_many(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "socket":
        ours, theirs = (one.detach() for one in socket.socketpair())
    else:
        theirs, ours = os.pipe()
    open_really = os.open

    def refuses(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).startswith("/proc/self/fd/"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return open_really(path, *arguments, **more)

    if kind == "pipe of another user":
        monkeypatch.setattr(os, "open", refuses)
    stream = Foreground(ours)
    log = Log(str(tmp_path / "cluster.log"), stream=stream)
    try:
        for number in range(LINES):
            log.line("INFO", "Cluster", "Main", f"{number} {TEXT}")
        os.set_blocking(theirs, False)
        first = read(theirs)
        log.line("INFO", "Cluster", "Main", "read again")
        text = (first + read(theirs)).decode()
    finally:
        log.close()
        stream.close()
        os.close(ours)
        os.close(theirs)
    lines = text.splitlines()
    assert all(re.fullmatch(rf"\S+ \S+ INFO: \[Cluster\] \[Main\] \d+ {TEXT}", line) for line in lines[:-2])
    assert 0 < len(lines) - 2 < LINES
    assert lines[-2].endswith(
        f"WARNING: [Cluster] [Log] {LINES - len(lines) + 2} lines were left out here: nobody read them."
    )
    assert lines[-1].endswith("read again")
    assert (tmp_path / "cluster.log").read_text().count(TEXT) == LINES


def test_a_reader_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    stream = Foreground(ours)
    log = Log(str(tmp_path / "cluster.log"), stream=stream)
    for _ in range(2):
        log.line("INFO", "Cluster", "Main", "still written")
    log.close()
    stream.close()
    os.close(ours)
    assert (tmp_path / "cluster.log").read_text().count("still written") == 2


def read(fd: int) -> bytes:
    found = b""
    try:
        while piece := os.read(fd, 65536):
            found += piece
    except BlockingIOError:
        pass
    return found

"""`--watch` of every command: in place on a terminal, one after another in a pipe, one line each for programs."""

import contextlib
import fcntl
import io
import itertools
import json
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from clusterd.status.control import NotAnswering
from tests.fakes.answering_node import answering_node, busy_master
from tools import watching
from tools.cli import cluster
from tools.drawing import Parts, Styled, cells
from tools.watching import watch, watch_json

TIME = "2026-11-30 03:04:05"


@pytest.fixture(autouse=True)
def two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second pause is interrupted."""
    pauses = itertools.cycle([None, KeyboardInterrupt()])

    def sleep(_: float) -> None:
        interrupt = next(pauses)
        if interrupt is not None:
            raise interrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=sleep, strftime=lambda form: TIME))


def looks(*answers: Any) -> Callable[[], Any]:
    left = iter(answers)

    def look() -> Any:
        answer = next(left)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return look


@contextlib.contextmanager
def terminal(lines: int, columns: int) -> Iterator[io.StringIO]:
    """Standard output that says of itself that it is a terminal of this size."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return its

    before, sys.stdout = sys.stdout, Screen()
    try:
        yield sys.stdout
    finally:
        sys.stdout = before
        os.close(ours)
        os.close(its)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


def test_pipe_gets_every_view_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    watch(looks(Styled("a"), NotAnswering("nobody answers")), 1)
    assert capsys.readouterr().out == f"{TIME}\na\n\n{TIME}\nclusterd: nobody answers\n\n"


@pytest.mark.usefixtures("plain")
def test_terminal_shows_what_fits_and_how_much_does_not_and_keeps_the_last_view_whole() -> None:
    many = Parts(*(Styled(f"line {number}") for number in range(40)))
    with terminal(24, 80) as screen:
        watch(looks(many, Styled("short")), 1)
    views, _, last = screen.getvalue().partition(watching.END)
    begun, first, second = views.split(watching.TO_THE_TOP)
    assert begun == watching.BEGIN
    shown = first.removesuffix(watching.REST_OF_SCREEN).replace(watching.REST_OF_LINE, "").split("\n")
    assert (len(shown), shown[1], shown[22]) == (24, "line 0", "line 21")
    assert "and 18 more lines" in shown[23]
    assert "short" in second
    assert last == "short\n"


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("columns", [80, 200])
def test_status_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    with answering_node(tmp_path, {"status": busy_master()}), terminal(24, columns) as screen:
        with contextlib.suppress(SystemExit):
            cluster.main(["--root", str(tmp_path), "status", "--watch"], standalone_mode=False)
    first = screen.getvalue().split(watching.TO_THE_TOP)[1].removesuffix(watching.REST_OF_SCREEN)
    lines = [line.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "") for line in first.split("\n")]
    assert len(lines) == 24
    assert lines[1].startswith("DEGRADED  ")
    assert max(cells(line.removesuffix(watching.REST_OF_LINE)) for line in lines) <= columns


def test_programs_get_a_line_each_and_problems_go_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    watch_json(looks({"n": 1}, NotAnswering("nobody answers")), 1)
    assert capsys.readouterr() == ('{"n": 1}\n', "clusterd: nobody answers\n")


@pytest.mark.parametrize("command", ["status", "control nodes", "control health", "ha status"])
def test_every_command_that_goes_on_writes_to_a_pipe_and_a_line_for_programs(tmp_path: Path, command: str) -> None:
    answers = {
        "status": busy_master(),
        "get_nodes": {"items": [], "totalItems": 0},
        "get_members": {"workers": [], "refused": []},
        "get_health": {"n_connected_nodes": 0, "nodes": {}},
    }
    with answering_node(tmp_path, answers):
        done = CliRunner().invoke(cluster, ["--root", str(tmp_path), *command.split(), "--watch"])
        assert (done.exit_code, done.output.count(TIME)) == (0, 2)
        done = CliRunner().invoke(cluster, ["--root", str(tmp_path), *command.split(), "--watch", "--json"])
        assert (done.exit_code, len([json.loads(line) for line in done.output.splitlines()])) == (0, 2)

"""Commands that do without click mean what they mean with it, and end in the same way."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.build import installed, note
from clusterd.exits import ExitCode
from clusterd.status.status import StatusReader
from clusterd.status.verdict import hindrances
from tests.fakes.answering_node import answering_node, busy_master
from tools import at_once
from tools.cli import cluster
from tools.node_address import NodeAddress

WORDS = (
    *("status", "check", "check-config", "version", "--json", "--no-exit-code", "--watch", "--connect", "--help"),
    *(
        "--root",
        "--root=/a",
        "--root=",
        "/b",
        "x/y",
        "--warn-lag",
        "--warn-lag=5",
        "--crit-lag=2.5",
        "--expect",
        "--expect=3",
    ),
    *("7", "0.5", "-1", "1e3", "nan", "٣", "", "--", "-h", "--jso", "stop"),
)
PLACES = {
    "status": ("root", "as_json", "no_exit_code"),
    "check": ("root", "warn_s", "crit_s", "expect"),
    "check_config": ("root",),
    "version": ("root", "as_json"),
}
"""Of each function the arguments that click passes."""


@pytest.mark.parametrize("name", sorted(set(at_once.QUICK) - {"version"}))
def test_every_option_that_is_understood_is_one_of_click(name: str) -> None:
    quick, command = at_once.QUICK[name], cluster.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    options = {option.opts[0]: option for option in command.params if isinstance(option, click.Option)}
    for spelled, passed in quick.flags.items():
        assert options[spelled].is_flag
        assert options[spelled].name == passed
    for spelled, (passed, default) in quick.numbers.items():
        assert options[spelled].name == passed
        assert options[spelled].to_info_dict()["default"] == default


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=7), root=st.sampled_from([None, "", "/c", "d"]))
def test_what_is_understood_means_the_same_to_click(
    monkeypatch: pytest.MonkeyPatch, words: list[str], root: str | None
) -> None:
    environment = {} if root is None else {"CLUSTERD_ROOT": root}
    found = at_once.understood(words, environment)
    if found is None:
        return
    called: list[tuple[str, dict[str, Any]]] = []
    with monkeypatch.context() as patch:
        patch.delenv("CLUSTERD_ROOT", raising=False)
        for key, value in environment.items():
            patch.setenv(key, value)
        for name, places in PLACES.items():
            patch.setattr(
                at_once,
                name,
                lambda *a, name=name, places=places: called.append((name, dict(zip(places, a, strict=True)))),
            )
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(cluster.main(words, standalone_mode=False))
        assert not ended.value.code
    run, arguments = found
    if run.__name__ == "version":
        arguments |= {"root": ""}
    assert called == [(run.__name__, arguments)]


@pytest.mark.parametrize(
    "line",
    [
        *("status --watch", "status --help", "status x", "check --warn-lag 9 --crit-lag 2", "check --warn-lag -1"),
        *("--version", "", "stop"),
    ],
)
def test_whatever_is_unusual_is_left_to_click(line: str) -> None:
    assert at_once.understood(line.split(), {}) is None


def entry(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tools.entry", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


@pytest.mark.slow
def test_program_answers_with_and_without_click(tmp_path: Path) -> None:
    with answering_node(tmp_path, {"status": busy_master()}):
        shown = entry("status", "--root", str(tmp_path))
        assert shown.returncode == ExitCode.DEGRADED, shown.stderr
        assert "LOST for 55 s" in shown.stdout
        assert "\x1b" not in shown.stdout
        assert entry("--root", str(tmp_path), "status", "--no-exit-code").returncode == ExitCode.OK
        checked = entry("check", CLUSTERD_ROOT=str(tmp_path))
        assert checked.returncode == 1
        assert checked.stdout.startswith("CLUSTERD WARNING - ")
        by_click = entry("check", "--warn-la", "5", CLUSTERD_ROOT=str(tmp_path))
        assert by_click.returncode == ExitCode.USAGE
        assert "Traceback" not in by_click.stderr
    gone = entry("status", "--root", str(tmp_path))
    assert gone.returncode == ExitCode.NOT_RUNNING
    folded = gone.stdout.split()  # where COLUMNS, or the terminal, is narrow
    assert " ".join(folded).startswith(f"DOWN clusterd is not running at {tmp_path}. ")
    assert gone.stderr == ""


def test_status_names_the_build_and_says_when_another_one_is_installed(tmp_path: Path) -> None:
    with answering_node(tmp_path, {"status": busy_master()}):
        status = StatusReader(str(tmp_path), may_wait=False).read()
        assert (status["build"], "build" in status["problems"]) == (None, False), "an older node does not tell it"
        note(str(tmp_path), now := installed())
        status = StatusReader(str(tmp_path), may_wait=False).read()
        assert status["build"] == now.shown() | {"installed": now.build}
        assert "build" not in status["problems"]
        note(str(tmp_path), now._replace(build="0123", stamp=""))
        status = StatusReader(str(tmp_path), may_wait=False).read()
        assert status["build"]["build"] == "0123"
        text = f"this node runs build 0123, and build {now.build} is installed: clusterd restart"
        assert (status["problems"]["build"], text in hindrances(status)) == (text, False)


def test_reader_that_goes_away_ends_what_answers_at_once_in_silence(tmp_path: Path) -> None:
    with answering_node(tmp_path, {"status": busy_master(400)}):
        command = f"{sys.executable} -m tools.entry --root {tmp_path} status --json | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.stdout) == ("", "0\n")


@pytest.mark.parametrize("name", ["version", "check", "status --json"])
def test_full_output_is_named_with_and_without_click(tmp_path: Path, name: str) -> None:
    said = []
    for program in ("tools.entry", "tools.cli"):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", program, "--root", str(tmp_path), *name.split()]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        said.append((done.returncode, done.stderr))
    assert said == [(ExitCode.FAILED, "clusterd: standard output: No space left on device\n")] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words", "begins"),
    [
        ("tools.cli", "--help", "clusterd"),
        ("tools.cli", "api user list --json", "clusterd"),
        ("tools.cluster_control", "-u", "ERROR"),
    ],
)
def test_full_output_is_one_line_whatever_is_shown(tmp_path: Path, program: str, words: str, begins: str) -> None:
    """It was the disk of the node in one of them, and a traceback in another."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").touch()
    with open("/dev/full", "w") as full:
        environment = os.environ | {"CLUSTERD_ROOT": str(tmp_path)}
        command = [sys.executable, "-m", program, *words.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (1, f"{begins}: standard output: No space left on device\n")


@pytest.mark.parametrize("answer", [b'{"node": ', b"\xff", b"[" * 100_000, b"[]", b"{}", b"7"])
def test_answer_that_is_no_status_is_a_node_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    with answering_node(tmp_path, {"status": answer}):
        assert at_once.status(str(tmp_path), False, False) == ExitCode.DOWN
        assert "The node does not answer: " in capsys.readouterr().out
        assert at_once.check(str(tmp_path), 60.0, 600.0, None) == 2
        assert capsys.readouterr().out.startswith("CLUSTERD CRITICAL - The node does not answer: ")


def test_shells_completion_is_left_to_click(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_CLUSTERD_COMPLETE": "zsh_complete", "COMP_WORDS": "clusterd stat", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    code = "import sys; sys.argv[0] = 'clusterd'; from tools.entry import clusterd; clusterd()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "status" in done.stdout


@pytest.mark.parametrize("name", ["status", "check-config"])
def test_user_who_may_not_look_is_told_so_without_click_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(at_once, "closed_to_us", lambda root: "closed")
    found = at_once.understood([name], {})
    assert found is not None
    with pytest.raises(SystemExit) as ended:
        found[0](**found[1])
    assert (ended.value.code, capsys.readouterr().err) == (ExitCode.FAILED, "clusterd: closed\n")


def every_command(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, context)
        else:
            yield command


@pytest.mark.parametrize("text", ["a:b", "a:99999", "a:0", "a/b", "[::1", "0.0.0.0:1516", "localhost", "", "a b"])
@pytest.mark.parametrize("command", [["demote", "--master"], ["promote", "--address"]])
def test_no_change_of_role_takes_an_address_at_which_no_node_is(command: list[str], text: str) -> None:
    """It would be in role.json, and nobody would believe it."""
    found = CliRunner().invoke(cluster, [*command, text])
    assert (found.exit_code, "Error: Invalid value for" in found.output) == (2, True)


@pytest.mark.parametrize("text", ["a", "a:1517", "10.0.0.1", "[fe80::1]:1516", "fe80::1", "[::1]"])
def test_address_of_a_node(text: str) -> None:
    assert NodeAddress().convert(text, None, None) == text


def test_no_option_takes_a_number_that_is_none() -> None:
    """With `nan` as a deadline a command would wait for ever, or kill a node at once."""
    context = click.Context(cluster)
    options = [option for command in every_command(cluster, context) for option in command.params]
    seconds = [option for option in options if isinstance(option.type, click.types.FloatParamType)]
    assert len(seconds) >= 10
    for option in seconds:
        for text in ("nan", "inf", "1e999"):
            with pytest.raises(click.BadParameter):
                option.type.convert(text, option, context)

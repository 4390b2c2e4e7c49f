"""What commands print where there is no node, or none that runs: the same words everywhere, and what to do."""

import sys
from pathlib import Path

import pytest

from clusterd.exits import ExitCode
from tests.conftest import KEY
from tools import cli

NEEDS_A_NODE = (
    "status",
    "history",
    "events",
    "sync",
    "control nodes",
    "forget w",
    "log-level",
    "reload",
    "support",
    "ha status",
)


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], root: Path, line: str) -> tuple[int, str]:
    """Returns the exit code and the whole output."""
    monkeypatch.setattr(sys, "argv", ["clusterd", "--root", str(root), *line.split()])
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out + err


@pytest.mark.parametrize("line", NEEDS_A_NODE)
def test_root_without_a_node_is_reported_with_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    code, said = run(monkeypatch, capfd, tmp_path, line)
    assert code in (ExitCode.FAILED, ExitCode.NOT_RUNNING)
    assert said == (
        f"clusterd: there is no node at {tmp_path}. Make one with: clusterd --root {tmp_path} init ..., "
        "or give the right --root\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [line for line in NEEDS_A_NODE if line not in ("history", "events", "support")])
def test_node_that_does_not_run_is_reported_with_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(
        "<ossec_config><cluster><name>x</name><node_name>m</node_name><node_type>master</node_type>"
        f"<key>{KEY}</key><nodes><node>127.0.0.1</node></nodes><disabled>no</disabled></cluster></ossec_config>"
    )
    code, said = run(monkeypatch, capfd, tmp_path, line)
    assert code == ExitCode.NOT_RUNNING
    assert said == f"clusterd: clusterd is not running at {tmp_path}. Start it with: clusterd --root {tmp_path} start\n"


def test_command_that_is_misspelt_is_answered_with_the_one_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = run(monkeypatch, capfd, tmp_path, "staus")
    assert (code, said.splitlines()[-1]) == (ExitCode.USAGE, "Error: No such command 'staus'. Did you mean status?")
    assert "mean" not in run(monkeypatch, capfd, tmp_path, "xyzzy")[1]


def test_help_lists_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "\nCommands:\n  init " in run(monkeypatch, capfd, tmp_path, "--help")[1]

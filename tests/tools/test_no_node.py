"""What commands print where there is no node, none that runs, not the right one, or nobody to ask: the same words
everywhere, and what to do."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from clusterd.exits import ExitCode
from tests.conftest import KEY
from tests.fakes.answering_node import answering_node
from tests.tools.doctored import node
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
    "ha switchover",
    "ha pause",
)


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], root: Path, line: str) -> tuple[int, str]:
    """Returns the exit code and the whole output."""
    monkeypatch.setattr(sys, "argv", ["clusterd", "--root", str(root), *line.split()])
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out + err


@pytest.mark.parametrize("line", [*NEEDS_A_NODE, "start", "restart", "stop", "log", "check-config", "store renew"])
def test_root_without_a_node_is_reported_with_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    code, said = run(monkeypatch, capfd, tmp_path, line)
    assert code == ExitCode.NOT_RUNNING
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
    who = "DOWN" if line.startswith("status") and "--json" not in line else "clusterd:"
    wanted = f"{who} clusterd is not running at {tmp_path}. Start it with: clusterd --root {tmp_path} start"
    assert " ".join(said.split()) == wanted  # `status` is folded where the terminal, or COLUMNS, is narrow


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


@pytest.mark.parametrize("line", ["promote --old-master-is-down --yes", "demote --master 10.0.0.5 --yes"])
def test_change_of_role_without_a_node_is_refused_in_the_same_words(tmp_path: Path, line: str) -> None:
    done = CliRunner().invoke(cli.cluster, ["--root", str(tmp_path), *line.split()])
    assert (done.exit_code, f"- there is no node at {tmp_path}. Make one with" in done.stderr) == (4, True)
    if line.startswith("promote"):
        made = node(tmp_path / "w")
        done = CliRunner().invoke(cli.cluster, ["--root", made.root, *line.split()])
        assert done.exit_code == 4
        assert (
            f"- clusterd is not running at {made.root}. Start it with: clusterd --root {made.root} start\n"
            in done.stderr
        )


@pytest.mark.parametrize(
    ("answer", "said"), [("n\n", "clusterd: nothing was changed\n"), ("", "clusterd: there is nobody to ask: nothing")]
)
def test_question_that_is_not_answered_with_yes_ends_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, said: str
) -> None:
    """A script has no terminal; 130 would mean Ctrl-C."""
    settings = SimpleNamespace(cluster=SimpleNamespace(node_name="w", name="x"))
    monkeypatch.setattr("tools.promoting.prepare", lambda *_: (None, settings, 0))
    monkeypatch.setattr("tools.promoting.promote", None)
    done = CliRunner().invoke(cli.cluster, ["--root", str(tmp_path), "promote", "--old-master-is-down"], input=answer)
    assert (done.exit_code, said in done.stderr) == (ExitCode.FAILED, True), done.output


def test_password_is_asked_of_nobody_where_there_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "queue/cluster").mkdir(parents=True)
    done = CliRunner().invoke(cli.cluster, ["--root", str(tmp_path), "api", "user", "add", "ann"], input="")
    assert (done.exit_code, "give --password-file" in done.stderr) == (ExitCode.FAILED, True), done.output


def test_workers_are_expected_of_a_master_only(tmp_path: Path) -> None:
    with answering_node(tmp_path, {"sync_now": {"at": 1.0}}):
        done = CliRunner().invoke(cli.cluster, ["--root", str(tmp_path), "sync", "--wait", "--expect", "2"])
    assert (done.exit_code, "run it there" in done.stderr) == (ExitCode.FAILED, True), done.output


@pytest.mark.parametrize("command", ["forget", "diff"])
def test_name_that_is_not_text_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    with answering_node(tmp_path, {"status": {"peers": []}}):
        code, said = run(monkeypatch, capfd, tmp_path, f"{command} w\udcff")
    assert (code, said) == (ExitCode.FAILED, "clusterd: 'w\\udcff' is not UTF-8\n")


def test_bug_in_a_command_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(root: str) -> None:
        raise KeyError("peers\nx")

    monkeypatch.setattr("tools.cli_config.reload_node", fails)
    code, said = run(monkeypatch, capfd, tmp_path, "reload")
    assert code == ExitCode.FAILED
    assert re.fullmatch(
        r"clusterd: unexpected failure: 'peers\\nx' \(KeyError < tests\.tools\.test_no_node:\d+ < "
        r"tools\.cli_config:\d+ < .*\)\. Please report it\n",
        said,
    )

"""Completion of commands, options and names of nodes; `--root` in both places."""

import json
from pathlib import Path

import msgspec
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from clusterd.election.facts import Kept
from clusterd.rundir import ELECTION_KEPT, STATE, run_dir
from tools.cli import COMMANDS, cluster


def completed(*words: str) -> list[str]:
    found = ShellComplete(cluster, {}, "clusterd", "_CLUSTERD_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_script_of_each_shell_is_printed(shell: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda self: None, raising=False)
    done = CliRunner().invoke(cluster, ["completion", shell])
    assert done.exit_code == 0
    assert word in done.output
    assert "_CLUSTERD_COMPLETE" in done.output


def test_commands_and_options_are_completed() -> None:
    assert set(completed("")) >= set(COMMANDS)
    assert completed("sta") == ["start", "status"]
    assert "--watch" in completed("status", "--w")


def test_names_of_workers_are_completed_from_what_the_master_has_written(tmp_path: Path) -> None:
    assert completed("--root", str(tmp_path), "forget", "") == []
    state = tmp_path / STATE
    state.mkdir(parents=True)
    (state / "workers.json").write_text(json.dumps([{"name": "paris"}, {"name": "porto"}, {"name": "rome"}]))
    assert completed("--root", str(tmp_path), "forget", "p") == ["paris", "porto"]
    assert completed("--root", str(tmp_path), "diff", "r") == ["rome"]
    assert completed("--root", str(tmp_path), "control", "health", "--node", "r") == ["rome"]
    assert completed("diff", "--root", str(tmp_path), "r") == ["rome"]
    (state / "workers.json").write_text("{")
    assert completed("--root", str(tmp_path), "diff", "") == []


def test_names_of_candidates_are_completed_from_what_the_election_has_kept(tmp_path: Path) -> None:
    assert completed("--root", str(tmp_path), "ha", "forget", "") == []
    kept = Path(run_dir(str(tmp_path)), ELECTION_KEPT)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(msgspec.json.encode(Kept("i", members=("paris", "porto", "rome"))))
    assert completed("--root", str(tmp_path), "ha", "forget", "p") == ["paris", "porto"]
    assert completed("--root", str(tmp_path), "ha", "switchover", "--to", "r") == ["rome"]


@pytest.mark.parametrize(
    "arguments",
    [["--root", "HERE", "status"], ["status", "--root", "HERE"], ["--root", "/nowhere", "status", "--root", "HERE"]],
)
def test_root_stands_before_or_behind_the_command(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(cluster, [str(tmp_path) if word == "HERE" else word for word in arguments])
    assert f"there is no node at {tmp_path}." in done.output


@pytest.mark.parametrize("arguments", [["--root", "", "status", "--watch"], ["stop", "--root", ""]])
def test_root_that_is_empty_is_not_the_working_directory(arguments: list[str]) -> None:
    done = CliRunner().invoke(cluster, arguments)
    assert (done.exit_code, "--root is empty" in done.output) == (2, True)


def test_root_stands_behind_a_command_of_a_group(tmp_path: Path) -> None:
    done = CliRunner().invoke(cluster, ["control", "nodes", "--root", str(tmp_path)])
    assert str(tmp_path) in done.output

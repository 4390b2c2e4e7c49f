"""The rig's life with stand-in nodes (tests/fakes/rig_node.py); tests/system does the same with real ones."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from tests.fakes.rig_node import LINE
from tools.rig import demo, workload
from tools.rig.cli import FAILED, USAGE, main
from tools.rig.nodes import MARK, STATE, Rig, RigError
from tools.rig.peer import wait_until
from tools.rig.screen import PlainView

SCALE = 0.03
WAIT_S = "60"
"""A stock peer whose request was in flight when the master's net was killed waits 20 s for the reply before it goes
on."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A master and two workers, filled but not started."""
    made = Rig.create(tmp_path / "rig", 2, scale=SCALE, links=True, program=LINE)
    workload.generate(made.master.root, agents=10, groups=2)
    try:
        yield made
    finally:
        made.down()
        assert not made.running()
        assert not (tmp_path / "rig").exists()


def run(capsys: pytest.CaptureFixture[str], rig: Rig, *arguments: str) -> tuple[int, str]:
    """Runs one command of the rig in this process. Returns its exit code and its output."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = main([arguments[0], "--dir", str(rig.directory), *arguments[1:]])
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.slow
def test_nodes_have_the_names_and_places_that_are_promised(rig: Rig) -> None:
    assert [node.name for node in rig.nodes] == ["rig_manager_1", "rig_manager_2", "rig_manager_3"]
    assert [node.kind for node in rig.nodes] == ["master", "worker", "worker"]
    assert rig.node("master") == rig.node("1") == rig.node("rig_manager_1") == rig.master
    with pytest.raises(RigError, match="there are rig_manager_1, rig_manager_2, rig_manager_3"):
        rig.node("rig_manager_9")
    assert Rig.load(rig.directory) == rig


@pytest.mark.slow
def test_key_is_in_no_file_of_the_rig_and_on_no_command_line(rig: Rig) -> None:
    key = json.loads((rig.master.root / "toy.json").read_text())["key"]
    assert len(key) == 32
    assert key not in (rig.directory / STATE).read_text()
    for process in rig.running():
        assert key not in " ".join(process.cmdline()) + " ".join(process.environ().values())


@pytest.mark.slow
def test_commands_do_what_they_say(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """One story, because starting nodes takes longest: up, equal, changed, tampered with, killed, cut, repaired."""
    rig.start()
    rig.wait_equal(60)
    assert run(capsys, rig, "compare") == (
        0,
        "".join(f"{node.name}: {len(workload.paths(rig.master.root))} equal\n" for node in rig.workers),
    )

    code, said = run(capsys, rig, "change", "--edit", "2", "--add", "1", "--delete", "1", "--seed", "4")
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == ["edit", "edit", "add", "delete"]
    code, said = run(capsys, rig, "compare", "rig_manager_2", "--wait", WAIT_S, "--json")
    assert code == 0
    assert json.loads(said)["rig_manager_2"]["is_equal"]

    assert run(capsys, rig, "tamper", "3", "--seed", "1")[0] == 0
    assert run(capsys, rig, "compare", "--wait", WAIT_S)[0] == 0

    before = rig.processes("master")
    code, said = run(capsys, rig, "kill", "rig_manager_1", "net")
    assert (code, said) == (0, f"rig_manager_1 net pid {before['net']}: SIGKILL\n")
    wait_until(lambda: rig.processes("master")["net"] not in (None, before["net"]), 60, "net is back")
    assert rig.processes("master")["supervisor"] == before["supervisor"]
    assert run(capsys, rig, "kill", "rig_manager_1", "storage")[0] == FAILED

    assert run(capsys, rig, "cut", "rig_manager_2")[0] == 0
    run(capsys, rig, "change", "--seed", "5")
    assert run(capsys, rig, "compare", "rig_manager_3", "--wait", WAIT_S)[0] == 0
    assert run(capsys, rig, "compare", "rig_manager_2")[0] == FAILED
    assert run(capsys, rig, "cut", "rig_manager_2", "--mend") == (0, "rig_manager_2 mended\n")
    assert run(capsys, rig, "compare", "--wait", WAIT_S)[0] == 0

    code, said = run(capsys, rig, "status")
    assert code == 0
    assert all(node.name in said for node in rig.nodes)
    assert set(json.loads(run(capsys, rig, "status", "--json")[1])) == {node.name for node in rig.nodes}
    assert run(capsys, rig, "watch", "--rounds", "1")[0] == 0
    assert run(capsys, rig, "down") == (0, "")
    assert not rig.directory.exists()


@pytest.mark.slow
def test_down_ends_and_removes_everything_after_a_crash(rig: Rig) -> None:
    """Supervisors are killed with -9, their children orphaned, and one node ignores being stopped."""
    (rig.workers[1].root / "behave").write_text("ignore-stop")
    rig.start()
    for node in rig.nodes[:2]:
        os.kill(rig.processes(node.name)["supervisor"] or 0, signal.SIGKILL)
    assert rig.running()
    problems = rig.down(stop_timeout_s=1)
    assert any("killed process" in text for text in problems)
    assert not rig.running()
    assert not rig.directory.exists()


@pytest.mark.slow
def test_rigs_side_by_side_do_not_see_each_other(rig: Rig, tmp_path: Path) -> None:
    rig.start("master")
    other = Rig.create(tmp_path / "rig2", 0, scale=SCALE, program=LINE)
    try:
        workload.generate(other.master.root, agents=1, groups=1)
        other.start()
        assert other.master.port != rig.master.port
    finally:
        assert other.down() == []
    assert rig.processes("master")["net"]


@pytest.mark.slow
def test_node_that_does_not_start_gives_its_reason(rig: Rig) -> None:
    (rig.master.root / "behave").write_text("refuse-start")
    with pytest.raises(RigError, match=r"rig_manager_1 did not start \(exit 1\): the port is taken"):
        rig.start()


@pytest.mark.slow
def test_process_with_the_mark_of_another_rig_is_left_alone(rig: Rig) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        env=os.environ | {MARK: f"{rig.directory}-other"},
    ) as bystander:
        rig.down()
        assert psutil.pid_exists(bystander.pid)
        assert bystander.poll() is None


@pytest.mark.slow
def test_wrong_usage_is_distinguished_from_failure(
    rig: Rig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(capsys, rig, "up")[0] == FAILED
    assert run(capsys, rig, "cut", "rig_manager_2", "--mend", "--silent")[0] == USAGE
    assert run(capsys, rig, "up", "--files", "3", "--tree", str(tmp_path))[0] == USAGE
    assert run(capsys, rig, "tamper", "rig_manager_1")[0] == FAILED
    assert run(capsys, rig, "cut", "rig_manager_1")[0] == FAILED


@pytest.mark.slow
def test_demo_heals_and_sums_up_in_plain_lines(tmp_path: Path) -> None:
    out = io.StringIO()
    code = demo.run(
        Console(file=out, width=200), tree=None, workers=2, directory=tmp_path / "d", seed=1, plain=True, program=LINE
    )
    text = out.getvalue()
    assert code == 0, text
    assert text.count("every worker equals the master byte by byte") == 4
    assert "net is back as pid" in text
    assert "nothing is left running" in text
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_demo_on_a_terminal_takes_a_real_tree_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "tree/rules").mkdir(parents=True)
    for number in range(20):
        (tmp_path / f"tree/rules/{number}.xml").write_text(f"<rule id='{number}'/>")
    out = io.StringIO()
    code = demo.run(
        Console(file=out, width=120, force_terminal=True),
        tree=tmp_path / "tree",
        workers=1,
        directory=None,
        seed=1,
        plain=False,
        program=LINE,
    )
    assert code == 0, out.getvalue()
    assert "copied from" in out.getvalue()
    assert len(list((tmp_path / "tree").rglob("*"))) == 21


@pytest.mark.slow
def test_demo_says_so_when_a_worker_does_not_heal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEP_TIMEOUT_S", 0.3)
    out = io.StringIO()
    rig = Rig.create(tmp_path / "d", 1, scale=SCALE, program=LINE)
    (rig.workers[0].root / "behave").write_text("lame")
    try:
        story = demo.Demo(rig, PlainView(Console(file=out, width=200)), 1)
        story.first_sync(None)
    finally:
        rig.down()
    assert story.results[0].seconds is None
    assert "missing: etc/client.keys" in out.getvalue()

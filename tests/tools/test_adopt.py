"""`clusterd adopt` and `--undo` on a manager's files: what is changed, refused, healed and said. No node is started
here."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.adoption import MODULES, State, launcher_text, look, look_at_all, notice, own_python
from clusterd.pidfile import OURS, STOCK, running_daemon
from clusterd.settings import Limits
from clusterd.status.status import StatusReader
from clusterd.sync.ports.ledger import Disk
from hashing.atomic import FileOps
from tests.fakes.file_ops import FaultyOps
from tests.fakes.manager import Manager
from tests.supervisor.helpers import until
from tools.adopt_checks import Check, checks
from tools.adopting import opened
from tools.check import check
from tools.cutover import Cutover
from tools.outcome import Outcome
from tools.rig.guard import MARK, guarded

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, for the sockets below it; what runs for it is ended with it."""
    with guarded("adopt-") as base:
        before = os.environ.get(MARK)
        os.environ[MARK] = str(base)
        yield base / "m"
        for path in (base / "m/var/run").glob("*.pid"):  # of a test that failed
            with contextlib.suppress(OSError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before


@pytest.fixture
def manager(root: Path) -> Manager:
    return Manager(root)


def fine(root: str, python: str) -> list[Check]:
    return [Check("all", True, "")]


class Killed(BaseException):
    pass


def cutover(
    manager: Manager,
    *,
    said: list[str] | None = None,
    dry_run: bool = False,
    ops: FileOps | None = None,
    check: Callable[[str, str], list[Check]] = fine,
) -> Cutover:
    say = (lambda text: None) if said is None else said.append
    return Cutover(str(manager.root), own_python(), say=say, dry_run=dry_run, ops=ops, check=check)


def adopt(manager: Manager, **more: object) -> Outcome:
    return cutover(manager, **more).adopt(now=False)  # type: ignore[arg-type]


def undo(manager: Manager, **more: object) -> Outcome:
    return cutover(manager, **more).undo(now=False)  # type: ignore[arg-type]


def states(manager: Manager) -> list[State]:
    return [found.state for found in look_at_all(str(manager.root))]


def run(manager: Manager, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([manager.bin / name, *arguments], capture_output=True, text=True, timeout=60)


# ---- there and back --------------------------------------------------------------------------------------------------


def test_stock_files_are_kept_as_they_are_and_come_back_to_the_last_bit(manager: Manager) -> None:
    before = manager.facts()
    assert adopt(manager).ok
    during = manager.facts()
    for name in MODULES:
        assert during[f"{name}.stock"] == before[name]
        content, mode, uid, gid, *_ = during[name]
        assert content.decode() == launcher_text(str(manager.root), name, own_python())
        assert (mode, uid, gid) == before[name][1:4]
    others = set(before) - set(MODULES)
    assert {name: during[name] for name in others} == {name: before[name] for name in others}
    assert undo(manager).ok
    assert manager.facts() == before


@as_root
def test_launcher_belongs_to_whom_the_stock_file_belongs(manager: Manager) -> None:
    path = manager.bin / "wazuh-clusterd"
    os.chown(path, 0, 12345)
    path.chmod(0o710)
    before = manager.facts()
    assert adopt(manager).ok
    it = path.stat()
    assert (it.st_uid, it.st_gid, it.st_mode & 0o7777) == (0, 12345, 0o710)
    assert undo(manager).ok
    assert manager.facts() == before


def test_every_change_is_said_before_it_is_made(manager: Manager) -> None:
    seen: list[tuple[str, dict[str, object]]] = []
    changes = Cutover(
        str(manager.root), own_python(), say=lambda text: seen.append((text, {**manager.facts()})), check=fine
    )
    assert changes.adopt(now=False).ok
    for text, facts in seen:
        if "bin/wazuh-clusterd.stock: a second name" in text:
            assert "wazuh-clusterd.stock" not in facts
        if "bin/wazuh-clusterd: becomes a launcher" in text:
            assert facts["wazuh-clusterd"] == facts["wazuh-clusterd.stock"]
    assert sum("bin/" in text and text.startswith(str(manager.root)) for text, _ in seen) == 4


def test_dry_run_says_the_same_and_changes_nothing(manager: Manager) -> None:
    before = manager.facts()
    would: list[str] = []
    assert adopt(manager, said=would, dry_run=True).ok
    assert manager.facts() == before
    did: list[str] = []
    assert adopt(manager, said=did).ok
    changes = [text.removeprefix("would change ") for text in would if text.startswith("would change ")]
    assert changes == [text for text in did if text in changes]
    assert len(changes) == 4
    during = manager.facts()
    assert undo(manager, dry_run=True).ok
    assert manager.facts() == during


def test_second_call_finds_nothing_to_do(manager: Manager) -> None:
    said: list[str] = []
    assert undo(manager, said=said).ok
    assert said[0] == "the stock files are in place already"
    assert adopt(manager).ok
    during = manager.facts()
    said.clear()
    assert adopt(manager, said=said).ok
    assert "clusterd is in place already" in said
    assert manager.facts() == during


def test_clusterd_that_moved_gets_new_launchers(manager: Manager) -> None:
    before = manager.facts()
    assert Cutover(str(manager.root), "/opt/gone/bin/python", say=lambda text: None, check=fine).adopt(now=False).ok
    assert "/opt/gone/bin/python, which is not there" in notice(str(manager.root))
    assert adopt(manager).ok
    assert notice(str(manager.root)) == ""
    assert undo(manager).ok
    assert manager.facts() == before


# ---- killed, failing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Killed, OSError])
@pytest.mark.parametrize("way", ["adopt", "undo", "adopt again"])
def test_whoever_is_killed_at_any_step_is_finished_or_undone_by_the_next(
    root: Path, way: str, failure: type[BaseException]
) -> None:
    manager = Manager(root)
    stock = {name: content for name, (content, *_) in manager.facts().items()}
    before = manager.facts()
    step = 0
    while True:
        step += 1
        if way != "adopt":
            assert adopt(manager).ok
        if way == "adopt again":
            manager.install("2")
            stock = {name: (manager.bin / name).read_bytes() for name in stock}
        stop = FaultyOps(lambda number, name: failure(28, "No space left") if number == step else None)  # noqa: B023
        is_over, number = False, len(stop.names)
        try:
            done = undo(manager, ops=stop) if way == "undo" else adopt(manager, ops=stop)
            is_over, number = done.ok, len(stop.names)
            if not is_over:
                assert "No space left" in done.reason
        except Killed:
            pass
        else:
            assert failure is OSError or is_over
        facts = manager.facts()
        for name in MODULES:
            content = facts[name][0]
            kept = facts.get(f"{name}.stock")
            if content != stock[name]:  # a launcher, whole, with the way back beside it
                assert content.decode() == launcher_text(str(manager.root), name, own_python())
                assert kept is not None
                assert kept[0] == stock[name] or way == "adopt again"
        # both ways on from here
        if step % 2:
            assert adopt(manager).ok
            assert states(manager) == [State.ADOPTED] * 2
            assert {name for name in manager.facts() if name.startswith(".")} == set()
        assert undo(manager).ok
        found = manager.facts()
        assert {name: content for name, (content, *_) in found.items()} == stock
        if way != "adopt again":
            assert found == before
        if is_over and number < step:
            break
    assert step > (6 if way == "undo" else 12)


def test_no_room_for_a_launcher_is_said_and_leaves_the_stock_files(manager: Manager) -> None:
    before = manager.facts()
    full = FaultyOps(lambda number, name: OSError(28, "No space left on device") if name == "write" else None)
    done = adopt(manager, ops=full)
    assert not done.ok
    assert "No space left on device" in done.reason
    assert undo(manager).ok
    assert manager.facts() == before


def test_two_at_once_do_not_mix(manager: Manager) -> None:
    with opened(str(manager.root)):
        done = adopt(manager)
    assert (done.ok, "another adopt works" in done.reason) == (False, True)
    assert states(manager) == [State.STOCK] * 2


# ---- upgrades --------------------------------------------------------------------------------------------------------


def test_package_upgrade_is_noticed_and_taken_up(manager: Manager) -> None:
    assert notice(str(manager.root)) == ""
    assert adopt(manager).ok
    assert notice(str(manager.root)) == ""
    manager.install("2")
    upgraded = manager.facts()
    said = notice(str(manager.root))
    assert "a package has put the stock cluster_control and wazuh-clusterd back" in said
    assert f"clusterd --root {manager.root} adopt" in said
    assert f"warning: {said}" in check(str(manager.root)).lines
    status = StatusReader(str(manager.root)).read()
    assert status["problems"] == {"adoption": said}
    assert adopt(manager).ok
    assert notice(str(manager.root)) == ""
    assert b"build 2" in (manager.bin / "wazuh-clusterd.stock").read_bytes()
    assert undo(manager).ok
    assert manager.facts() == {name: facts for name, facts in upgraded.items() if not name.endswith(".stock")}


def test_stock_daemon_may_stay_after_an_upgrade(manager: Manager) -> None:
    assert adopt(manager).ok
    manager.install("2")
    wanted = {name: facts for name, facts in manager.facts().items() if not name.endswith(".stock")}
    assert undo(manager).ok
    assert manager.facts() == wanted
    assert notice(str(manager.root)) == ""


def test_launcher_that_lost_its_stock_file_is_named(manager: Manager) -> None:
    assert adopt(manager).ok
    (manager.bin / "wazuh-clusterd.stock").unlink()
    assert "no way back but to install the manager's package" in notice(str(manager.root))
    during = manager.facts()
    assert "is gone" in undo(manager).reason
    assert "is gone" in adopt(manager).reason
    assert manager.facts() == during


def test_foreign_things_in_the_place_of_files_are_left_alone(manager: Manager) -> None:
    (manager.bin / "wazuh-clusterd.stock").mkdir()
    assert look(str(manager.root), "wazuh-clusterd").state is State.ODD
    assert "is no plain file" in adopt(manager).reason
    assert (manager.bin / "wazuh-clusterd.stock").is_dir()


# ---- what has to be right --------------------------------------------------------------------------------------------


def refusal(manager: Manager, name: str) -> str:
    """What the check says that does not let it through; nothing may have changed, with or without dry-run."""
    before = manager.facts()
    found = {one.name: one for one in checks(str(manager.root), own_python())}
    assert [one.name for one in found.values() if not one.ok] == [name]
    for dry_run in (True, False):
        done = adopt(manager, check=checks, dry_run=dry_run)
        assert (done.ok, done.reason) == (False, f"nothing was changed, because of: {name}")
    assert manager.facts() == before
    return found[name].text


@pytest.mark.parametrize("kind", ["master", "worker"])
def test_good_manager_passes_every_check(root: Path, kind: str) -> None:
    found = checks(str(Manager(root, kind=kind).root), own_python())
    names = ["installation", "owner", "version", "configuration", "rights", "environment", "ports", "room"]
    assert [one.name for one in found if one.name != "version said"] == names
    assert [one.text for one in found if not one.ok] == []


def test_manager_without_a_cluster_passes_too(root: Path) -> None:
    manager = Manager(root, disabled="yes")
    manager.configure(disabled="yes", key="")
    assert all(one.ok for one in checks(str(manager.root), own_python()))


def test_place_without_a_manager_is_refused(tmp_path: Path) -> None:
    (one,) = checks(str(tmp_path), own_python())
    assert (one.ok, one.name) == (False, "installation")
    assert "there is no stock manager" in one.text
    nowhere = Cutover(str(tmp_path / "none"), own_python(), say=lambda text: None).undo(now=True)
    assert nowhere.reason == f"there is no manager at {tmp_path}/none: it has no directory bin"


@pytest.mark.parametrize(
    ("version", "text"), [("v4.13.1", "is v4.13.1"), ("v5.0.0", "is v5.0.0"), ("", "does not tell")]
)
def test_manager_of_another_version_is_refused(root: Path, version: str, text: str) -> None:
    assert text in refusal(Manager(root, version=version), "version")


def test_node_that_would_claim_another_version_is_refused(root: Path) -> None:
    said = refusal(Manager(root, version="v4.14.3"), "version said")
    assert '"version": "4.14.3"' in said


def test_programs_that_others_may_change_are_refused(manager: Manager) -> None:
    (manager.bin / "wazuh-control").chmod(0o770)
    assert "chmod go-w" in refusal(manager, "owner")
    (manager.bin / "wazuh-control").chmod(0o750)
    manager.bin.chmod(0o777)
    assert "may be written by others" in refusal(manager, "owner")


@as_root
def test_programs_of_another_user_are_refused(manager: Manager) -> None:
    os.chown(manager.bin / "cluster_control", 12345, 0)
    assert "belongs to neither root nor you" in refusal(manager, "owner")


@as_root
def test_tree_that_the_node_cannot_work_in_is_refused(manager: Manager) -> None:
    path = manager.root / "etc/cluster.json"
    path.write_text(path.read_text().replace('"root"', '"nobody"'))
    assert "user nobody cannot" in refusal(manager, "rights")


def test_bad_configuration_is_refused_with_its_place(manager: Manager) -> None:
    manager.configure(kind="boss")
    assert "<node_type>" in refusal(manager, "configuration")


def test_port_of_another_program_is_refused(manager: Manager) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", manager.port))
        other.listen()
        said = refusal(manager, "ports")
    assert f"port {manager.port}, which the cluster needs, is held by " in said
    assert str(os.getpid()) in said


def test_full_disk_is_refused(manager: Manager) -> None:
    def full(path: str, limits: Limits) -> Disk:
        return Disk(100 << 20, 5 << 20, 25 << 20)

    (said,) = [one.text for one in checks(str(manager.root), own_python(), disk=full) if not one.ok]
    assert "5 MiB of the disk" in said
    assert "Make room" in said


def test_environment_that_does_not_start_is_refused(manager: Manager, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho this is broken >&2\nexit 1\n")
    python.chmod(0o755)
    (said,) = [one.text for one in checks(str(manager.root), str(python)) if not one.ok]
    assert said == f"{python} does not start clusterd (exit code 1): this is broken"


# ---- the launchers ---------------------------------------------------------------------------------------------------


def test_launcher_takes_the_flags_that_the_manager_uses(manager: Manager) -> None:
    assert adopt(manager).ok
    done = run(manager, "wazuh-clusterd", "-t")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    manager.configure(kind="boss")
    done = run(manager, "wazuh-clusterd", "-t")
    assert done.returncode == 1
    assert "<node_type>" in done.stderr
    good = manager.root / "etc/good.conf"
    manager.configure(disabled="yes")
    good.write_text((manager.root / "etc/ossec.conf").read_text())
    manager.configure(kind="boss")
    assert run(manager, "wazuh-clusterd", "-t", "-c", str(good)).returncode == 0
    assert "v4.14.1" in run(manager, "wazuh-clusterd", "-V").stdout


def test_launcher_of_a_manager_without_a_cluster_ends_quietly(manager: Manager) -> None:
    assert adopt(manager).ok
    manager.configure(disabled="yes", key="")
    done = run(manager, "wazuh-clusterd")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert running_daemon(str(manager.root)) is None
    assert run(manager, "cluster_control", "-l").stderr == "ERROR: Cluster is not running.\n"


def test_launcher_without_its_environment_says_so_and_never_starts_the_stock_daemon(root: Path) -> None:
    manager = Manager(root)
    assert Cutover(str(root), "/opt/gone/bin/python", say=lambda text: None, check=fine).adopt(now=False).ok
    for name in MODULES:
        done = run(manager, name, "-l")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        cure = done.stderr.split("put the stock file back: ")[1]
        assert "/opt/gone/bin/python cannot be run" in done.stderr
        assert manager.pids("wazuh-clusterd") == []
        subprocess.run(cure, shell=True, check=True)
    assert states(manager) == [State.STOCK] * 2


def test_launcher_heeds_nothing_of_the_callers_environment(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/__init__.py").write_text("raise SystemExit(77)\n")
    assert adopt(manager).ok
    done = subprocess.run(
        [manager.bin / "wazuh-clusterd", "-t"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CLUSTERD_ROOT": "/nowhere", "PYTHONHOME": "/nowhere"},
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0


@pytest.mark.parametrize("odd", ["with space", "quote's", 'double"quote', "dollar$(exit 3)`exit 3`"])
def test_names_of_directories_cannot_break_a_launcher(tmp_path: Path, odd: str) -> None:
    root = str(tmp_path / odd)
    text = launcher_text(root, "wazuh-clusterd", str(tmp_path / "gone" / odd / "python"))
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'gone' / odd / 'python'} cannot be run" in done.stderr
    echo = tmp_path / odd / "python"
    echo.parent.mkdir()
    echo.write_text('#!/bin/sh\necho "$CLUSTERD_ROOT"\n')
    echo.chmod(0o755)
    text = launcher_text(root, "wazuh-clusterd", str(echo))
    assert subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=60).stdout == f"{root}\n"


# ---- which daemon runs -----------------------------------------------------------------------------------------------


def test_stock_daemon_that_runs_is_left_running_and_named(manager: Manager) -> None:
    assert manager.control("start").returncode == 0
    (pid,) = manager.pids("wazuh-clusterd")
    said: list[str] = []
    assert adopt(manager, said=said).ok
    assert f"(pid {pid}) goes on until the manager is restarted" in said[-1]
    assert manager.pids("wazuh-clusterd") == [pid]
    assert f"The stock wazuh-clusterd runs there (pid {pid})" in StatusReader(str(manager.root)).read()["problem"]
    assert undo(manager).ok
    assert manager.control("stop").returncode == 0
    until(lambda: not manager.pids("wazuh-clusterd"), "it is stopped")


def test_clusterd_that_does_not_start_gives_way_to_the_stock_daemon(manager: Manager, tmp_path: Path) -> None:
    """With --now: whatever happens, a cluster daemon runs at the end."""
    before = manager.facts()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    assert manager.control("start").returncode == 0
    other, first = manager.pids("wazuh-otherd"), manager.pids("wazuh-clusterd")
    said: list[str] = []
    would = cutover(manager, said=said, dry_run=True).adopt(now=True)
    assert (would.ok, said[-1]) == (True, f"would then stop {STOCK} (pid {first[0]}) and start {OURS}")
    assert manager.pids("wazuh-clusterd") == first
    done = Cutover(str(manager.root), str(python), say=said.append, check=fine).adopt(now=True)
    assert not done.ok
    assert "ended with 7" in done.reason
    assert "the stock daemon is back in its place and runs" in done.reason
    assert manager.facts() == before
    running = running_daemon(str(manager.root))
    assert running is not None
    assert [running[0]] != first
    assert manager.pids("wazuh-otherd") == other
    assert manager.control("stop").returncode == 0


def test_command_for_programs_is_json_whatever_happens(manager: Manager) -> None:
    (manager.bin / "wazuh-control").chmod(0o770)
    command = [sys.executable, "-m", "tools.cli", "adopt", "--root", str(manager.root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["root"]) == (1, False, str(manager.root))
    assert [one["name"] for one in found["checks"] if not one["ok"]] == ["owner"]
    assert (found["changes"], done.stderr) == ([], "")


def test_what_a_started_daemon_says_is_not_in_the_json(manager: Manager) -> None:
    assert adopt(manager).ok
    command = [sys.executable, "-m", "tools.cli", "adopt", "--root", str(manager.root), "--undo", "--now", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (0, True)
    assert [(one["name"], one["does"]) for one in found["changes"]] == [
        ("wazuh-clusterd", "restore"),
        ("cluster_control", "restore"),
    ]
    (pid,) = manager.pids("wazuh-clusterd")
    assert found["notes"] == [f"starting {STOCK}", f"{STOCK} runs (pid {pid})"]
    assert done.stderr == "Starting wazuh-clusterd\n"
    assert manager.control("stop").returncode == 0

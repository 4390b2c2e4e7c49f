"""`clusterd adopt` and `--undo` on a manager's files: what they change, refuse, repair and print. No node is started
here."""

import os
import shutil
from pathlib import Path

import pytest

from clusterd.adoption import MODULES, State, launcher_text, look, notice, own_python
from clusterd.status.status import StatusReader
from tests.fakes.file_ops import FaultyOps
from tests.fakes.manager import Facts, Manager
from tests.tools.adopted import adopt, as_root, fine, states, undo
from tools import adopt_checks
from tools.adopting import opened
from tools.check import check
from tools.cutover import Cutover


class Killed(BaseException):
    pass


# ---- there and back --------------------------------------------------------------------------------------------------


def contents(facts: Facts) -> dict[str, bytes]:
    return {name: content for name, (content, *_) in facts.items()}


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


def test_every_change_is_printed_before_it_is_made(manager: Manager) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("failure", [Killed, OSError])
@pytest.mark.parametrize("way", ["adopt", "undo", "adopt again"])
def test_adopt_or_undo_killed_at_any_step_is_finished_or_undone_by_the_next(
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


def test_no_room_for_a_launcher_is_reported_and_leaves_the_stock_files(manager: Manager) -> None:
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


def test_file_that_a_package_puts_there_in_the_middle_is_not_lost(manager: Manager) -> None:
    def upgrade(number: int, name: str) -> None:
        if number == second_link:
            manager.install("2")

    counting = FaultyOps(lambda number, name: None)
    assert adopt(manager, ops=counting).ok
    second_link = [number for number, name in enumerate(counting.names, 1) if name == "link"][1] + 1
    assert undo(manager).ok
    done = adopt(manager, ops=FaultyOps(upgrade))
    assert (done.ok, "wazuh-clusterd was replaced in this moment" in done.reason) == (False, True)
    assert b"build 2" in (manager.bin / "wazuh-clusterd").read_bytes()
    wanted = {name: (manager.bin / name).read_bytes() for name in MODULES}
    assert adopt(manager).ok
    assert undo(manager).ok
    assert {name: (manager.bin / name).read_bytes() for name in MODULES} == wanted


def test_file_that_a_package_puts_there_in_the_middle_of_undo_is_not_lost(manager: Manager) -> None:
    assert adopt(manager).ok
    counting = FaultyOps(lambda number, name: None)
    assert undo(manager, ops=counting).ok
    assert adopt(manager).ok
    after_first = counting.names.index("fsync") + 1

    def upgrade(number: int, name: str) -> None:
        if number == after_first:
            manager.install("2")

    done = undo(manager, ops=FaultyOps(upgrade))
    assert (done.ok, "was replaced in this moment" in done.reason) == (False, True)
    assert undo(manager).ok
    assert states(manager) == [State.STOCK, State.STOCK]
    assert all(b"build 2" in (manager.bin / name).read_bytes() for name in MODULES)


@pytest.mark.parametrize("way", ["adopt", "undo", "adopt again"])
def test_each_change_is_on_the_disk_before_the_next(manager: Manager, way: str) -> None:
    if way != "adopt":
        assert adopt(manager).ok
    if way == "adopt again":
        manager.install("2")
    ops = FaultyOps(lambda number, name: None)
    assert (undo if way == "undo" else adopt)(manager, ops=ops).ok
    names = ops.names
    beside = {number for number, name in enumerate(names) if name == "link" and names[number + 1] == "rename"}
    for number, name in enumerate(names):
        if name in ("link", "rename") and number not in beside:
            assert names[number + 1] == "fsync", "the directory"
        if name == "write":
            assert names[number + 1 : number + 3] == ["fsync", "rename"], "a launcher is whole before it has its name"
    assert names.count("rename") == 2 + 2 * (way == "adopt again")


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


# ---- what people and packages do to the files ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["adopt", "undo"])
def test_edited_launcher_never_costs_the_stock_file(manager: Manager, way: str) -> None:
    before = manager.facts()
    assert adopt(manager).ok
    during = manager.facts()
    path = manager.bin / "wazuh-clusterd"
    for edited in (
        path.read_text().replace("#!/bin/sh\n", "#!/bin/sh\nulimit -n 4096\n"),
        "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#")),
    ):
        path.write_text(edited)
        if way == "adopt":
            assert adopt(manager).ok
            assert contents(manager.facts()) == contents(during)
        assert undo(manager).ok
        assert manager.facts() == before
        assert adopt(manager).ok


def test_launcher_in_the_place_of_the_stock_file_is_no_way_back(manager: Manager) -> None:
    assert adopt(manager).ok
    path = manager.bin / "wazuh-clusterd"
    for makes in (os.link, shutil.copy):
        Path(f"{path}.stock").unlink()
        makes(path, f"{path}.stock")
        during = manager.facts()
        assert states(manager) == [State.ADOPTED, State.ALONE]
        assert "no way back but to install the manager's package" in notice(str(manager.root))
        assert "is gone" in undo(manager).reason
        assert manager.facts() == during


@pytest.mark.parametrize("way", ["adopt", "undo"])
def test_file_that_is_gone_comes_back_from_the_stock_file_beside_it(manager: Manager, way: str) -> None:
    before = manager.facts()
    assert adopt(manager).ok
    during = manager.facts()
    (manager.bin / "wazuh-clusterd").unlink()
    root = str(manager.root)
    assert "wazuh-clusterd is gone" in notice(root)
    assert [one.ok for one in (adopt_checks._installation(root), adopt_checks._owners(root))] == [True, True]
    if way == "adopt":
        assert adopt(manager).ok
        assert contents(manager.facts()) == contents(during)
    assert undo(manager).ok
    assert manager.facts() == before


def test_reader_of_the_output_that_goes_away_ends_nothing(manager: Manager) -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    assert Cutover(str(manager.root), own_python(), say=gone, check=fine).adopt(now=False).ok
    assert states(manager) == [State.ADOPTED] * 2

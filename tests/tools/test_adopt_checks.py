"""`clusterd adopt`: the checks before anything is changed."""

import os
import socket
from pathlib import Path

import pytest

from clusterd.adoption import own_python
from clusterd.settings import Limits
from clusterd.sync.ports.ledger import Disk
from tests.fakes.manager import Manager
from tests.tools.adopted import adopt, as_root
from tools.adopt_checks import checks
from tools.cutover import Cutover

pytestmark = pytest.mark.slow


def refusal(manager: Manager, name: str) -> str:
    """Returns the text of the check that refuses. Asserts that nothing has changed, with and without --dry-run."""
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


@pytest.mark.slow
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

"""The user that a node becomes, and the program that it runs: files that this user cannot read are named before the
node needs them."""

import json
import os
import pwd
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from clusterd.supervisor import code_access, privileges
from clusterd.supervisor.privileges import Owner
from tests.conftest import KEY
from tools.check import check

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
CONF = f"<ossec_config><cluster><key>{KEY}</key><nodes><node>10.0.0.1</node></nodes></cluster></ossec_config>"


@pytest.fixture
def nobody() -> Owner:
    found = pwd.getpwnam("nobody")
    return Owner("nobody", found.pw_uid, found.pw_gid)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ossec.conf").write_text(CONF)
    (tmp_path / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"owner": "nobody"}}))
    return tmp_path


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter in a directory that only root may enter."""
    directory = tmp_path / "closed"
    directory.mkdir(mode=0o700)
    (directory / "python3").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(directory / "python3"))
    return directory


def test_an_interpreter_that_the_owner_cannot_read_is_named(nobody: Owner, closed: Path) -> None:
    found = code_access.unreadable_code_of(nobody)
    assert str(closed / "python3") in found
    assert "no access to /" in found
    assert code_access.unreadable_code() == ""


def test_link_of_an_environment_into_a_closed_directory_is_named(
    nobody: Owner, closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user sees the link but not its target: a virtual environment made from an interpreter of root's."""
    link = Path(tempfile.mkdtemp(dir="/tmp")) / "python3"
    try:
        link.parent.chmod(0o755)
        link.symlink_to(closed / "python3")
        monkeypatch.setattr(code_access, "code_paths", lambda: [link])
        assert code_access.unreadable_code_of(nobody) == str(link)
    finally:
        shutil.rmtree(link.parent)


def test_check_config_names_what_the_owner_cannot_read(root: Path, closed: Path) -> None:
    checked = check(str(root))
    assert checked.ok
    (line,) = [line for line in checked.lines if "cannot read" in line]
    assert line.startswith(f"warning: user nobody cannot read {closed}/python3")
    assert "clusterd.owner" in line


def test_check_config_names_an_owner_that_does_not_exist(root: Path) -> None:
    (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"owner": "nobody-of-this-name"}}))
    checked = check(str(root))
    assert not checked.ok
    assert any("there is no user 'nobody-of-this-name'" in line for line in checked.lines)


def test_world_readable_file_causes_no_warning(nobody: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_access, "code_paths", lambda: [Path("/usr"), Path("/etc/passwd")])
    assert code_access.unreadable_code_of(nobody) == ""


def test_a_root_that_stays_root_is_not_asked(root: Path, closed: Path) -> None:
    (root / "etc" / "cluster.json").write_text(json.dumps({"clusterd": {"owner": "root"}}))
    assert privileges.owner_to_become("root") is None
    assert check(str(root)).lines == []

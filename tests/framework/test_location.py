"""Where a framework is looked for, and which settings are valid for it."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from clusterd.config.cluster_json import JsonRead, read_json
from clusterd.framework.location import find
from clusterd.reload import adopt
from clusterd.settings import Clusterd, FrameworkMode, FrameworkSettings, Settings
from clusterd.sync.requests.status import framework_status
from tests.conftest import KEY
from tests.fakes.framework import FakeFramework
from tools.check import check

CONF = f"""<ossec_config><cluster><name>c</name><node_name>n</node_name><node_type>master</node_type><key>{KEY}</key>
<port>1516</port><bind_addr>127.0.0.1</bind_addr><nodes><node>127.0.0.1</node></nodes><hidden>no</hidden>
<disabled>no</disabled></cluster></ossec_config>"""


PYTHON = FrameworkSettings().python


def read(tmp_path: Path, framework: Any) -> JsonRead:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"clusterd": {"framework": framework}}))
    return read_json(path, Settings(str(tmp_path)))


def settings(root: Path, mode: FrameworkMode, python: str = PYTHON) -> Settings:
    return Settings(str(root), clusterd=Clusterd(framework=FrameworkSettings(mode=mode, python=python)))


def test_the_setting_may_be_a_word_or_an_object(tmp_path: Path) -> None:
    assert read(tmp_path, "off").settings.clusterd.framework == FrameworkSettings(mode="off")
    whole = {
        "mode": "on",
        "python": "/py",
        "processes": 4,
        "memory_bytes": 1 << 30,
        "requests": 7,
        "answer_bytes": 1 << 20,
    }
    found = read(tmp_path, whole)
    assert found.settings.clusterd.framework == FrameworkSettings(**whole)  # type: ignore[arg-type]
    assert not found.problems
    assert not found.warnings


@pytest.mark.parametrize(
    "wrong",
    ["yes", "", True, 1, [], {"mode": "no"}, {"processes": 0}, {"processes": 1.5}, {"memory_bytes": 1}, {"python": ""}],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, wrong: Any) -> None:
    (problem,) = read(tmp_path, wrong).problems
    assert problem.where.startswith("clusterd.framework")
    assert problem.allowed


def test_unknown_keys_are_warned_about(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, {"proceses": 2}).warnings
    assert warning.where == "clusterd.framework.proceses"


def test_where_it_is_and_why_it_is_not_used(tmp_path: Path) -> None:
    assert find(settings(tmp_path, "auto")).why.startswith("no framework is installed")
    assert not find(settings(tmp_path, "auto")).is_wrong
    assert find(settings(tmp_path, "on")).is_wrong
    python = FakeFramework(tmp_path).python
    assert find(settings(tmp_path, "auto")).python == str(python)
    assert find(settings(tmp_path / "elsewhere", "auto", str(python))).python == str(python)
    assert not find(settings(tmp_path, "off")).python


LEFT = "framework/python/lib/python3.10/site-packages"
USERS = "api/configuration/security/rbac.db"


@pytest.mark.parametrize(
    ("made", "rest"),
    [
        ([f"{LEFT}/"], ""),
        ([f"{LEFT}/__pycache__/wazuh.cpython-310.pyc"], ""),
        ([USERS], ""),  # no directory of it: as ever
        ([f"{LEFT}/wazuh/__init__.py"], "framework"),
        (["framework/", USERS], USERS),  # a disk that is not mounted, an upgrade under way
    ],
)
def test_remains_of_a_removed_framework_are_none_and_a_half_of_one_is(
    tmp_path: Path, made: list[str], rest: str
) -> None:
    """Its users are not ours: as long as something of it is there, nobody may judge them in its place."""
    for name in made:
        place = tmp_path / name
        (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            place.touch()
    found = find(settings(tmp_path, "auto"))
    assert found.is_wrong == bool(rest)
    if rest:
        assert (
            found.why
            == f"the framework is installed in part: {tmp_path / PYTHON} is not there, and {tmp_path / rest} is"
        )
        assert f"move {tmp_path / rest} away" in found.told


@pytest.mark.parametrize("name", ["framework", "framework/python"])
def test_link_to_a_framework_that_leads_nowhere_is_one_that_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "not mounted")
    assert find(settings(tmp_path, "auto")).is_wrong
    (tmp_path / "not mounted").mkdir()
    assert find(settings(tmp_path, "auto")).is_wrong == (name != "framework")


def test_framework_that_is_closed_to_the_nodes_user_is_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", closed)
    found = find(settings(tmp_path, "auto"))
    assert found.why == f"{tmp_path / PYTHON} cannot be looked at by this user: Permission denied"
    assert found.cure == "mend its rights, or those above it; then: clusterd restart"


def test_check_config_names_what_is_to_be_mended(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "ossec.conf").write_text(CONF)

    def lines(mode: str) -> tuple[bool, list[str]]:
        (etc / "cluster.json").write_text(json.dumps({"clusterd": {"framework": mode, "owner": "root"}}))
        found = check(str(tmp_path))
        return found.ok, [line for line in found.lines if "framework" in line]

    assert lines("auto") == (True, [])
    assert lines("off") == (True, [])
    is_ok, (line,) = lines("on")
    assert not is_ok
    assert "python3 is not there" in line
    (tmp_path / "framework/python").mkdir(parents=True)
    assert lines("auto") == (True, [])  # the empty directories of one that was removed
    (tmp_path / "framework/python/pyvenv.cfg").touch()
    is_ok, (line,) = lines("auto")
    assert is_ok
    assert line.startswith("warning: the framework is installed in part")
    assert "logins, tokens and permissions are refused" in line
    assert 'or set clusterd.framework to "off"; then: clusterd restart' in line


def test_a_reload_leaves_it_as_it_was(tmp_path: Path) -> None:
    running = msgspec.structs.replace(settings(tmp_path, "auto"), framework_python="/py")
    adopted, waiting = adopt(running, settings(tmp_path, "off"))
    assert waiting == ["clusterd.framework"]
    assert adopted.clusterd.framework.mode == "auto"
    assert adopted.framework_python == "/py"


def test_status_walks_through_nothing_that_a_removed_framework_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked every second or two, on the loop of sync."""
    (tmp_path / "framework/python/lib/__pycache__").mkdir(parents=True)
    own = settings(tmp_path, "auto")
    context: Any = SimpleNamespace(framework=None, settings=own, no_framework=find(own).why)
    monkeypatch.setattr(os, "walk", lambda *given, **named: pytest.fail("walked"))
    assert framework_status(context)["reason"] == f"no framework is installed ({tmp_path}/{PYTHON} is not there)"
    (tmp_path / PYTHON).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / PYTHON).touch()
    assert framework_status(context)["reason"] == "it was not there when the node started"

"""Where a framework is looked for, and which settings are valid for it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clusterd.config.cluster_json import JsonRead, read_json
from clusterd.framework.location import find
from clusterd.reload import adopt
from clusterd.settings import Clusterd, FrameworkMode, FrameworkSettings, Settings
from tests.conftest import KEY
from tests.fakes.framework import FakeFramework
from tools.check import check

CONF = f"""<ossec_config><cluster><name>c</name><node_name>n</node_name><node_type>master</node_type><key>{KEY}</key>
<port>1516</port><bind_addr>127.0.0.1</bind_addr><nodes><node>127.0.0.1</node></nodes><hidden>no</hidden>
<disabled>no</disabled></cluster></ossec_config>"""


def read(tmp_path: Path, framework: Any) -> JsonRead:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"clusterd": {"framework": framework}}))
    return read_json(path, Settings(str(tmp_path)))


def settings(root: Path, mode: FrameworkMode, python: str = FrameworkSettings().python) -> Settings:
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
    (tmp_path / "framework").mkdir()
    half = find(settings(tmp_path, "auto"))
    assert half.is_wrong
    assert "installed in part" in half.why
    (tmp_path / "framework").rmdir()
    python = FakeFramework(tmp_path).python
    assert find(settings(tmp_path, "auto")).python == str(python)
    assert find(settings(tmp_path / "elsewhere", "auto", str(python))).python == str(python)
    assert not find(settings(tmp_path, "off")).python


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
    (tmp_path / "framework").mkdir()
    is_ok, (line,) = lines("auto")
    assert is_ok
    assert line.startswith("warning: the framework is installed in part")


def test_a_reload_leaves_it_as_it_was(tmp_path: Path) -> None:
    running = msgspec.structs.replace(settings(tmp_path, "auto"), framework_python="/py")
    adopted, waiting = adopt(running, settings(tmp_path, "off"))
    assert waiting == ["clusterd.framework"]
    assert adopted.clusterd.framework.mode == "auto"
    assert adopted.framework_python == "/py"

"""Which build runs and which is installed: by the content of our files, however they came there."""

import os
from pathlib import Path

import pytest

from clusterd.build import PACKAGES, Build, build_path, difference, installed, note, noted


def make(code: Path) -> Path:
    for number, name in enumerate(PACKAGES):
        (code / name / "inner").mkdir(parents=True)
        (code / name / "__init__.py").write_text("")
        (code / name / "inner" / "module.py").write_text(f"NUMBER = {number}\n")
    return code


def build_of(code: Path, known: Build | None = None) -> Build:
    return installed(known, str(code))


def test_equal_files_are_one_build_wherever_and_whenever_they_were_installed(tmp_path: Path) -> None:
    one, other = build_of(make(tmp_path / "a")), build_of(make(tmp_path / "b"))
    assert (one.build, difference(one, other)) == (other.build, "")
    (tmp_path / "b/clusterd/__pycache__").mkdir()
    (tmp_path / "b/clusterd/__pycache__/x.pyc").write_bytes(b"x")
    (tmp_path / "b/tools/rig").mkdir()
    (tmp_path / "b/tools/rig/only_in_a_checkout.py").write_text("")
    assert build_of(tmp_path / "b") == other


@pytest.mark.parametrize("path", ["clusterd/inner/module.py", "tools/new.py", "ipc/page.css"])
def test_file_that_is_changed_or_added_makes_another_build(tmp_path: Path, path: str) -> None:
    before = build_of(make(tmp_path))
    (tmp_path / path).write_text("NUMBER = 7\n")
    after = build_of(tmp_path, before)
    assert after.build != before.build
    text = f"this node runs build {before.build}, and build {after.build} is installed: clusterd restart"
    assert difference(before, after) == text
    assert "of /old, and build" in difference(before._replace(environment="/old"), after)


def test_files_that_nobody_has_touched_are_not_read_again(tmp_path: Path) -> None:
    before = build_of(make(tmp_path))._replace(build="taken before")
    assert build_of(tmp_path, before) is before
    os.utime(tmp_path / "ipc/__init__.py", (1, 1))
    assert build_of(tmp_path, before).build != "taken before"


def test_what_a_node_has_noted_is_read_back_and_nonsense_is_nothing(tmp_path: Path) -> None:
    assert noted(str(tmp_path)) is None
    path = Path(build_path(str(tmp_path)))
    path.parent.mkdir(parents=True)
    note(str(tmp_path), build := Build("a", "/env", "/code", "1.2.3.4"))
    assert noted(str(tmp_path)) == build
    for content in ("", "[]", "{}", "[" * 60_000):
        path.write_text(content)
        assert noted(str(tmp_path)) is None

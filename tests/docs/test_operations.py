"""docs/operations has every command, exit code, key of status, finding of doctor and subtag of the log."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.exits import ExitCode
from clusterd.reload import NEEDS_RESTART_OWN
from clusterd.settings import CAPABILITIES
from clusterd.status.status import StatusReader
from tools.cli import COMMANDS
from tools.doctor import cluster

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/operations/reference.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "docs/operations/troubleshooting.md").read_text(encoding="utf-8")
SUBTAGS = re.compile(
    r"(?:tag_log\([^()]*(?:\([^()]*\))?[^()]*, |^(?:CHECK|SYNC|GUARD|SUBTAG|SEND|SEND_ALL|RECV|RECV_ALL|LOCAL|MAIN"
    r'|OWN_SUBTAG|KEEPALIVE_SUBTAG) = |\.line\("[A-Z]+", [\w."]+, )"([A-Z][\w -]+)"',
    re.M,
)


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`clusterd {re.escape(name)}\b", section(REFERENCE, "Commands"))


def test_every_exit_code_is_in_the_reference() -> None:
    listed = re.findall(r"^\| (\d+) \|", section(REFERENCE, "Exit codes"), re.M)
    assert [int(code) for code in listed] == [int(code) for code in ExitCode]


def test_every_capability_is_in_the_reference() -> None:
    assert [name for name in CAPABILITIES if f"`{name}`" not in section(REFERENCE, "Settings")] == []


def test_every_key_of_status_is_in_the_reference(tmp_path: Path) -> None:
    keys = set(StatusReader(str(tmp_path)).read())
    listed = section(REFERENCE, "Status for programs")
    assert [key for key in sorted(keys) if not re.search(rf"`{key}(\[\])?`", listed)] == []


def test_every_setting_that_waits_for_a_restart_is_in_the_reference() -> None:
    text = REFERENCE.split("A **reload** changes")[1].split("\n\n")[0]
    assert [name for name in NEEDS_RESTART_OWN if f"`{name}`" not in text] == []


def findings() -> Iterator[str]:
    """Yields the names that doctor may give a finding, from its code."""
    for path in sorted((ROOT / "tools/doctor").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Finding"), args=[ast.Constant(value=str(name)), *_]):
                    yield name
    yield from (name for name, _ in (*cluster.MASTERS.values(), *cluster.CODES.values()))
    yield from (*cluster.PROBLEMS.values(), *cluster.NO_AGENTS_CURES)


def test_every_finding_of_doctor_is_explained() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", section(TROUBLE, "Findings of doctor"), re.M)
    listed = {name.strip() for row in rows for name in row.split(",")}
    found = set(findings())
    assert len(found) > 40
    assert sorted(found - listed) == []


def test_every_subtag_of_the_log_is_explained() -> None:
    listed = section(TROUBLE, "The log")
    found = {
        name
        for path in sorted((ROOT / "clusterd").rglob("*.py"))
        for name in SUBTAGS.findall(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 20
    assert [name for name in sorted(found) if f"`{name}`" not in listed] == []

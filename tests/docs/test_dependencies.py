"""Each dependency has a lowest version in setup.py and a reason in docs/architecture.md; nothing else is imported."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = {"clusterd", "hashing", "ipc", "tools"}
TREE = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
IMPORT = re.compile(r"^\s*(?:from (\w+)[.\w]* import\b|import (\w+)[.\w]*(?: as \w+)?$)", re.M)
PRIVATE_PARTS = {"uvicorn", "watchfiles"}
"""Packages that we use beyond their public interface."""


def name_of(requirement: str) -> str:
    return re.split(r"[<>=;\[ ]", requirement)[0].lower().replace("_", "-")


def requirements() -> tuple[list[str], list[str]]:
    """Returns those of the installed program, and those of all extras."""
    (call,) = (node for node in ast.walk(TREE) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup")
    installed = next(ast.literal_eval(word.value) for word in call.keywords if word.arg == "install_requires")
    lists = [node.value for node in TREE.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)]
    extras = [item.value for one in lists for item in one.elts if isinstance(item, ast.Constant)]
    return installed, [str(item) for item in extras]


def imported() -> Iterator[tuple[str, str]]:
    """Returns top-level names of other packages' modules that the installed program imports, each with a file."""
    for path in sorted(path for package in OWN for path in (ROOT / package).rglob("*.py")):
        if path.is_relative_to(ROOT / "tools/rig"):
            continue
        for match in IMPORT.finditer(path.read_text(encoding="utf-8")):
            module = match[1] or match[2]
            if module not in OWN and module not in sys.stdlib_module_names:
                yield module, str(path.relative_to(ROOT))


def test_every_dependency_has_a_lowest_version() -> None:
    installed, extras = requirements()
    assert [one for one in installed + extras if ">=" not in one and "==" not in one] == []
    assert {name_of(one) for one in installed if "<" in one.replace("<=", "<")} == PRIVATE_PARTS


def test_every_dependency_has_its_reason() -> None:
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## 8. Dependencies")[2]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.M)
    reasons = {name.lower() for cell in cells for name in re.split(r", | and ", cell.replace(" and type stubs", ""))}
    installed, extras = requirements()
    wanted = {name_of(one) for one in installed + extras if not name_of(one).startswith("types-")}
    assert sorted(wanted - reasons) == []
    assert sorted(reasons - wanted) == ["---", "package"]


def test_the_program_imports_only_what_it_requires() -> None:
    names = {name_of(one) for one in requirements()[0]}
    owners = packages_distributions()
    found = {(module, file) for module, file in imported()}
    assert {module for module, _ in found} >= {"zmq", "msgspec", "jwt"}
    strangers = [
        f"{file}: {module}"
        for module, file in sorted(found)
        if not names & {owner.lower().replace("_", "-") for owner in owners.get(module, ())}
    ]
    assert strangers == []

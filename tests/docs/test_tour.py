"""docs/tour.md names files, functions and methods that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", (ROOT / "docs/tour.md").read_text(encoding="utf-8"))
STEPS = sorted({(file, name) for file, name in STEPS if not file.startswith("tests/")})


def names_in(path: Path) -> set[str]:
    """Returns functions, classes and methods of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{one.name}" for one in inner)
    return found


@pytest.mark.parametrize(("file", "name"), STEPS, ids=lambda value: value)
def test_step_of_the_tour_exists(file: str, name: str) -> None:
    path = ROOT / file
    assert path.is_file()
    assert not name or name in names_in(path)


def test_the_tour_has_four_journeys_of_many_steps() -> None:
    assert len(STEPS) > 35

"""Words mean one thing (docs/glossary.md): no two classes of clusterd's packages have the same name, private ones
included."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASS = re.compile(r"^ *class (\w+)[(:]", re.MULTILINE)


def test_no_two_classes_have_one_name() -> None:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for package in ("clusterd", "hashing", "ipc", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for name in CLASS.finditer(text):
                line = text.count("\n", 0, name.start()) + 1
                found[name[1]].append(f"{path.relative_to(ROOT)}:{line}")
    assert len(found) > 500
    assert {name: sorted(places) for name, places in found.items() if len(places) > 1} == {}

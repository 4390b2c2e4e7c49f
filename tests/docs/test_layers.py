"""The order of imports that docs/architecture.md, section 6, declares: no module imports one of a later layer."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESSES = ("net", "sync", "pool", "store", "api", "monitor", "election")
LAYERS = {
    "": [
        ("hashing", "ipc"),
        ("clusterd", "clusterd.config", "clusterd.framework", "clusterd.listening", "clusterd.messages"),
        ("clusterd.wire",),
        ("clusterd.wdb",),
        ("clusterd.dapi",),
        ("clusterd.status",),
        tuple(f"clusterd.{name}" for name in PROCESSES),
        ("clusterd.supervisor",),
        ("tools",),
    ],
    "clusterd.sync": [("ports",), ("manifest",), ("links",), ("integrity", "agents", "replica"), ("requests",), ("",)],
    "clusterd.dapi": [("protocol",), ("query", "files"), ("ruleset",), ("functions",), ("",)],
}
"""Groups of a package's folders ("": of all packages), in their order. Folders of one group do not import one another,
except for the base of clusterd, which is one layer."""
MAY_MIX = {"clusterd"}


def modules(folder: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / folder.replace(".", "/")).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    """Returns clusterd's modules that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module


def statements(within: ast.AST) -> Iterator[ast.stmt]:
    """Yields what `ast.walk` does, without the expressions: an import is none."""
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for node in getattr(within, part, ()):
            if isinstance(node, ast.stmt):
                yield node
            yield from statements(node)


@functools.cache
def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_name(f"{path.name}.py").exists() or path.is_dir()


def place(module: str, package: str) -> str | None:
    """Returns the folder of `package` that has the module; None outside of it."""
    if package:
        if module != package and not module.startswith(package + "."):
            return None
        parts = module.removeprefix(package).strip(".").split(".")
        return parts[0] if len(parts) > 1 else ""
    parts = module.split(".")
    if parts[0] not in ("hashing", "ipc", "clusterd", "tools"):
        return None
    if parts[0] != "clusterd" or parts == ["clusterd", "__main__"]:
        return "tools" if parts[0] == "clusterd" else parts[0]
    folder = f"clusterd.{parts[1]}" if len(parts) > 1 else "clusterd"
    return folder if any(folder in group for group in LAYERS[""]) else "clusterd"


@pytest.mark.parametrize("package", LAYERS, ids=lambda name: name or "all")
def test_no_module_imports_one_of_a_later_layer(package: str) -> None:
    groups = LAYERS[package]
    rank = {folder: number for number, group in enumerate(groups) for folder in group}
    wrong = []
    for top in [package] if package else ["hashing", "ipc", "clusterd", "tools"]:
        for module, path in modules(top):
            here = place(module, package)
            if here is None or here not in rank:
                continue
            for name in imports(path):
                there = place(name, package)
                if there is None or there == here or there not in rank:
                    continue
                is_beside = rank[there] == rank[here] and not MAY_MIX & {*groups[rank[here]]}
                if rank[there] > rank[here] or is_beside:
                    wrong.append(f"{module} imports {name}")
    assert not wrong


def test_no_module_takes_part_in_a_cycle_of_imports() -> None:
    known = {module: path for top in ("hashing", "ipc", "clusterd", "tools") for module, path in modules(top)}
    needs = {module: {name for name in imports(path) if name in known} - {module} for module, path in known.items()}
    while True:
        free = {module for module, names in needs.items() if not names}
        if not free:
            break
        needs = {module: names - free for module, names in needs.items() if module not in free}
    assert not needs


def test_every_folder_of_sync_and_dapi_has_its_place() -> None:
    for package in ("clusterd.sync", "clusterd.dapi"):
        there = {path.name for path in (ROOT / package.replace(".", "/")).iterdir() if path.is_dir()} - {"__pycache__"}
        assert there == {folder for group in LAYERS[package] for folder in group if folder}


def test_sync_reads_no_clock_but_the_one_it_is_given() -> None:
    """Tests of sync move time by hand. process.py makes the clock; ports/wake_timer.py uses that of its loop, which
    wakes it."""
    wrong = []
    for module, path in modules("clusterd.sync"):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"\btime\b|Clock|datetime", text):
            continue
        for node in ast.walk(ast.parse(text)):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            is_own_clock = isinstance(node, ast.Call) and ast.unparse(node.func) in ("Clock", "datetime.now")
            if "time" in names or (is_own_clock and module != "clusterd.sync.process"):
                wrong.append(f"{module}:{node.lineno}")
    assert not wrong

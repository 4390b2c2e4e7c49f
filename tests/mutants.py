"""Mutants of one file: `python -m tests.mutants FILE TESTS...` prints those that its quick tests do not notice.

pytest collects the tests once. Then each mutant of a decision gets a fork of that process, in which one function has
other code: nothing is written, and a mutant costs no more than its tests. Not mutated: defaults, decorators, what
stands outside of functions, texts, lines of DEBUG.
"""

import ast
import copy
import functools
import inspect
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.Lt: ast.LtE,
    ast.Gt: ast.GtE,
    ast.In: ast.NotIn,
    ast.Is: ast.IsNot,
}
COMPARISONS |= {after: before for before, after in COMPARISONS.items()}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
MOST_S = 15.0
"""A mutant that takes longer, or eight times as long as the tests do without one, is noticed, too."""
Place = tuple[str, ...]


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], ast.AST]]]:
    """Yields the ways to change this node: a name, and what makes another node of a copy."""

    def put(**fields: Any) -> Callable[[Any], ast.AST]:
        def change(node: Any) -> ast.AST:
            for name, value in fields.items():
                setattr(node, name, value)
            return node  # type: ignore[no-any-return]

        return change

    match node:
        case ast.Compare():
            for number, op in enumerate(node.ops):
                if type(op) in COMPARISONS:
                    other = [*node.ops[:number], COMPARISONS[type(op)](), *node.ops[number + 1 :]]
                    yield "comparison", put(ops=other)
        case ast.BoolOp():
            yield "and/or", put(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not()):
            yield "not", lambda node: node.operand
        case ast.If() | ast.While() | ast.IfExp():
            yield "true", put(test=ast.Constant(True))
            yield "false", put(test=ast.Constant(False))
        case ast.BinOp() | ast.AugAssign() if type(node.op) in ARITHMETIC and not is_text(node):
            yield "arithmetic", put(op=ARITHMETIC[type(node.op)]())
        case ast.Constant(value=bool() | int() | float() as value):
            yield "constant", put(value=not value if isinstance(value, bool) else value + 1)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
    stores = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)
    if is_call or stores or isinstance(node, ast.Raise | ast.Continue | ast.Break):
        yield "dropped", lambda node: ast.Pass()


def is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in sides
    )


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yields what may be mutated in a statement or expression."""
    if isinstance(node, ast.Expr) and ".debug" in ast.unparse(node).partition("(")[0]:
        return
    yield node
    skipped = {"annotation", "returns", "decorator_list"} | ({"args"} if isinstance(node, FUNCTION) else set())
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from nodes(part)


def functions(tree: ast.Module) -> Iterator[tuple[Place, ast.AST]]:
    """Yields the functions of a module and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, FUNCTION):
            yield (node.name,), node
        elif isinstance(node, ast.ClassDef):
            yield from (((node.name, part.name), part) for part in node.body if isinstance(part, FUNCTION))


def mutants(tree: ast.Module) -> Iterator[tuple[Place, int, str, ast.Module]]:
    """Yields where each is, its line, what it changes, and the changed module."""
    for place, function in functions(tree):
        for node in nodes(function):
            for kind, change in changes(node):
                shown = ast.unparse(node.test if isinstance(node, ast.If | ast.While) else node)
                known: dict[int, Any] = {}
                changed = copy.deepcopy(tree, known)
                twin = known[id(node)]
                _replace(changed, twin, change(twin))
                yield place, node.lineno, f"{kind}: {shown}"[:150], ast.fix_missing_locations(changed)  # type: ignore[attr-defined]


def _replace(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list):
                value[:] = [new if part is old else part for part in value]


def code_at(module: CodeType, place: Place) -> CodeType:
    for name in place:
        module = [part for part in module.co_consts if isinstance(part, CodeType) and part.co_name == name][-1]
    return module


def function_at(module: object, place: Place) -> FunctionType:
    found: Any = functools.reduce(inspect.getattr_static, place, module)
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    return inspect.unwrap(found)


class Campaign:
    """A plugin of pytest: runs the collected tests in forks."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.output = os.dup(1)

    def say(self, text: str) -> None:
        os.write(self.output, f"{text}\n".encode())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        began = time.monotonic()
        if not self.passes(session, None, 600.0):
            raise pytest.UsageError("the tests fail without a mutant, or as forks of one process")
        limit_s = max(MOST_S, 8 * (time.monotonic() - began))
        with open(self.file, encoding="utf-8") as source:
            tree = ast.parse(source.read())
        module = sys.modules[self.file.removesuffix(".py").replace("/", ".")]
        count = survivors = 0
        for place, line, text, changed in mutants(tree):
            code = code_at(compile(changed, self.file, "exec"), place)
            function = function_at(module, place)
            if code.co_freevars != function.__code__.co_freevars:
                continue
            count += 1
            if self.passes(session, (function, code), limit_s):
                survivors += 1
                self.say(f"{self.file}:{line} {text}")
        self.say(f"{self.file}: {survivors} of {count} mutants survive {len(session.items)} tests")
        return True

    @staticmethod
    def passes(session: pytest.Session, patch: tuple[FunctionType, CodeType] | None, limit_s: float) -> bool:
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                os.dup2(1, 2)
                resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 1))
                if patch is not None:
                    patch[0].__code__ = patch[1]
                for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    if session.testsfailed:
                        os._exit(1)
                os._exit(0)
            finally:
                os._exit(2)
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return False


def main(file: str, *tests: str) -> None:
    campaign = Campaign(file)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    quick = ["-m", "not slow and not stress", "--hypothesis-profile", "quick", "-o", "timeout=0"]
    plain = ["-q", "-s", *(word for name in ("randomly", "cacheprovider", "xdist") for word in ("-p", f"no:{name}"))]
    sys.exit(pytest.main([*plain, *quick, *tests], plugins=[campaign]))


if __name__ == "__main__":
    main(*sys.argv[1:])

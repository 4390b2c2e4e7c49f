"""File operations that fail at the test's choice."""

from collections.abc import Callable

from hashing.atomic import FileOps

_REAL = frozenset(name for name in FileOps.__dict__ if not name.startswith("_"))


class FaultyOps(FileOps):
    """Real operations. `fault(number, name)` is called before each (numbers from 1) and may return an exception to
    raise instead. `names`: the operations that were tried."""

    def __init__(self, fault: Callable[[int, str], BaseException | None] = lambda number, name: None) -> None:
        self.names: list[str] = []
        self.fault = fault

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name not in _REAL:
            return found

        def tried(*args: object, **keywords: object) -> object:
            self.names.append(name)
            failure = self.fault(len(self.names), name)
            if failure is not None:
                raise failure
            return found(*args, **keywords)  # type: ignore[operator]

        return tried

"""The files that `clusterd adopt` puts into a manager's `bin`, and their state. There is no other record of it.

bin/wazuh-clusterd         our launcher        bin/cluster_control         our launcher
bin/wazuh-clusterd.stock   the stock file      bin/cluster_control.stock   the stock file
"""

import os
import stat
import sys
from enum import Enum
from typing import NamedTuple

BIN = "bin"
STOCK = ".stock"
MODULES = {"cluster_control": "tools.cluster_control", "wazuh-clusterd": "tools.wazuh_clusterd"}
"""File in `bin` to the module that its launcher runs, in the order in which they are adopted; undone in the reverse
order."""
MARK = "# Launcher of clusterd"
_SHOWN_BYTES = 4096
_TEXT = """#!/bin/sh
{mark}, written by `clusterd adopt` in place of the stock {name}, which is kept beside it as
# {name}.stock and is not to be started from there. `clusterd adopt --undo` puts it back.
python={python}
if [ ! -x "$python" ]; then
    echo "{name}: clusterd is not there: $python cannot be run. Install it again, or put the stock file back:" \\
        "mv {stock} {path}" >&2
    exit 1
fi
CLUSTERD_ROOT={root}
export CLUSTERD_ROOT
exec "$python" -I -m {module} "$@"
"""


class State(Enum):
    """The state of one file in `bin`."""

    STOCK = "the stock file"
    HALF = "the stock file, with a second name for it: adopting or undoing it was interrupted"
    ADOPTED = "our launcher, with the stock file beside it"
    UPGRADED = "a stock file put there by a package since it was adopted"
    ALONE = "our launcher, without the stock file beside it"
    KEPT = "not there, but the stock file is kept beside it"
    MISSING = "not there"
    ODD = "neither a file nor ours"


class FoundProgram(NamedTuple):
    """One file in `bin`. `text`: the content of our launcher, else empty."""

    name: str
    state: State
    text: str = ""

    @property
    def python(self) -> str:
        """The interpreter that our launcher runs; empty if the file is not our launcher."""
        import shlex  # not for `clusterd status` of a node that was never adopted

        for line in self.text.splitlines():
            if line.startswith("python="):
                return "".join(shlex.split(line.removeprefix("python=")))
        return ""


def launcher_text(root: str, name: str, python: str) -> str:
    """Returns the launcher for `name` of the manager at `root`. It names everything by absolute paths, and the caller's
    environment has no influence on what is run (-I)."""
    import shlex

    path = f"{root}/{BIN}/{name}"
    return _TEXT.format(
        mark=MARK,
        name=name,
        python=shlex.quote(python),
        root=shlex.quote(root),
        module=MODULES[name],
        path=_within_quotes(shlex.quote(path)),
        stock=_within_quotes(shlex.quote(path + STOCK)),
    )


def own_python() -> str:
    """Returns the interpreter of the environment that this program is installed in, by its name in that environment."""
    return os.path.abspath(sys.executable)


def look(root: str, name: str) -> FoundProgram:
    """Tells what `bin/NAME` is. Changes nothing. Raises OSError when it may not be inspected."""
    path = f"{root}/{BIN}/{name}"
    own, kept = _facts(path), _facts(path + STOCK)
    if own is None and kept is None:
        return FoundProgram(name, State.MISSING)
    if any(it is not None and not stat.S_ISREG(it.st_mode) for it in (own, kept)):
        return FoundProgram(name, State.ODD)
    # A launcher under that name, too, is no way back.
    has_way_back = kept is not None and not _launcher_in(path + STOCK, name)
    if own is None:
        return FoundProgram(name, State.KEPT if has_way_back else State.MISSING)
    text = _launcher_in(path, name)
    if text:
        return FoundProgram(name, State.ADOPTED if has_way_back else State.ALONE, text)
    if kept is None:
        return FoundProgram(name, State.STOCK)
    return FoundProgram(name, State.HALF if os.path.samestat(own, kept) else State.UPGRADED)


def look_at_all(root: str) -> list[FoundProgram]:
    """Returns the files in the order in which they are adopted."""
    return [look(root, name) for name in MODULES]


def notice(root: str) -> str:
    """Tells what is wrong with an adopted manager's launchers, with the cure. Empty if nothing is wrong, if it was
    never adopted, and for users who may not inspect it."""
    try:
        found = look_at_all(root)
    except OSError:
        return ""
    by_state = {state: [one.name for one in found if one.state is state] for state in State}
    if all(one.state in (State.STOCK, State.MISSING, State.ODD) for one in found):
        return ""
    again = f"clusterd --root {root} adopt"
    if by_state[State.UPGRADED]:
        return (
            f"a package has put the stock {_list(by_state[State.UPGRADED])} back into {root}/{BIN}: the manager's next "
            f"start starts the stock daemon again. Run: {again} (or, if the stock daemon is to stay: {again} --undo)"
        )
    if by_state[State.ALONE]:
        return (
            f"the stock file of {_list(by_state[State.ALONE])} is gone from {root}/{BIN}: there is no way back but to "
            "install the manager's package of this version again"
        )
    if by_state[State.KEPT]:
        return (
            f"{_list(by_state[State.KEPT])} is gone from {root}/{BIN}, the stock file is kept beside it: the manager "
            f"does not start. Run: {again}, or {again} --undo"
        )
    if len(by_state[State.ADOPTED]) < len(found):
        return f"adopting {root}, or undoing it, was interrupted. Run: {again}, or {again} --undo"
    for one in found:
        if not os.access(one.python, os.X_OK):
            return f"{root}/{BIN}/{one.name} runs {one.python}, which is not there: run {again} of a clusterd that is"
    return ""


def _list(names: list[str]) -> str:
    return " and ".join(names)


def _within_quotes(text: str) -> str:
    """Escapes text for use within double quotes of the shell."""
    return "".join(f"\\{letter}" if letter in '\\"$`' else letter for letter in text)


def _facts(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _launcher_in(path: str, name: str) -> str:
    """Returns the text of our launcher, also of one that somebody has edited: the stock file beside it must not be
    taken for an old one. Empty for any other file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        text = os.read(fd, _SHOWN_BYTES).decode(errors="replace")
    finally:
        os.close(fd)
    is_ours = any(line.startswith(MARK) or f" -m {MODULES[name]}" in line for line in text.splitlines())
    return text if is_ours else ""

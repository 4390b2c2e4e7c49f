"""The commands of `clusterd` that run every few seconds and must answer at once. This module parses their usual options
itself. Everything else is left to click (tools/cli.py), which takes longer to load than all of `clusterd status`.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clusterd.exits import ExitCode
from clusterd.gate import closed_to_us, has_node, no_node, run_dir_closed_to_us
from clusterd.rundir import DEFAULT_ROOT

ROOT = "--root"
Run = Callable[..., ExitCode | int]


class Quick(NamedTuple):
    """One command. `run` takes the root, and the options by name. `flags`, `numbers`: the option's names, as click
    spells and passes them; a number comes with its default."""

    run: Run
    flags: Mapping[str, str] = {}
    numbers: Mapping[str, tuple[str, float | None]] = {}


def status(root: str, as_json: bool, no_exit_code: bool) -> ExitCode | int:
    """`clusterd status`, once."""
    from clusterd.status.status import StatusReader
    from clusterd.status.verdict import verdict
    from tools.show import fail, write

    _gate(closed_to_us(root) or run_dir_closed_to_us(root))
    found = StatusReader(root).read()
    said = verdict(found)
    if as_json:
        import json

        write(json.dumps({"verdict": said._asdict(), **found}, indent=2))
    elif found["running"] or has_node(root):  # of a stopped one, too, the first line is the verdict
        from tools.drawing import show
        from tools.screen import status_view

        show(status_view(found, said))
    else:
        why = "\n".join([found["problem"], *found["problems"].values()])
        fail(why, ExitCode.OK if no_exit_code else ExitCode.NOT_RUNNING)
    return ExitCode.OK if no_exit_code else said.code(is_running=found["running"])


def check(root: str, warn_s: float, crit_s: float, expect: int | None) -> int:
    """`clusterd check`: the output and the exit code of a Nagios plugin."""
    from clusterd.printable import printable
    from clusterd.status.status import StatusReader
    from tools import nagios
    from tools.show import in_short, write

    closed = closed_to_us(root) or run_dir_closed_to_us(root)
    try:
        if closed is None:
            status = StatusReader(root, may_wait=False).read()
            found = nagios.check(status, warn_s=warn_s, crit_s=crit_s, expect=expect)
        else:
            found = nagios.unknown(closed)
    except OSError as problem:  # the code of other commands that fail would be a warning here
        found = nagios.unknown(in_short(problem))
    write(printable(found.line))
    return found.code


def check_config(root: str) -> ExitCode:
    """`clusterd check-config`, without --connect."""
    from tools.check import check as check_files
    from tools.show import echo, fail, show_lines

    _gate(closed_to_us(root))
    if not has_node(root):
        fail(no_node(root), ExitCode.NOT_RUNNING)
    checked = check_files(root)
    show_lines(checked.lines)
    if not checked.ok:
        return ExitCode.BAD_CONFIGURATION
    echo("The configuration is good.")
    return ExitCode.OK


def _gate(closed: str | None) -> None:
    """Ends the command if the caller may not read the node's directory."""
    if closed is not None:
        from tools.show import fail

        fail(closed)


def version(root: str, as_json: bool) -> ExitCode:
    """`clusterd version`: of the code that this command runs from; `status` tells that of the node."""
    from clusterd import __version__
    from clusterd.build import installed
    from tools.show import write

    found = installed()
    if as_json:
        import json

        write(json.dumps({"version": __version__, **found.shown()}, indent=2))
    else:
        write(f"clusterd {__version__} (build {found.build}, {found.environment})")
    return ExitCode.OK


QUICK = {
    "status": Quick(status, flags={"--json": "as_json", "--no-exit-code": "no_exit_code"}),
    "check": Quick(
        check, numbers={"--warn-lag": ("warn_s", 60.0), "--crit-lag": ("crit_s", 600.0), "--expect": ("expect", None)}
    ),
    "check-config": Quick(check_config),
    "version": Quick(version, flags={"--json": "as_json"}),
}


def understood(words: Sequence[str], environment: Mapping[str, str]) -> tuple[Run, dict[str, Any]] | None:
    """Returns the command that a command line names, with its arguments; None: click decides. Options must have their
    whole names and valid values."""
    root, name = environment.get("CLUSTERD_ROOT") or DEFAULT_ROOT, ""
    given: dict[str, Any] = {}
    left = list(reversed(words))
    while left:
        word, equals, value = left.pop().partition("=")
        quick = QUICK.get(name)
        if word == ROOT or (quick is not None and word in quick.numbers):
            if not equals and not left:
                return None
            value = value if equals else left.pop()
            if word == ROOT:
                root = value
            elif quick is not None:
                number = _number(value, whole=quick.numbers[word][1] is None)
                if number is None:
                    return None
                given[quick.numbers[word][0]] = number
        elif equals:
            return None
        elif quick is None and word in QUICK:
            name = word
        elif quick is not None and word in quick.flags:
            given[quick.flags[word]] = True
        else:
            return None
    if name not in QUICK or not root:
        return None
    quick = QUICK[name]
    arguments = dict.fromkeys(quick.flags.values(), False) | dict(quick.numbers.values()) | given
    if arguments.get("crit_s", 0) < arguments.get("warn_s", 0):
        return None
    try:
        return quick.run, {"root": os.path.abspath(root), **arguments}
    except OSError:  # a relative one, and the working directory is gone
        return None


def _number(text: str, *, whole: bool) -> float | int | None:
    if text.isascii() and text.isdecimal() and len(text) < 16:
        return int(text) if whole else float(text)
    before, _, behind = text.partition(".")
    if not whole and text.isascii() and before.isdecimal() and behind.isdecimal() and len(text) < 16:
        return float(text)
    return None


def end_with(run: Callable[[], object], root: str | None = None) -> None:
    """Runs a command and exits with its code: with 130 after an interrupt, as in a shell, and silently when its output
    was closed (`clusterd status | head -1`). `root`: that of a command that only shows something."""
    from tools.show import bear_any_text, end_quietly, fail, failed, flush, in_short, places

    bear_any_text()
    try:
        code = run()
        flush()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        end_quietly()
        sys.exit(ExitCode.OK)
    except OSError as problem:
        if root is not None:
            failed(problem, root)
        fail(in_short(problem))
    except UnicodeEncodeError as problem:
        fail(f"{problem.object!r} is not UTF-8")
    except Exception as bug:
        fail(f"unexpected failure: {in_short(bug) or 'no text'} ({type(bug).__name__}{places(bug)}). Please report it")
    sys.exit(code if isinstance(code, int) else ExitCode.OK)

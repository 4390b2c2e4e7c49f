"""The output of commands, and how they end."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import NoReturn, TextIO

from clusterd.exits import ExitCode
from clusterd.printable import printable, printable_lines

OUTPUT = "standard output"
MOST_PLACES = 4
WRITERS = ("tools.show", "click.utils", "rich.console")


def colours_asked_for() -> bool | None:
    """Returns whether the environment wants colours (FORCE_COLOR, NO_COLOR, TERM); None: on a terminal only."""
    if os.environ.get("TERM") in ("dumb", "unknown") or os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def echo(text: str, *, err: bool = False) -> None:
    """Shows one line for a person; JSON for programs is printed unchanged."""
    write(printable(text), err=err)


def write(text: str, file: TextIO | None = None, *, err: bool = False) -> None:
    """Writes one line or several at once. Characters that the output's encoding lacks are escaped."""
    if file is None:
        file = sys.stderr if err else sys.stdout
    if file is None:  # closed by who started us
        return
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write((text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)) + "\n")
    file.flush()


def flush() -> None:
    if sys.stdout is not None:  # closed by who started us
        sys.stdout.flush()


def fail(text: str, code: int = ExitCode.FAILED) -> NoReturn:
    """Prints on stderr what must be done, and exits with the code."""
    warn(text)
    sys.exit(code)


@contextlib.contextmanager
def goes_on(what: str) -> Iterator[None]:
    """Around a wait for something that does not end with the command: whoever interrupts the wait is told so."""
    try:
        yield
    except KeyboardInterrupt:
        warn(f"interrupted, but {what}")
        raise


@contextlib.contextmanager
def outlives_terminal() -> Iterator[None]:
    """Around what must not end halfway: a connection that is lost, or a terminal that is closed, does not end it."""
    import signal  # for few commands

    before = signal.getsignal(signal.SIGHUP)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _go_on)  # not SIG_IGN, which a program that is started meanwhile would inherit
    try:
        yield
    finally:
        if before == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, before)


def _go_on(number: int, frame: object) -> None:
    pass


def try_to_say(text: str) -> None:
    """Shows one line, if anybody still reads it."""
    with contextlib.suppress(OSError):
        echo(text)


def try_to_warn(text: str) -> None:
    with contextlib.suppress(OSError):
        warn(text)


def failed(problem: OSError, root: str, *, writes: bool = False) -> NoReturn:
    """Ends a command after a failure of the system, and names the path. `writes`: the command writes more than its
    output."""
    import errno  # here and below: for those who fail

    from clusterd.errors import with_place

    is_output = of_output(problem) or (problem.errno == errno.ENOSPC and not writes)
    fail(with_place(problem, OUTPUT if is_output else root))


def of_output(problem: OSError) -> bool:
    """Returns whether it was raised while the command wrote its output: such a failure names no file."""
    place = problem.__traceback__
    while place is not None:
        if place.tb_frame.f_globals.get("__name__") in WRITERS:
            return True
        place = place.tb_next
    return False


def warn(text: str) -> None:
    write(f"clusterd: {printable_lines(text)}", err=True)


def in_short(problem: Exception) -> str:
    """Returns the text of a failure; of one of the system with its path."""
    if isinstance(problem, OSError) and of_output(problem):
        return f"{OUTPUT}: {problem.strerror}"
    if isinstance(problem, OSError) and problem.filename:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def places(bug: BaseException) -> str:
    """Returns where in the code it was raised, as modules and lines, the last ones first."""
    found, place = [], bug.__traceback__
    while place is not None:
        found.append(f"{place.tb_frame.f_globals.get('__name__')}:{place.tb_lineno}")
        place = place.tb_next
    return "".join(f" < {one}" for one in reversed(found[-MOST_PLACES:]))


def bear_any_text() -> None:
    """Makes the output escape characters that the terminal's encoding lacks, instead of failing in the middle."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more, for commands that may have nothing to write for hours. A regular
    file, or a terminal, is never without."""
    if sys.stdout is None:  # closed by who started us
        return True
    import select  # for those that go on

    output = select.poll()
    try:
        output.register(sys.stdout, 0)  # only whether its reader is gone
    except (OSError, ValueError):  # not a file of the system
        return False
    return bool(output.poll(0))


def end_quietly() -> None:
    """After the output was closed: discards what is still to be flushed, so that the interpreter does not complain."""
    if sys.stdout is not None:  # closed by who started us
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_lines(lines: list[str]) -> None:
    """Shows mistakes and warnings of the configuration."""
    for line in lines:
        echo(line, err=True)

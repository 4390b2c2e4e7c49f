"""The output of commands, and how they end."""

import io
import os
import sys
from typing import NoReturn, TextIO

from clusterd.exits import ExitCode
from clusterd.printable import printable, printable_lines


def echo(text: str, *, err: bool = False) -> None:
    """Shows one line for a person; JSON for programs is printed unchanged."""
    write(printable(text), sys.stderr if err else None)


def write(text: str, file: TextIO | None = None) -> None:
    """Writes one line or several, at once. What the encoding of the output has no bytes for is escaped."""
    file = sys.stdout if file is None else file
    if file is None:  # closed by who started us
        return
    encoding = getattr(file, "encoding", None) or "utf-8"
    file.write((text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)) + "\n")
    file.flush()


def fail(text: str, code: int = ExitCode.FAILED) -> NoReturn:
    """Prints what must be done, on stderr, and exits with the code."""
    warn(text)
    sys.exit(code)


def failed(problem: OSError, root: str, *, writes: bool = False) -> NoReturn:
    """Ends a command that the system has let down, with the place that it is about. `writes`: the command writes more
    than what it shows."""
    import errno  # here and below: for those who fail

    from clusterd.errors import with_place

    is_output = problem.errno == errno.ENOSPC and not writes
    fail(with_place(problem, "standard output" if is_output else root))


def warn(text: str) -> None:
    write(f"clusterd: {printable_lines(text)}", sys.stderr)


def in_short(problem: Exception) -> str:
    """A failure of the system with the path that it is about; the text of any other one."""
    if isinstance(problem, OSError) and problem.filename:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def bear_any_text() -> None:
    """Shows a character that the terminal's encoding does not have as an escape, instead of failing in the middle."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_quietly() -> None:
    """For a closed output: what is still to be flushed goes nowhere, so that the interpreter does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_lines(lines: list[str]) -> None:
    """Shows mistakes and warnings of the configuration."""
    for line in lines:
        echo(line, err=True)

"""The output of commands, and how they end."""

import sys
from typing import NoReturn

import click

from clusterd.exits import ExitCode
from clusterd.printable import printable, printable_lines


def echo(text: str, *, err: bool = False) -> None:
    """Shows one line for a person; JSON for programs is printed unchanged."""
    click.echo(printable(text), err=err)


def fail(text: str, code: int = ExitCode.FAILED) -> NoReturn:
    """Prints what must be done, on stderr, and exits with the code."""
    warn(text)
    sys.exit(code)


def warn(text: str) -> None:
    click.echo(f"clusterd: {printable_lines(text)}", err=True)


def show_lines(lines: list[str]) -> None:
    """Shows mistakes and warnings of the configuration."""
    for line in lines:
        echo(line, err=True)

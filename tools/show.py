"""What commands say on stderr, and how they end."""

import sys
from typing import NoReturn

import click

from clusterd.exits import ExitCode


def fail(text: str, code: int = ExitCode.FAILED) -> NoReturn:
    """One line on stderr that says what to do, and the code."""
    click.echo(f"clusterd: {text}", err=True)
    sys.exit(code)


def warn(text: str) -> None:
    click.echo(f"clusterd: {text}", err=True)


def show_lines(lines: list[str]) -> None:
    """Mistakes and warnings of the configuration."""
    for line in lines:
        click.echo(line, err=True)

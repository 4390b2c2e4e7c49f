"""Shared options of the rig's commands: the rig's directory, seeds, a progress bar."""

import contextlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from tools.console import PlainConsole

FAILED = 1


def default_directory() -> Path:
    """Short, because unix sockets live below it; one per user."""
    return Path(tempfile.gettempdir()) / f"clusterd-rig-{os.getuid()}"


def in_directory(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_directory,
        show_default="clusterd-rig-UID in the temporary directory",
        help="Where the rig lives; another directory is another rig.",
    )(command)


def seeded(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--seed", type=int, help="Repeat what this number did on an equal tree; default: at random.")(
        command
    )


def seed_or_any(given: int | None) -> int:
    return random.SystemRandom().getrandbits(31) if given is None else given


@contextlib.contextmanager
def progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, nothing elsewhere. Yields a function to call with the number of finished steps."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)

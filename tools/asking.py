"""Questions to the person at the terminal."""

import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import click

Answer = TypeVar("Answer")


def asked(question: Callable[[], Answer]) -> Answer | None:
    """Returns the answer to a question of click; None where nobody answers, as in a script. Ctrl-C ends the command."""
    if sys.stdin is None:  # closed by who started us
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of getpass, which says itself what it cannot hide
            return question()
    except click.Abort as stop:
        if isinstance(stop.__context__, EOFError):
            return None
        raise

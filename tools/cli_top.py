"""`clusterd top`."""

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click

from clusterd.status.status import StatusReader
from tools.seconds import Seconds
from tools.show import fail

STEP_S = 0.1
ESCAPED = re.compile(r"\x1b(\[[0-9;?<]*[@-~]|O.|.)?")


@click.command()
@click.option("--interval", "interval_s", type=Seconds(0.2), default=1.0, show_default=True, help="Seconds.")
@click.pass_obj
def top(root: str, interval_s: float) -> None:
    """Watch the cluster: workers and problems first. Keys: s sorts, p processes, a agents, q ends."""
    if any(stream is None or not stream.isatty() for stream in (sys.stdin, sys.stdout)):
        fail("top needs a terminal; for a pipe there is: clusterd status --watch")
    from rich.live import Live

    from tools.console import PlainConsole
    from tools.top_view import Looks, top_view

    reader, console = StatusReader(root), PlainConsole()
    looks = Looks.for_width(console.width)
    try:
        with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
            found, due, size, is_new = reader.read(), time.monotonic() + interval_s, console.size, True
            while True:
                if is_new:
                    live.update(top_view(found, looks, size.width, size.height), refresh=True)
                ready, _, _ = select.select([sys.stdin], [], [], min(STEP_S, max(0.0, due - time.monotonic())))
                keys = pressed(os.read(sys.stdin.fileno(), 1024)) if ready else ""
                if not all(looks.press(key) for key in keys):
                    return
                is_due = time.monotonic() >= due
                if is_due:
                    found, due = reader.read(), time.monotonic() + interval_s
                before, size = size, console.size
                is_new = is_due or bool(keys) or size != before
    except KeyboardInterrupt:
        return


def pressed(data: bytes) -> str:
    """Returns the keys that a terminal has sent, without those that it sends as a sequence (arrows, F1). A terminal
    that is gone sends nothing: as Ctrl-D."""
    return ESCAPED.sub("", data.decode(errors="replace")) if data else "\x04"


@contextmanager
def _keys() -> Iterator[None]:
    """Makes the terminal deliver keys one by one, without showing them."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)

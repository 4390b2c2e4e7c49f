"""`--watch`: the same view again and again, until it is interrupted."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from clusterd.errors import ClusterError
from clusterd.status.control import NotAnswering
from tools.drawing import Drawn, Styled, ansi, columns_of, is_screen, show
from tools.show import warn, write

FEWEST_LINES = 4
BEGIN, END = "\x1b[?1049h", "\x1b[?1049l"
"""A screen of its own, and back to the lines that were there before."""
TO_THE_TOP, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(look: Callable[[], Drawn], every_s: float) -> None:
    """Draws what `look` returns, or why it cannot (NotAnswering, ClusterError). On a terminal each view takes the place
    of the one before it, and the last one stays, whole; elsewhere they follow each other. Each has its time."""

    def seen() -> Drawn:
        try:
            return look()
        except (NotAnswering, ClusterError) as failure:
            return Styled(f"clusterd: {failure}", "red")

    file = sys.stdout
    if file is not None:  # closed by who started us
        _until_interrupted(lambda: (_in_place if is_screen(file) else _one_after_another)(seen, every_s, file))


def watch_json(look: Callable[[], Any], every_s: float) -> None:
    """Writes what `look` returns, each time as one line; on stderr why it cannot."""
    import json

    def go_on() -> NoReturn:
        while True:
            try:
                write(json.dumps(look()))
            except (NotAnswering, ClusterError) as failure:
                warn(str(failure))
            time.sleep(every_s)

    _until_interrupted(go_on)


def _until_interrupted(go_on: Callable[[], NoReturn]) -> None:
    try:
        go_on()
    except KeyboardInterrupt:
        return


def _in_place(look: Callable[[], Drawn], every_s: float, file: TextIO) -> NoReturn:
    what = look()
    file.write(BEGIN)
    try:
        while True:
            file.write(_screen(what, file))
            file.flush()
            time.sleep(every_s)
            what = look()
    finally:
        file.write(END)
        show(what, file)


def _one_after_another(look: Callable[[], Drawn], every_s: float, file: TextIO) -> NoReturn:
    while True:
        what = look()
        write(_now(), file)
        show(what, file)
        write("", file)
        time.sleep(every_s)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _screen(what: Drawn, file: TextIO) -> str:
    """Returns the view as it fits the terminal; its last line counts the lines that do not."""
    lines = [Styled(_now(), "dim"), *what.lines(columns_of(file))]
    most = max(FEWEST_LINES, os.get_terminal_size(file.fileno()).lines)
    if len(lines) > most:
        lines[most - 1 :] = [Styled(f"and {len(lines) - most + 1} more lines", "dim")]
    return TO_THE_TOP + ansi(lines, file, REST_OF_LINE) + REST_OF_SCREEN

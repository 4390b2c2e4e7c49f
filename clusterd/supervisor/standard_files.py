"""The standard files of a process, which whoever started it may have closed (`>&-`)."""

import contextlib
import os
import sys


def open_closed_ones() -> None:
    """Opens /dev/null in their place: otherwise a file of the node would get such a number, and what a library prints
    would go into it. Call it before anything else is opened."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def flush_streams() -> None:
    """Before a fork: what is not written yet would be written twice. A reader that is gone is no reason not to fork."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by who started us
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

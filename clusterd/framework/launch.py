"""Starts the framework process: fork and exec in the framework's own Python. Loads nothing of it here."""

import os
import signal
import socket
from pathlib import Path

import msgspec

from clusterd.framework import program
from clusterd.memory import MOST_ARENAS

PROGRAM = Path(program.__file__).read_bytes()
"""Read when the node starts: the process then matches the sync of this start, even if the package was replaced
meanwhile."""
NOT_GIVEN_ON = ("CLUSTERD_KEY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class Launched(msgspec.Struct):
    """`connection`: our end of the socket pair; `output`: a descriptor from which the process's output is read."""

    pid: int
    connection: socket.socket
    output: int

    def close(self) -> None:
        self.connection.close()
        os.close(self.output)


def launch(python: str, root: str, name: str) -> Launched:
    """Starts a process that leads a process group of its own and ends with this process. `name`: as ps shows it. Raises
    OSError when the interpreter is missing or the system cannot create a process."""
    ours, theirs = socket.socketpair()
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    code = os.memfd_create("clusterd-framework", os.MFD_CLOEXEC)
    try:
        os.write(code, PROGRAM)
        os.lseek(code, 0, os.SEEK_SET)
        environment = {key: value for key, value in os.environ.items() if key not in NOT_GIVEN_ON}
        environment.setdefault("MALLOC_ARENA_MAX", str(MOST_ARENAS))  # see clusterd/memory.py
        pid = os.posix_spawn(
            python,
            [python, "-I", "-B", "-u", "-", root, str(os.getpid()), name],
            environment,
            file_actions=_inherited(code, write_fd, theirs.fileno()),
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except BaseException:
        ours.close()
        os.close(read_fd)
        raise
    finally:
        os.close(code)
        os.close(write_fd)
        theirs.close()
    return Launched(pid, ours, read_fd)


def _inherited(code: int, output: int, connection: int) -> list[tuple[int, int, int]]:
    """Sets descriptors 0 to 3 of the new process. Copies each to a high number first, because one may occupy the number
    of another."""
    wanted = ((code, 0), (output, 1), (output, 2), (connection, program.SOCKET_FD))
    high = max(code, output, connection) + 1
    moves = [(os.POSIX_SPAWN_DUP2, fd, high + target) for fd, target in wanted]
    moves += [(os.POSIX_SPAWN_DUP2, high + target, target) for _, target in wanted]
    return [*moves, *((os.POSIX_SPAWN_CLOSE, high + target) for _, target in wanted)]  # type: ignore[list-item]

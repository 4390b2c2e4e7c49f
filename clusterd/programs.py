"""Runs programs of the operator, as the daemon's user, in a session of their own and with a small environment: nothing
of the daemon's, which may hold the cluster key."""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
from collections.abc import Callable, Sequence
from typing import cast

from clusterd.errors import calm
from clusterd.settings import MASKED_KEY

MOST_OUTPUT_BYTES = 16384
MOST_READ_BYTES = 16 << 20
"""What a program may write in all; one that writes more is killed, for reading costs CPU."""
MOST_LINES = 20
LONGEST_LINE = 500
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMED_SECRET = re.compile(
    r"""((?:key|secret|token|passw(?:or)?d|passphrase|authorization)["']?\s*[:=]\s*(?:(?:basic|bearer)\s+)?)("[^"]*"|'[^']*'|\S+)""",
    re.I,
)
_LONG_SECRET = re.compile(r"\b[0-9A-Fa-f]{32,}\b")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
Say = Callable[[str, str], None]


def environment(root: str, node: str) -> dict[str, str]:
    return {"PATH": PATH, "LANG": "C.UTF-8", "CLUSTERD_ROOT": root, "CLUSTERD_NODE": node}


async def run_program(
    run: Sequence[str], variables: dict[str, str], data: bytes, timeout_s: float, say: Say, name: str
) -> str:
    """Gives it `data` on standard input, logs what it writes, kills it and what it has started after `timeout_s`, or
    when it writes without end. Returns what went wrong, empty if nothing. Raises OSError."""
    transport, program = await asyncio.get_running_loop().subprocess_exec(
        _Program,
        *run,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
        env=variables,
        start_new_session=True,
        preexec_fn=_end_with_us,  # one system call: nothing that another thread could hold
    )
    group = transport.get_pid()
    try:
        stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        stdin.write(data)
        stdin.write_eof()  # a program need not read it
        async with asyncio.timeout(timeout_s):
            await program.ended
        code = transport.get_returncode() or 0
        return "" if code == 0 else f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    except BaseException as ending:
        # What it has started holds its output, perhaps: the group is there as long as one of them is.
        if not program.is_group_gone:
            _kill(group)
        if isinstance(ending, _TooMuch):
            return f"wrote more than {MOST_READ_BYTES >> 20} MiB and was killed"
        if not isinstance(ending, TimeoutError):
            raise
        return f"ran for more than {timeout_s:g} s and was killed"
    finally:
        transport.close()  # also what is left in its pipes, which somebody out of reach may hold open
        _log(bytes(program.output), say, name)
        await program.exited


def _log(output: bytes, say: Say, name: str) -> None:
    lines = output.decode(errors="replace").splitlines()
    for line in lines[:MOST_LINES]:
        if line.strip():
            say("INFO", f"{name}: {calm(without_secrets(line[:LONGEST_LINE]))}")
    if len(lines) > MOST_LINES or len(output) >= MOST_OUTPUT_BYTES:
        say("INFO", f"{name}: what it wrote besides is left out.")


def without_secrets(line: str) -> str:
    """What a program writes is its operator's, and our log is read by others: what looks like a secret is masked."""
    return _LONG_SECRET.sub(MASKED_KEY, _NAMED_SECRET.sub(rf"\1{MASKED_KEY}", line))


def _end_with_us() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _kill(group: int) -> None:
    """The program, if it still runs, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class _TooMuch(Exception):
    """It writes without end."""


class _Program(asyncio.SubprocessProtocol):
    """A program from its start to its end. `output`: the beginning of what it writes. `exited`: it is gone; `ended`:
    and nobody holds its output any more. `ended` may raise _TooMuch."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.output = bytearray()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.is_group_gone = False
        """Nothing of its group was left when it ended: the number may be that of others by now."""
        self._group = 0
        self._size = 0
        self._has_output = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._group = cast(asyncio.SubprocessTransport, transport).get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output += data[: MOST_OUTPUT_BYTES - len(self.output)]
        self._size += len(data)
        if self._size > MOST_READ_BYTES and not self.ended.done():
            self.ended.set_exception(_TooMuch())

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._has_output = False
            self._end()

    def process_exited(self) -> None:
        try:
            os.killpg(self._group, 0)
        except ProcessLookupError:
            self.is_group_gone = True
        except OSError:
            pass
        if not self.exited.done():  # whoever waited may have been cancelled twice
            self.exited.set_result(None)
        self._end()

    def _end(self) -> None:
        if self.exited.done() and not self._has_output and not self.ended.done():
            self.ended.set_result(None)

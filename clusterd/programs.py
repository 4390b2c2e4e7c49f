"""Runs programs of the operator, as the daemon's user, in a session of their own and with a small environment: nothing of
the daemon's, which may hold the cluster key."""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Sequence

from clusterd.errors import calm

MOST_OUTPUT_BYTES = 16384
MOST_LINES = 20
LONGEST_LINE = 500
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
Say = Callable[[str, str], None]


def environment(root: str, node: str) -> dict[str, str]:
    return {"PATH": PATH, "LANG": "C.UTF-8", "CLUSTERD_ROOT": root, "CLUSTERD_NODE": node}


async def run_program(
    run: Sequence[str], variables: dict[str, str], data: bytes, timeout_s: float, say: Say, name: str
) -> str:
    """Gives it `data` on standard input, logs what it writes, kills it and what it has started after `timeout_s`.
    Returns what went wrong, empty if nothing. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *run,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
        env=variables,
        start_new_session=True,
        preexec_fn=_end_with_us,  # one system call: nothing that another thread could hold
    )
    output = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(_write(process, data), _read(process, output))
            code = await process.wait()
        return "" if code == 0 else f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    except BaseException as ending:
        # What it has started holds its output, perhaps: the group is there as long as one of them is.
        _kill(process.pid)
        await process.wait()
        if not isinstance(ending, TimeoutError):
            raise
        return f"ran for more than {timeout_s:g} s and was killed"
    finally:
        _log(bytes(output), say, name)


def _log(output: bytes, say: Say, name: str) -> None:
    lines = output.decode(errors="replace").splitlines()
    for line in lines[:MOST_LINES]:
        if line.strip():
            say("INFO", f"{name}: {calm(line[:LONGEST_LINE])}")
    if len(lines) > MOST_LINES or len(output) >= MOST_OUTPUT_BYTES:
        say("INFO", f"{name}: what it wrote besides is left out.")


def _end_with_us() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _kill(group: int) -> None:
    """The program, if it still runs, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


async def _write(process: asyncio.subprocess.Process, data: bytes) -> None:
    """A program need not read it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _read(process: asyncio.subprocess.Process, output: bytearray) -> None:
    """All that it writes, of which the beginning is kept."""
    assert process.stdout is not None
    while data := await process.stdout.read(65536):
        output += data[: MOST_OUTPUT_BYTES - len(output)]

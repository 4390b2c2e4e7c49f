"""Runs `clusterd` in a fork of a process that has loaded it already: the command does the same at a fraction of the
cost.

Loading the daemon takes a second of CPU, and most tests that start nodes would spend their time on it. So each test
process has one process that loads everything once and forks for each command. A fork is made to look like the command:
arguments and environment (in /proc, too), directory, standard files; nothing else is open. Tests about the program
itself, its loading or its exit, use `run_program` instead (`make_rig(run=run_program)`). tests/tools/test_warm.py
compares the two.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from clusterd.status.status import StatusReader
from tools.cli_ha import ha_facts
from tools.rig.nodes import PROJECT, run_program

MODULE = (sys.executable, "-m")
ARGUMENTS_ROOM, ENVIRONMENT_ROOM = 4096, 32768
"""Most bytes that /proc shows of a fork's arguments and environment."""
MESSAGE = 1 << 17


class Forked:
    """A running command, with the needed part of the interface of `subprocess.Popen`."""

    def __init__(self, line: Sequence[str], told: int) -> None:
        self._line = line
        self._told = told
        self.returncode: int | None = None
        self.pid = self._read()

    def fileno(self) -> int:
        """Becomes readable when the command has ended; until `wait` has returned."""
        return self._told

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code, or -N of signal N. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self._line, timeout or 0)
            self.returncode = self._read()
            os.close(self._told)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def __del__(self) -> None:
        if self.returncode is None:
            os.close(self._told)

    def _read(self) -> int:
        """Reads a line: first the pid, at the end the exit code. Both may have arrived already."""
        text = b""
        while not text.endswith(b"\n"):
            data = os.read(self._told, 1)
            assert data, "the process that forks commands is gone: was it killed?"
            text += data
        return int(text)


class Warm:
    """The test's end of the connection; the process at the other end ends with this one."""

    def __init__(self, *within: str) -> None:
        """`within`: a program that runs another one somewhere else (nsenter with its options)."""
        self._within = within
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._server_pid = 0
        self._pid = 0
        self._python = _python(os.environ)

    def start(
        self,
        line: Sequence[str],
        environment: Mapping[str, str],
        *,
        out: int | None = None,
        err: int | None = None,
        directory: str | None = None,
    ) -> Forked:
        """Runs `python -m MODULE ...`, in this process's directory unless another is given. `out`, `err`: descriptors;
        without one the output goes to /dev/null."""
        assert tuple(line[:2]) == MODULE, line
        with self._lock:
            if self._socket is None or self._pid != os.getpid():
                self._begin()
            server = self._socket
        assert server is not None
        wanted = {"line": line, "environment": dict(environment), "directory": directory or os.getcwd()}
        told, telling = os.pipe()
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            files = [null if out is None else out, null if err is None else err, telling]
            socket.send_fds(server, [json.dumps(wanted).encode()], files)
        finally:
            os.close(telling)
            os.close(null)
        return Forked(line, told)

    def run(
        self, line: Sequence[str], out: IO[str], err: IO[str], environment: Mapping[str, str], timeout_s: float
    ) -> int:
        """Is a `Run` of tools/rig/nodes.py. Anything but a Python module is run as a program, and so are commands for
        another Python environment (tests/campaigns/hook)."""
        if tuple(line[:2]) != MODULE or _python(environment) != self._python:
            return run_program(line, out, err, environment, timeout_s)
        started = self.start(line, environment, out=out.fileno(), err=err.fileno())
        try:
            return started.wait(timeout_s)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
            raise

    def capture(
        self, line: Sequence[str], environment: Mapping[str, str], timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Works like `run`, and returns the output."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = self.run(line, out, err, environment, timeout_s)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(line, code, out.read(), err.read())

    def close(self) -> None:
        """Ends the process that has loaded everything; what runs goes on."""
        with self._lock:
            if self._socket is not None and self._pid == os.getpid():
                self._socket.close()
                os.waitpid(self._server_pid, 0)
            self._socket = None

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE)
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "CLUSTERD_ROOM": "-" * ENVIRONMENT_ROOM}
        with theirs:
            process = subprocess.Popen(
                [*self._within, sys.executable, "-m", "tests.warm", str(theirs.fileno()), "-" * ARGUMENTS_ROOM],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        process.returncode = 0  # it ends when nobody has our end any more
        self._server_pid = process.pid
        self._socket, self._pid = ours, os.getpid()


def read_ha(root: Path) -> dict[str, Any] | None:
    """Returns what `clusterd ha status --json` prints, without a process; None where it prints nothing, or null."""
    found: dict[str, Any] | None = json.loads(json.dumps(ha_facts(str(root), StatusReader(str(root)))[0]))
    return found


def without_figures(value: Any) -> Any:
    """Replaces all numbers, for comparisons of what was read twice; a measured one may be missing."""
    if isinstance(value, dict):
        return {name: without_figures(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_figures(one) for one in value]
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return "a figure"
    return value


def _python(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that an interpreter reads, except for the project on its path."""
    found = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    path = found.pop("PYTHONPATH", "").split(os.pathsep)
    return found | {"PYTHONPATH": os.pathsep.join(one for one in path if one not in ("", str(PROJECT)))}


WARM = Warm()


def serve(control: socket.socket) -> None:
    """Forks for each command until the test process is gone."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C only the end of the test process counts
    running: dict[int, tuple[int, int]] = {}  # descriptor of a fork: its pid, and where its end is told
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == control.fileno():
                message, files, _, _ = socket.recv_fds(control, MESSAGE, 3)
                if not message:
                    return
                pid = os.fork()
                if pid == 0:
                    signal.signal(signal.SIGINT, interrupt)
                    _become(json.loads(message), files[0], files[1], control)
                os.write(files[2], f"{pid}\n".encode())
                os.close(files[0])
                os.close(files[1])
                watched = os.pidfd_open(pid)
                running[watched] = pid, files[2]
                poll.register(watched, select.POLLIN)
            else:
                pid, telling = running.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(telling, f"{code}\n".encode())
                os.close(telling)


def _become(wanted: dict[str, Any], out: int, err: int, control: socket.socket) -> NoReturn:
    code: object = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = sys.__stdout__ = _stream(1, sys.stdout)
        sys.stderr = sys.__stderr__ = _stream(2, sys.stderr)
        control.detach()
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        line, environment = wanted["line"], wanted["environment"]
        os.environ.clear()
        os.environ.update(environment)
        _show(line, [f"{name}={value}" for name, value in environment.items()])
        os.chdir(wanted["directory"])
        sys.argv = line[2:]
        sys.modules.pop(line[2], None)  # it is __main__ only, as in a program
        runpy.run_module(line[2], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _stream(fd: int, like: Any) -> Any:
    """Returns a stream like one that was made for another file: it has asked once whether one can seek there."""
    return open(fd, "w", encoding=like.encoding, errors=like.errors, closefd=False, buffering=-1 if fd == 1 else 1)


def _show(arguments: list[str], environment: list[str]) -> None:
    """Writes arguments and environment to where the system put those of this process, which /proc/PID/cmdline and
    environ show."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    for strings, begin, end in (
        (arguments, int(fields[45]), int(fields[46])),
        (environment, int(fields[47]), int(fields[48])),
    ):
        block = b"".join(os.fsencode(one) + b"\0" for one in strings)
        assert len(block) <= end - begin, "no room in /proc"
        ctypes.memmove(begin, block.ljust(end - begin, b"\0"), end - begin)


def main() -> None:
    from clusterd.supervisor.preload import preload
    from tools.cli import COMMANDS

    for place, _ in COMMANDS.values():
        importlib.import_module(place.partition(":")[0])
    importlib.import_module("tools.starting")
    preload()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        serve(control)


if __name__ == "__main__":
    main()

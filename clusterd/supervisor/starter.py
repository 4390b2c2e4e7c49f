"""The caller that waits for the result of a node's start."""

import contextlib
import os
import sys

import msgspec

from clusterd.exits import ExitCode


class StartResult(msgspec.Struct, frozen=True):
    """The result of a start. `pid` is the supervisor's; with ALREADY_RUNNING that of the running daemon. `reason` is
    for people; empty when `ok`, unless the node was left starting."""

    ok: bool
    reason: str = ""
    pid: int = 0
    code: int = int(ExitCode.OK)


class CouldNotStart(Exception):
    """The node cannot serve; everything made so far is removed before anybody is told."""

    def __init__(self, reason: str, code: ExitCode = ExitCode.COULD_NOT_START, pid: int = 0) -> None:
        super().__init__(reason)
        self.result = StartResult(False, reason, pid, int(code))


class Starter:
    """The caller that waits for the result of the start; told once, through a pipe or on stderr."""

    def __init__(self, ready_fd: int | None, *, foreground: bool) -> None:
        self.fd = ready_fd
        self._foreground = foreground
        self._told = False

    def tell(self, result: StartResult) -> int:
        """Sends the result; returns its exit code."""
        if self._told:
            return result.code
        self._told = True
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.write(self.fd, msgspec.json.encode(result) + b"\n")
            os.close(self.fd)
            self.fd = None
        elif self._foreground and not result.ok:
            print(f"clusterd: {result.reason}", file=sys.stderr, flush=True)
        return result.code

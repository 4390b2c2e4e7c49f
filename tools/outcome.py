"""What became of what a command was to do."""

import msgspec

from clusterd.exits import ExitCode


class Outcome(msgspec.Struct, frozen=True):
    """`reason` says why not, for people; `lines` is what to show besides."""

    ok: bool
    reason: str = ""
    code: int = int(ExitCode.OK)
    lines: list[str] = []

"""The result of a command's work."""

import msgspec

from clusterd.exits import ExitCode


class Outcome(msgspec.Struct, frozen=True):
    """`reason` tells people why it failed; `lines` is further text to show."""

    ok: bool
    reason: str = ""
    code: int = int(ExitCode.OK)
    lines: list[str] = []

"""Finds the installed framework, once, when the node starts (setting `clusterd.framework`)."""

import os
from pathlib import Path

import msgspec

from clusterd.settings import Settings


class Found(msgspec.Struct, frozen=True):
    """`python`: the interpreter, empty if no framework is wanted or found; `why` gives the reason. `is_wrong`: the
    settings or the installation must be corrected."""

    python: str = ""
    why: str = ""
    is_wrong: bool = False


def find(settings: Settings) -> Found:
    """Finds the framework. Call it as the node's user: it checks whether that user may run the interpreter."""
    own = settings.clusterd.framework
    if own.mode == "off":
        return Found(why="clusterd.framework is off")
    python = Path(settings.root, own.python)
    if not os.path.isfile(python):  # unlike those of Path it takes what may not be looked at for absent
        is_half = os.path.isdir(f"{settings.root}/framework")
        if own.mode == "on":
            return Found(why=f"clusterd.framework is on, but {python} is not there", is_wrong=True)
        if is_half:
            return Found(why=f"the framework is installed in part: {python} is not there", is_wrong=True)
        return Found(why=f"no framework is installed ({python} is not there)")
    if not os.access(python, os.X_OK, effective_ids=True):
        return Found(why=f"{python} cannot be executed by this user: mend its rights, or those above it", is_wrong=True)
    return Found(str(python))

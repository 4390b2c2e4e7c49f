"""Where the installed framework is, decided once, when the node starts (setting `clusterd.framework`)."""

import os
from pathlib import Path

import msgspec

from clusterd.settings import Settings


class Found(msgspec.Struct, frozen=True):
    """`python`: the interpreter, empty without a framework that is wanted and there; `why` says why. `is_wrong`: something is to
    be mended, by the settings or by what else is installed."""

    python: str = ""
    why: str = ""
    is_wrong: bool = False


def find(settings: Settings) -> Found:
    """To be asked as the user that the node runs as: whether it may run the interpreter."""
    own = settings.clusterd.framework
    if own.mode == "off":
        return Found(why="clusterd.framework is off")
    python = Path(settings.root, own.python)
    if not python.is_file():
        is_half = (Path(settings.root) / "framework").is_dir()
        if own.mode == "on":
            return Found(why=f"clusterd.framework is on, but {python} is not there", is_wrong=True)
        if is_half:
            return Found(why=f"the framework is installed in part: {python} is not there", is_wrong=True)
        return Found(why=f"no framework is installed ({python} is not there)")
    if not os.access(python, os.X_OK, effective_ids=True):
        return Found(why=f"{python} cannot be executed by this user: mend its rights, or those above it", is_wrong=True)
    return Found(str(python))

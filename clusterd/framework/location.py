"""Finds the installed framework, once, when the node starts (setting `clusterd.framework`)."""

import os
import stat
from pathlib import Path

import msgspec

from clusterd.settings import Settings

DIRECTORY = "framework"
USERS = "api/configuration/security/rbac.db"
CACHES = ".pyc"
"""Made by running it: what a removed package leaves in its directories is nothing of it."""
RESTART = "then: clusterd restart"
RIGHTS = f"mend its rights, or those above it; {RESTART}"
REFUSED = "logins, tokens and permissions are refused on this node meanwhile, since its users are not those of clusterd"
"""What a framework means that should be there and cannot be used."""


class Found(msgspec.Struct, frozen=True):
    """`python`: the interpreter, empty if no framework is wanted or found; `why` gives the reason. `cure`: what is to
    be done where the settings or the installation must be corrected, else empty."""

    python: str = ""
    why: str = ""
    cure: str = ""

    @property
    def is_wrong(self) -> bool:
        return bool(self.cure)

    @property
    def told(self) -> str:
        """For people, where something is wrong: all of it."""
        return f"{self.why}; {REFUSED}. {self.cure[0].upper()}{self.cure[1:]}"


def find(settings: Settings) -> Found:
    """Finds the framework. Call it as the node's user: it checks whether that user may run the interpreter."""
    own = settings.clusterd.framework
    if own.mode == "off":
        return Found(why="clusterd.framework is off")
    python = Path(settings.root, own.python)
    try:
        is_there = stat.S_ISREG(python.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as failure:
        return Found(why=f"{python} cannot be looked at by this user: {failure.strerror}", cure=RIGHTS)
    if is_there and not os.access(python, os.X_OK, effective_ids=True):
        return Found(why=f"{python} cannot be executed by this user", cure=RIGHTS)
    if is_there:
        return Found(str(python))
    if own.mode == "on":
        cure = f'install it, correct clusterd.framework, or set it to "auto" or "off"; {RESTART}'
        return Found(why=f"clusterd.framework is on, but {python} is not there", cure=cure)
    rest = rest_of(settings.root)
    if not rest:
        return Found(why=f"no framework is installed ({python} is not there)")
    cure = (
        f'install it whole; or, if there is to be none, move {rest} away or set clusterd.framework to "off"; {RESTART}'
    )
    return Found(why=f"the framework is installed in part: {python} is not there, and {rest} is", cure=cure)


def rest_of(root: str) -> str:
    """Returns the path of something that an installation has left or has brought already; empty if there is nothing:
    then there is none, whatever empty directories say. Where its directory still is, the database of its users is
    something, too: they must not be judged by us because a disk is not mounted, or an upgrade under way."""
    directory = Path(root, DIRECTORY)
    if not os.path.lexists(directory):
        return ""
    closed: list[OSError] = []
    for place, directories, names in os.walk(directory, onerror=closed.append):
        links = [name for name in directories if os.path.islink(os.path.join(place, name))]
        for name in [*names, *links]:
            if not name.endswith(CACHES):
                return str(directory)
    if closed:  # also a link that leads nowhere
        return str(directory)
    users = Path(root, USERS)
    try:
        users.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError:
        pass  # closed to this user: it may be there
    return str(users)

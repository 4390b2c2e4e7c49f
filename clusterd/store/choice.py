"""Decides at start whether this node serves the agent database and authd itself (setting `clusterd.store`)."""

from pathlib import Path

import msgspec

from clusterd.rundir import REAL_DAEMON, STORE_SOCKETS
from clusterd.settings import Settings
from clusterd.wdb.stream import is_served


class Choice(msgspec.Struct, frozen=True):
    """`problem`: why the node cannot start with this configuration; without one, `text` says what was chosen and
    why."""

    serves: bool
    text: str
    problem: str = ""


def choose(settings: Settings) -> Choice:
    """`auto` serves if no other program does and no wazuh-db is installed; `on` always serves; `off` never does."""
    wanted = settings.clusterd.store
    if wanted == "off":
        return Choice(False, "The agent database is not served by this node (clusterd.store: off).")
    served = [name for name in STORE_SOCKETS if is_served(f"{settings.root}/{name}")]
    if wanted == "on":
        if served:
            return Choice(
                False,
                "",
                f"clusterd.store is on, but {' and '.join(served)} {'is' if len(served) == 1 else 'are'} served by "
                f"another program (see: lsof {settings.root}/{served[0]}): stop it, or set clusterd.store to off in "
                "etc/cluster.json",
            )
        return Choice(True, "This node serves the agent database and authd (clusterd.store: on).")
    if (Path(settings.root) / REAL_DAEMON).exists():
        return Choice(False, f"The agent database is left to {REAL_DAEMON} (clusterd.store: auto).")
    if served:
        return Choice(False, f"The agent database is left to the program that serves {' and '.join(served)}.")
    return Choice(True, "Nothing else serves the agent database and authd: this node does (clusterd.store: auto).")

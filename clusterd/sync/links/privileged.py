"""Commands of the local socket that change something are not for every program that may connect."""

import os

from clusterd.errors import ClusterError
from clusterd.sync.links.peer import Peer

ROOT = 0


def check_privileged(client: Peer, what: str, *, prefix: str = "") -> None:
    """Raises ClusterError 4000, its text behind `prefix`, unless root or the user of this daemon asks."""
    if client.info.uid not in (ROOT, os.geteuid()):
        raise ClusterError(4000, f"{prefix}only root and the user of this daemon may use {what}")

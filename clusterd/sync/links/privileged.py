"""Local commands that change something require root or the daemon's user."""

import os

from clusterd.errors import ClusterError
from clusterd.sync.links.peer import Peer

ROOT = 0


def check_privileged(client: Peer, refusal: str) -> None:
    """Raises ClusterError 4000 with this text unless root or the daemon's user asks."""
    if client.info.uid not in (ROOT, os.geteuid()):
        raise ClusterError(4000, refusal)

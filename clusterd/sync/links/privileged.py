"""Commands of the local socket that change something are not for every program that may connect."""

import os

from clusterd.errors import ClusterError
from clusterd.sync.links.peer import Peer

ROOT = 0


def check_privileged(client: Peer, refusal: str) -> None:
    """Raises ClusterError 4000 with this text unless root or the user of this daemon asks."""
    if client.info.uid not in (ROOT, os.geteuid()):
        raise ClusterError(4000, refusal)

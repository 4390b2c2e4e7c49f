"""What a node's role has of the replica: a master gives replicas, a candidate keeps one."""

import os
import time
from collections.abc import Callable

from clusterd.role import RoleDamaged, update_role, withheld
from clusterd.settings import Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.store.confirming import SET_S, ConfirmingChoice
from clusterd.store.replica_copy import ReplicaCopy
from clusterd.store.replica_source import ReplicaSource
from clusterd.wdb.election import ElectionPort

PROMOTED_S = 60.0
"""Who became the master so short a time ago waits for no candidate to compare itself."""


def replica_side(
    settings: Settings, *, leads: Callable[[], bool] | None, say: Callable[[str, str], None]
) -> ReplicaSource | ReplicaCopy | None:
    """None on a node without a replica. `leads`: of a master in an election, whether its lease lasts. Raises
    sqlite3.Error."""
    if not settings.has_replica:
        return None
    ha = settings.clusterd.ha
    if not settings.is_master:
        return ReplicaCopy(settings.root, say=say, priority=ha.priority if settings.has_election else 0)
    term = 0 if settings.role is None else settings.role.led
    source = ReplicaSource(
        settings.root,
        synchronous=ha.synchronous,
        limit_s=ha.synchronous_timeout_s,
        say=say,
        teller=f"{term} {settings.cluster.node_name}" if leads is None else "",
        is_promoted=settings.role is not None and abs(time.time() - settings.role.since) < PROMOTED_S,
        set_back=lambda node, lost: withhold(settings.root, node, lost, say),
    )
    if leads is not None:
        election = ElectionPort(settings.root)
        source.confirming = ConfirmingChoice(
            source.candidates,
            lambda name, position: election.set_confirming(term, name, position, SET_S),
            leads,
            synchronous=ha.synchronous,
            limit_s=ha.synchronous_timeout_s,
            answered=source.answered,
            say=say,
        )
    return source


def withhold(root: str, node: str, lost: int, say: Callable[[str, str], None]) -> None:
    """This master's disk was set back: it leads no more until its operator has decided what counts. Without an
    election; there etcd has what the last leader had."""
    try:
        update_role(root, lambda before: withheld(before, node, lost))
    except (OSError, RoleDamaged) as failure:
        say(
            "ERROR",
            f"This master's disk was set back ({lost} units that {node} has are not there). It goes on: {failure}",
        )
        return
    os.kill(os.getppid(), ROLE_WRITTEN)

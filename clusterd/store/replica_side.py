"""What a node's role has of the replica: a master gives replicas, a candidate keeps one."""

from collections.abc import Callable

from clusterd.settings import Settings
from clusterd.store.confirming import SET_S, ConfirmingChoice
from clusterd.store.replica_copy import ReplicaCopy
from clusterd.store.replica_source import ReplicaSource
from clusterd.wdb.election import ElectionPort


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
    source = ReplicaSource(settings.root, synchronous=ha.synchronous, limit_s=ha.synchronous_timeout_s, say=say)
    if leads is not None:
        election, term = ElectionPort(settings.root), 0 if settings.role is None else settings.role.led
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

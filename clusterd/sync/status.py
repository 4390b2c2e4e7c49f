"""What `clusterd status` learns from sync: plain values under stable keys (docs/operations.md lists them)."""

import time
from collections.abc import Iterable
from typing import Any

from clusterd.sync.context import Context
from clusterd.sync.integrity_master import IntegrityMaster
from clusterd.sync.integrity_worker import IntegrityWorker
from clusterd.sync.manifests import ManifestKeeper
from clusterd.sync.peer import Peer


def node_status(
    context: Context, peers: Iterable[Peer], side: IntegrityMaster | IntegrityWorker, net_serving: str, problem: str
) -> dict[str, Any]:
    """The whole answer of the local command `status`. Times are wall-clock seconds, sizes bytes."""
    cluster = context.settings.cluster
    return {
        "problem": problem,
        "node": {
            "name": cluster.node_name,
            "type": cluster.node_type,
            "cluster": cluster.name,
            "version": context.settings.clusterd.version,
            "serving": net_serving,
        },
        "peers": [peer_status(peer) for peer in peers if peer.info.kind != "local"],
        "manifest": manifest_status(context.manifests),
        "syncs": [
            {
                "peer": progress.peer,
                "kind": progress.kind,
                "step": progress.step,
                "started_at": progress.started_at,
                "done_bytes": progress.done_bytes,
                "total_bytes": progress.total_bytes,
            }
            for progress in context.progress
        ],
        "results": side_results(side),
        "slabs_free": context.slabs.free,
        "answered_at": time.time(),
    }


def peer_status(peer: Peer) -> dict[str, Any]:
    return {
        "name": peer.name,
        "kind": peer.info.kind,
        "address": peer.info.address,
        "version": peer.info.version,
        "program": peer.program or "unknown",
        "connected_at": peer.info.connected_at,
        "keepalive_at": peer.keepalive_at or None,
    }


def manifest_status(manifests: ManifestKeeper) -> dict[str, Any]:
    scan = manifests.current
    if scan is None:
        return {"state": "scanning" if manifests.scanning else "none", "failure": manifests.failure or None}
    return {
        "state": "scanning" if manifests.scanning else "ready",
        "failure": manifests.failure or None,
        "root_digest": scan.root_digest,
        "files": scan.files,
        "total_bytes": scan.total_bytes,
        "last_scan": {
            "ended_at": scan.ended_at,
            "duration_s": scan.duration_s,
            "hashed": scan.hashed,
            "reused": scan.reused,
            "hashed_bytes": scan.hashed_bytes,
            "problems": {note.path: note.why for note in scan.notes if note.why},
        },
    }


def side_results(side: IntegrityMaster | IntegrityWorker) -> dict[str, Any]:
    """A master: last result per worker. A worker: its own under its master's name."""
    if isinstance(side, IntegrityWorker):
        last = side.last
        return {
            "self": {
                "result": last.result or None,
                "detail": last.detail or None,
                "checked_at": last.checked_at,
                "synced_at": last.synced_at,
                "created": last.created,
                "updated": last.updated,
                "deleted": last.deleted,
                "problems": last.problems,
            }
        }
    return {
        name: {
            "result": record.result or None,
            "detail": record.detail or None,
            "checked_at": record.check_ended_at,
            "synced_at": record.sync_ended_at,
            "created": record.missing,
            "updated": record.shared,
            "deleted": record.extra,
            "behind": record.behind,
            "problems": record.problems,
        }
        for name, record in side.records.items()
    }
